"""The protocol of claims and leases: learners and judges that pause, die and come back, in whatever order.

Each machine has a clock of its own, which is wrong; the database's is the model's.
"""

from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import delete, insert, select

from talktune.errors import UserError
from talktune.store import schema
from talktune.store.learning import LEASE, Learning, LostLeaseError, NewVersion
from talktune.store.policies import EVERYBODY, Policies
from talktune.store.queues import CLAIM_SECONDS, RENEW_SECONDS, Judging, lease
from talktune.store.rows import NewTurn
from talktune.store.store import Store
from talktune.types import Message, Verdict, Vote

LEARNERS, JUDGES = ("north:1", "south:1"), ("east:1", "west:1")
SKEW = {"north:1": -3600.0, "south:1": 7200.0, "east:1": 0.5, "west:1": 86400.0}
numbers = st.integers(0, 11)


class Protocol(RuleBasedStateMachine):
    """Two learners and two judges on one store; `store` is set by the test."""

    store: Store

    @initialize()
    def begin(self) -> None:
        with self.store.engine.begin() as c:
            for table in reversed(schema.metadata.sorted_tables):
                if table is not schema.steps:
                    c.execute(delete(table))
        self.now = 1e6
        self.store.now = lambda _: self.now  # type: ignore[method-assign]
        self.learning, self.policies = Learning(self.store), Policies(self.store)
        self.judging = {name: Judging(self.store, name) for name in JUDGES}
        self.said = 0
        self.at_work: dict[str, float] = {}
        """Learners that have had the lease and are at work, with their last renewal."""
        self.batch: dict[str, tuple[int | None, list[str]]] = {}
        """What a learner makes its update of: the live version, and the turns."""
        self.exam: dict[str, int] = {}
        self.claims: dict[str, dict[str, float]] = {name: {} for name in JUDGES}
        """Of each judge, the turns that it claimed, with the last renewal."""
        self.whose: dict[str, str] = {}
        """The judge that has each turn, or had it last."""
        self.learned: list[str] = []
        self.rewards: dict[str, float] = {}
        self.states: dict[int, str] = {}
        self.live: int | None = None

    def clock(self, name: str) -> float:
        return self.now + SKEW[name]

    # Three rules, each of which does many things: more of them would not all be chosen in one run.

    @rule(what=st.sampled_from(["talk", "judged", "moment", "renew", "asleep", "awake", "back", "promote"]), n=numbers)
    def the_world(self, what: str, n: int) -> None:
        if what == "talk":
            self.people_talk(1 + n % 3)
        elif what == "judged":
            self.turns_are_judged(JUDGES[n % 2], [-1 + n % 3])
        elif what == "back":
            self.somebody_rolls_back()
        elif what == "promote":
            self.somebody_promotes(n)
        else:
            seconds = {"moment": 1.0, "renew": RENEW_SECONDS}.get(what, CLAIM_SECONDS + 1)
            self.time_goes_by(seconds, what == "asleep")

    @rule(name=st.sampled_from(LEARNERS), what=st.sampled_from(["begin", "go on", "overtake", "die"]), odd=numbers)
    def a_learner(self, name: str, what: str, odd: int) -> None:
        if what == "die":
            self.is_killed(name)
        elif what == "overtake":
            self.overtakes(name)
        elif name in self.exam:
            self.decides(name, odd % 4 == 0)
        elif name in self.batch:
            self.commits(name, odd % 4 != 0)
        else:
            self.turns_are_judged(JUDGES[odd % 2], [1] * (odd % 3))
            self.begins(name)

    @rule(name=st.sampled_from(JUDGES), what=st.sampled_from(["claim", "settle", "down", "none", "die"]), n=numbers)
    def a_judge(self, name: str, what: str, n: int) -> None:
        if what == "die":
            self.is_killed(name)
        elif what == "claim":
            self.people_talk(n % 2)
            self.claims_turns(name, 1 + n % 2)
        elif what == "settle":
            self.settles(name, -1 + n % 3)
        else:
            self.has_no_verdict(name, what == "down")

    # The world.

    def people_talk(self, count: int) -> None:
        for _ in range(count):
            self.said += 1
            turns = [
                NewTurn(
                    id=f"t{self.said}{end}", user="ann", conversation=f"c{self.said}", parent=parent,
                    hash=f"{self.said}{end}".encode(), messages=(Message("user", f"say {end}"),),
                    answer=Message("assistant", "yes"), engine="e", created=float(self.said),
                )
                for end, parent in (("", None), ("+", f"t{self.said}"))
            ]  # fmt: skip
            self.store.add_turns(turns)

    def turns_are_judged(self, name: str, rewards: list[int]) -> None:
        """All at once, so that learners have something to do."""
        self.people_talk(len(rewards))
        self.claims_turns(name, 100)
        self.settles(name, rewards[0] if rewards else 0)

    def time_goes_by(self, seconds: float, asleep: bool) -> None:
        """Who is at work renews all the while, unless all of them are paused."""
        if asleep:
            self.now += seconds
            return
        end = self.now + seconds
        while self.now < end:
            self.now = min(self.now + RENEW_SECONDS, end)
            for name in LEARNERS:
                self.renew(name)
            for name in JUDGES:
                if self.claims[name]:
                    self.judging[name].renew(list(self.claims[name]))
                    self.claims[name] = dict.fromkeys(self.claims[name], self.now)

    def renew(self, name: str) -> None:
        if name in self.at_work and lease(self.store, LEASE, name):
            self.at_work[name] = self.now

    def is_killed(self, name: str) -> None:
        for known in (self.at_work, self.batch, self.exam):
            known.pop(name, None)
        if name in JUDGES:
            self.claims[name] = {}

    def somebody_rolls_back(self) -> None:
        if self.live is None:
            with pytest.raises(UserError):
                self.policies.rollback()
        else:
            self.policies.rollback()
            self.live = self.policies.parents()[self.live]

    def somebody_promotes(self, n: int) -> None:
        if not self.states:
            return
        number = sorted(self.states)[n % len(self.states)]
        if self.states[number] == "candidate":
            with pytest.raises(UserError):
                self.policies.promote(number)
        else:
            self.policies.promote(number)
            self.live = number

    # A learner: lease, turns, commit, decision.

    def begins(self, name: str) -> None:
        """With a candidate that somebody left, or with the next turns."""
        others = [one for one in self.at_work if one != name and self.now < self.at_work[one] + CLAIM_SECONDS]
        got = lease(self.store, LEASE, name)
        if others:
            assert not got, "two learners at once"
        if not got:
            self.at_work.pop(name, None)
            assert self.holder() != name
            return
        self.at_work[name] = self.now
        live, waiting = self.policies.live(), self.policies.candidates()
        if waiting:
            self.exam[name] = waiting[0].number
        elif turns := [one.id for one in self.learning.oldest({"ann": 2}, 2)]:
            self.batch[name] = (None if live is None else live.number, turns)

    def overtakes(self, name: str) -> None:
        """All machines were asleep, and this one wakes up first."""
        self.now += CLAIM_SECONDS + 1
        self.begins(name)
        assert self.holder() == name

    def commits(self, name: str, learned: bool) -> None:
        parent, turns = self.batch.pop(name)
        number = self.policies.last_number() + 1
        made = NewVersion(number, parent, EVERYBODY, f"/v/{number}") if learned else None
        waits = {one.id for one in self.learning.oldest({"ann": 1000}, 1000)}
        if self.holder() != name or not waits.issuperset(turns):
            with pytest.raises(LostLeaseError):
                self.learning.commit(name, made, {}, turns, 1, self.clock(name))
            return
        self.learning.commit(name, made, {}, turns, 1, self.clock(name))
        self.at_work[name] = self.now
        self.learned += turns
        if made is not None:
            self.states[number] = "candidate"

    def decides(self, name: str, bad: bool) -> None:
        """However late, and whoever has decided meanwhile."""
        number = self.exam.pop(name)
        parent = self.policies.parents()[number]
        if self.states[number] == "candidate":
            self.states[number] = "rejected" if bad or parent != self.live else "published"
            if self.states[number] == "published":
                self.live = number
        said = self.policies.decide(number, ["bad"] if bad else [], {})
        assert said == (self.live == number)

    # A judge: claims, verdicts.

    def claims_turns(self, name: str, count: int) -> None:
        others = [one for one in JUDGES if one != name]
        taken = {t for one in others for t, at in self.claims[one].items() if self.now < at + CLAIM_SECONDS}
        mine = {t for t, at in self.claims[name].items() if self.now < at + CLAIM_SECONDS}
        got = [one.id for one in self.judging[name].claim(count)]
        assert not taken.intersection(got), "two judges for one turn"
        assert not mine.intersection(got)
        self.claims[name] |= dict.fromkeys(got, self.now)
        self.whose |= dict.fromkeys(got, name)

    def settles(self, name: str, reward: int) -> None:
        """However late."""
        for turn in list(self.claims[name]):
            del self.claims[name][turn]
            vote = Verdict((Vote(reward, judge="j"),), float(reward))
            assert self.judging[name].settle(turn, vote, 0.1, self.clock(name)) == (self.whose.get(turn) == name)
            if self.whose.get(turn) == name:
                del self.whose[turn]
                assert turn not in self.rewards, "judged twice"
                self.rewards[turn] = float(reward)

    def has_no_verdict(self, name: str, down: bool) -> None:
        turns = list(self.claims[name])
        self.whose = {turn: judge for turn, judge in self.whose.items() if judge != name or turn not in turns}
        self.claims[name] = {}
        if down:
            self.judging[name].give_back(turns)
        else:
            for turn in turns:
                self.judging[name].postpone(turn)

    # What holds at every moment.

    def holder(self) -> str | None:
        with self.store.reading() as c:
            return c.execute(select(schema.leases.c.owner).where(schema.leases.c.name == LEASE)).scalar()

    @invariant()
    def nothing_is_lost_or_done_twice(self) -> None:
        with self.store.reading() as c:
            trained = list(c.execute(select(schema.update_turns.c.turn)).scalars())
            waits = set(c.execute(select(schema.learning.c.turn)).scalars())
            open_turns = set(c.execute(select(schema.judging.c.turn)).scalars())
            rewards = {row.turn: row.reward for row in c.execute(select(schema.verdicts))}
        assert sorted(trained) == sorted(self.learned)
        assert len(trained) == len(set(trained)), "learned from twice"
        assert rewards == self.rewards
        assert waits | set(trained) == set(rewards)
        assert not waits.intersection(trained)
        assert open_turns | set(rewards) == {f"t{i + 1}" for i in range(self.said)}

    @invariant()
    def a_decision_stands(self) -> None:
        assert {one.number: one.state for one in self.policies.versions()} == self.states
        live = self.policies.live()
        assert (None if live is None else live.number) == self.live
        assert live is None or live.state != "candidate"


def check(store: Store, runs: int) -> None:
    machine = type("ProtocolOf", (Protocol,), {"store": store})
    run_state_machine_as_test(
        machine,
        settings=settings(max_examples=runs, stateful_step_count=60, derandomize=runs < 100),
    )


@pytest.fixture
def in_memory() -> Iterator[Store]:
    made = Store("sqlite:///:memory:")
    yield made
    made.close()


def test_the_protocol_holds(in_memory: Store) -> None:
    check(in_memory, 40)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_protocol_holds_2000_times_on_sqlite(in_memory: Store) -> None:
    check(in_memory, 2000)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_protocol_holds_200_times_on_postgresql(postgresql: str) -> None:
    made = Store(postgresql)
    with made.engine.begin() as c:
        schema.metadata.drop_all(c)
    made.close()
    made = Store(postgresql)
    try:
        check(made, 200)
    finally:
        made.close()


def test_who_decides_late_changes_nothing(store: Store) -> None:
    """A gate that takes longer than its lease: the second word on a version that is live by now."""
    policies = Policies(store)
    row = {"number": 1, "parent": None, "lineage": EVERYBODY, "path": "/v/1", "state": "candidate"}
    with store.engine.begin() as c:
        c.execute(insert(schema.versions).values(**row, reason="", measures="{}", created=0.0))
    assert policies.decide(1, [], {})
    assert policies.decide(1, ["bad"], {})
    assert policies.version(1).state == "published"
    live = policies.live()
    assert live is not None
    assert live.number == 1
