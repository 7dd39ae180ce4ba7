"""Update, gate, live: which turns, in which order, once; and what is left when it is killed in between."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from talktune.config import Config
from talktune.errors import UserError
from talktune.judge.function import CallJudge
from talktune.judge.worker import JudgeWorker
from talktune.live.exam import FACT_TOKENS
from talktune.policy.turnstile import Role
from talktune.store import schema
from talktune.store.learning import LEASE, LostLeaseError, quotas
from talktune.store.overview import overview
from talktune.store.policies import Policies
from talktune.store.queues import lease

from .conftest import World, tiny_config

Make = Callable[..., World]


def used(world: World) -> list[tuple[int, str]]:
    u = schema.update_turns.c
    with world.store.engine.connect() as c:
        return [(row[0], row[1]) for row in c.execute(select(u.update, u.turn).order_by(u.update, u.turn))]


def adapter(world: World, number: int) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(world.learner.policies.version(number).path / "adapter_model.safetensors")


def tracked(config: Config) -> Config:
    return replace(config, train=replace(config.train, track="tensorboard"))


@pytest.mark.filterwarnings("ignore")  # of tensorboard's own libraries
def test_an_update_takes_the_oldest_verdicts_once_goes_live_and_is_tracked(world: Make) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    w = world(tracked)
    ids = w.talk(10)
    w.judge()
    assert w.learn()
    assert w.learn()
    assert not w.learn(), "two are left, and four make an update"
    assert used(w) == [(1, id) for id in ids[:4]] + [(2, id) for id in ids[4:8]]
    versions = w.learner.policies.versions()
    assert [(v.number, v.parent, v.state) for v in versions] == [(1, None, "published"), (2, 1, "published")]
    live = w.learner.policies.live()
    assert live is not None
    assert live.number == 2
    assert versions[0].metrics["tokens"] > 0
    assert json.loads((live.path / "adapter_config.json").read_text())["r"] == 4
    weights = adapter(w, 1)
    assert any(value.abs().max() > 0 for name, value in weights.items() if "lora_B" in name), "nothing was learned"
    told = EventAccumulator(str(w.learner.live.policies / "tensorboard"))
    told.Reload()
    losses = [(event.step, event.value) for event in told.Scalars("loss")]
    assert losses == [(v.number, pytest.approx(v.metrics["loss"])) for v in versions]


def test_the_next_answers_come_from_the_version_that_is_live(world: Make) -> None:
    w = world()
    w.talk(4)
    w.judge()
    w.learn()
    w.talk(4)
    w.judge()
    w.learn()
    second = w.learner.policies.version(2)
    assert second.metrics["staleness"] == 0
    # As sampled by the engine with the adapter, and as the learner computes it: the same numbers.
    assert second.metrics["ratio_max"] < 1.001
    assert second.metrics["ratio_mean"] == pytest.approx(1.0, abs=1e-4)


def test_an_update_without_a_finite_gradient_is_not_taken(world: Make, caplog: pytest.LogCaptureFixture) -> None:
    w = world()
    ids = w.talk(4)
    w.judge()
    w.learner.weights.load("", None)
    next(iter(w.learner.weights.learner.trained.values())).data.fill_(float("inf"))
    assert w.learn()
    assert ids[0] in caplog.text
    assert "not finite" in caplog.text
    assert not w.learner.policies.versions()
    assert not w.learn()  # the turns have left
    w.learner.weights.changed()
    w.talk(4)
    w.judge()
    assert w.learn()
    assert w.learner.policies.version(1).state == "published"


def test_the_step_is_shorter_where_most_answers_are_liked(world: Make) -> None:
    rates: dict[int, float] = {}
    for liked in (1, 2, 3):
        w = world()
        likes = CallJudge(lambda turn, liked=liked: 1 if int(turn.conversation_id[-2:]) <= liked else -1)
        w.worker = JudgeWorker(w.store, likes, 3)
        w.talk(4)
        w.judge()
        w.learn()
        rates[liked] = w.learner.policies.version(1).metrics["learning_rate"] / w.config.train.learning_rate
    assert rates == {1: 1.0, 2: 1.0, 3: 0.5}


def test_a_candidate_whose_exam_fails_is_rejected_with_the_reason(world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    w = world()
    w.talk(4)
    w.judge()

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a probe too many")

    monkeypatch.setattr(w.learner.examiner, "examine", fail)
    for _ in range(2):
        with pytest.raises(RuntimeError):
            w.learn()
    assert w.learn()
    assert w.learner.policies.version(1).state == "rejected"
    assert w.learner.policies.version(1).reason == "its exam failed (RuntimeError)"
    assert not w.learn()


class KilledError(BaseException):
    """The process is gone."""


def killed(w: World, stop: int) -> bool:
    """Begin a step and leave it at a place between two layers; False when it ended before."""
    turnstile, count = w.host.engine.turnstile, iter(range(stop))
    pass_by = turnstile.pass_by

    def or_die(role: Role) -> None:
        if next(count, None) is None:
            raise KilledError
        pass_by(role)

    turnstile.pass_by = or_die  # type: ignore[method-assign]
    try:
        w.learn()
    except KilledError:
        return True
    finally:
        turnstile.pass_by = pass_by  # type: ignore[method-assign]
    return False


@pytest.fixture(scope="module")
def undisturbed(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a learner that nobody kills makes of eight turns: which turns are in which update, and its weights."""
    folder = tmp_path_factory.mktemp("undisturbed")
    w = World(tiny_config(tiny_model, folder / "policies"), folder / "store.db")
    w.talk(8)
    w.judge()
    while w.learn():
        pass
    found = used(w), [adapter(w, number) for number in (1, 2)]
    w.close()
    return found


# Each dies five places further on, so that together they die at nearly all.
@pytest.mark.parametrize("stop", [1, 2, 3, 5])
def test_killed_and_started_again_it_ends_with_the_same_weights(world: Make, undisturbed: Any, stop: int) -> None:
    broken = world()
    broken.talk(8)
    broken.judge()
    at, kills = stop, 0
    while killed(broken, at):
        # A process that is gone takes its model with it: what goes on is a new one over the same store.
        again = World(broken.config, broken.store.engine.url.database)  # type: ignore[arg-type]
        broken.close()
        broken, at, kills = again, at + 5, kills + 1
        broken.learner._owner = f"other:{at}"
        with broken.store.engine.begin() as c:
            c.execute(schema.leases.delete())
    while broken.learn():
        pass
    broken.close()
    assert kills
    turns, weights = undisturbed
    assert used(broken) == turns
    for number, a in enumerate(weights, 1):
        b = adapter(broken, number)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_rejected_version_never_serves_and_learning_goes_on_from_the_live_one(world: Make) -> None:
    w = world(lambda c: replace(c, gate=replace(c.gate, gate_kl=-1.0)))
    w.talk(8)
    w.judge()
    w.learn()
    w.learn()
    versions = w.learner.policies.versions()
    assert [(v.state, v.parent) for v in versions] == [("rejected", None), ("rejected", None)]
    assert all("KL to the base model" in v.reason for v in versions)
    assert w.learner.policies.live() is None
    assert versions[1].metrics["ratio_max"] < 1.001, "the second update did not begin from the base model"


def test_rollback_and_promote(world: Make) -> None:
    w = world()
    w.talk(12)
    w.judge()
    w.learn()
    w.learn()
    policies = Policies(w.store)
    back = policies.rollback()
    assert back is not None
    assert back.number == 1
    w.learn()
    assert [(v.number, v.parent) for v in policies.versions()] == [(1, None), (2, 1), (3, 1)]
    assert policies.promote(2).number == 2
    assert policies.rollback().number == 1  # type: ignore[union-attr]
    assert policies.rollback() is None
    with pytest.raises(UserError, match="nothing to go back from"):
        policies.rollback()
    with pytest.raises(UserError, match="There is no version 9"):
        policies.promote(9)


def test_a_candidate_whose_parent_was_rolled_back_does_not_go_live(world: Make) -> None:
    w = world()
    w.talk(8)
    w.judge()
    w.learn()
    examine = w.learner.examiner.examine

    def meanwhile(*args: Any, **more: Any) -> Any:
        Policies(w.store).rollback()
        return examine(*args, **more)

    w.learner.examiner.examine = meanwhile  # type: ignore[method-assign]
    w.learn()
    assert w.learner.policies.version(2).state == "rejected"
    assert "not live any more" in w.learner.policies.version(2).reason
    assert w.learner.policies.live() is None


def test_one_user_fills_no_more_than_their_share(world: Make) -> None:
    w = world()
    hostile = w.talk(8, "eve")
    others = w.talk(3, "ann")
    w.judge()
    assert w.learn()
    assert used(w) == [(1, id) for id in sorted(hostile[:2] + others[:2])]
    assert not w.learn(), "the hostile user alone must not make an update"


def test_a_user_who_is_alone_by_now_is_everybody(world: Make) -> None:
    w = world()
    w.talk(1, "ann")
    w.talk(1, "eve")
    w.judge()
    w.learner.learning.drop(dict.fromkeys(["t00001", "t00002"], "old"))
    w.talk(9, "ann")
    w.judge()
    assert w.learn(), "a user who said something long ago must not keep another from being learned from"


def test_what_is_missing_until_the_next_update_is_said(world: Make) -> None:
    w = world(holdout=0.3)
    assert not w.learn()
    assert w.learner.trouble == "0 of 4 verdicts until the next update"
    w.talk(3, "ann")
    w.talk(8, "eve")
    w.judge()
    while w.learn():
        pass
    held = sum(one.held_out for one in w.learner.learning.waiting().values())
    assert held
    assert f"of 4 verdicts until the next update, {held} more are held out" in w.learner.trouble
    w = world()
    w.talk(9, "eve")
    w.talk(1, "ann")
    w.judge()
    assert not w.learn()
    assert w.learner.trouble.startswith("2 of 4 verdicts until the next update; 9 of the 10 that wait are from eve,")
    assert "are from eve, who may fill 50% of an update while others wait too (--user-share)" in w.learner.trouble
    begins = datetime.fromtimestamp(min(one.since for one in w.learner.learning.waiting().values()) + 1800)
    assert f"; with fewer it begins at {begins:%H:%M}, 30 minutes after the oldest" in w.learner.trouble


def test_with_versions_of_their_own_each_user_hears_what_is_missing(world: Make) -> None:
    w = world(per_user=True)
    assert not w.learn()
    assert w.learner.trouble == "0 of 4 verdicts until the next update"
    users = [f"user{i}" for i in range(7)]
    w.talk(7, *users)
    w.talk(2, "user3")
    w.judge()
    assert not w.learn()
    said = w.learner.trouble.split("; ")
    assert said[0] == "user3: 3 of 4 verdicts until the next update"
    assert said[-1] == "2 more users are further from theirs"
    assert sum("1 of 4 verdicts" in one for one in said) == 4


@given(
    st.dictionaries(st.sampled_from("abcde"), st.integers(1, 30), min_size=1),
    st.integers(1, 20),
    st.floats(0.1, 1.0),
)
def test_nobody_has_more_than_their_share(counts: dict[str, int], n: int, share: float) -> None:
    found = quotas(counts, n, share)
    taken = min(n, sum(found.values()))
    assert all(0 <= found[user] <= counts[user] for user in counts)
    if len(counts) > 1 and n * share >= 1:
        assert all(number <= share * taken + 1e-9 for number in found.values())
    else:
        assert taken == min(n, sum(counts.values()))


def test_nor_when_the_timer_is_up(world: Make) -> None:
    w = world(timer_minutes=1e-9)
    w.talk(6, "eve")
    w.judge()
    assert w.learn(), "alone on a server, one user is everybody"
    w.talk(1, "ann")
    hostile = w.talk(4, "eve")
    w.judge()
    assert w.learn()
    second = [id for update, id in used(w) if update == 2]
    assert len(second) == 2
    assert len({*second} & {*hostile, "t00005", "t00006"}) == 1


def test_everyone_gets_an_adapter_of_their_own(world: Make) -> None:
    w = world(per_user=True)
    w.talk(4, "ann")
    w.talk(5, "bob")
    w.judge()
    while w.learn():
        pass
    policies = w.learner.policies
    assert {v.lineage: (v.number, v.parent) for v in policies.versions()} == {"ann": (1, None), "bob": (2, None)}
    live = {user: policies.live(user) for user in ("ann", "bob", "eve")}
    assert [live["ann"] and live["ann"].number, live["bob"] and live["bob"].number, live["eve"]] == [1, 2, None]
    assert policies.live() is None
    w.talk(4, "ann")
    w.judge()
    w.learn()
    third = policies.version(3)
    assert (third.lineage, third.parent) == ("ann", 1)
    assert third.metrics["ratio_max"] < 1.001, "ann's second update did not begin from ann's first"


@pytest.mark.parametrize("times", [1, 4])
def test_an_update_takes_more_or_stale_turns_are_left_out_and_counted(
    world: Make, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    monkeypatch.setattr("talktune.live.batches.MOST_TIMES", times)
    w = world(lambda c: replace(c, algorithm=replace(c.algorithm, max_staleness=1)))
    w.talk(12)
    w.judge()
    while w.learn():
        pass
    # With four at a time the third update begins two versions after all of these were answered.
    assert [update for update, _ in used(w)] == ([1] * 12 if times == 4 else [1] * 4 + [2] * 4)
    assert w.learner.learning.waiting() == {}
    assert overview(w.store)["dropped"] == ({} if times == 4 else {"more than 1 versions old": 4})


def test_without_variance_nothing_is_learned_and_no_version_is_made(world: Make) -> None:
    w = world()
    w.talk(4)
    w.worker.judge = type("All", (), {"name": "all", "vote": lambda _s, asks: [_good() for _ in asks]})()
    w.judge()
    assert w.learn()
    assert [update for update, _ in used(w)] == [1] * 4
    assert w.learner.policies.versions() == []


def _good() -> Any:
    from talktune.types import Vote

    return Vote(1)


def test_a_brake_stops_learning_until_a_person_decides(world: Make) -> None:
    w = world(brake_entropy=100.0)
    w.talk(8)
    w.judge()
    assert w.learn()
    assert not w.learn()
    assert "entropy" in w.learner.trouble
    Policies(w.store).promote(1)
    assert w.learn()


def test_only_one_learner_at_a_time(world: Make) -> None:
    w = world()
    w.talk(4)
    w.judge()
    step = w.learner.weights.learner.step

    def while_another_begins(*samples: Any) -> Any:
        with w.store.engine.begin() as c:
            c.execute(schema.leases.update().values(owner="elsewhere:1", until=1e12))
        return step(*samples)

    w.learner.weights.learner.step = while_another_begins  # type: ignore[method-assign]
    with pytest.raises(LostLeaseError):
        w.learn()
    with pytest.raises(LostLeaseError):
        w.learn()
    assert used(w) == []


def twice(config: Config) -> Config:
    return replace(config, train=replace(config.train, epochs=2))


@pytest.mark.parametrize("again", [False, True], ids=["it lost the lease", "it has the lease again"])
def test_a_learner_that_was_suspended_leaves_what_another_wrote(world: Make, again: bool) -> None:
    w = world(twice)
    w.talk(4)
    w.judge()
    other = World(w.config, w.store.engine.url.database)  # type: ignore[arg-type]
    other.learner._owner = "elsewhere:1"
    folder, write = w.learner.weights.folder, w.learner.weights.write
    left: dict[Path, bytes] = {}

    def files() -> dict[Path, bytes]:
        return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def forget_lease() -> None:
        with w.store.engine.begin() as c:
            c.execute(schema.leases.delete())

    def after_a_long_sleep(*args: Any) -> Path:
        forget_lease()
        assert other.learn()
        left.update(files())
        if again:
            forget_lease()
            assert lease(w.store, LEASE, w.learner._owner)
        for parameter in w.learner.weights.learner.trained.values():
            parameter.data += 1
        return write(*args)

    w.learner.weights.write = after_a_long_sleep  # type: ignore[method-assign]
    with pytest.raises(LostLeaseError):
        w.learn()
    other.close()
    assert {str(path.parts[0]) for path in left} == {"policy-000001", "checkpoints"}
    assert {path: body for path, body in files().items() if path in left} == left
    assert [one.number for one in w.learner.policies.versions()] == [1]
    w.learner.weights.write = write  # type: ignore[method-assign]
    forget_lease()
    assert w.learn()
    assert not list(folder.glob(".*")), "what was written for nothing is gone"


def test_a_learner_that_wakes_up_leaves_what_another_is_writing(world: Make) -> None:
    """The second has written its version, and not yet placed it, when the first goes on with its own."""
    w = world()
    w.talk(4)
    w.judge()
    other = World(w.config, w.store.engine.url.database)  # type: ignore[arg-type]
    other.learner._owner = "elsewhere:1"
    folder, write, place = w.learner.weights.folder, w.learner.weights.write, other.learner.weights.place
    (folder / ".new-long-gone-7").mkdir()

    def after_a_long_sleep(*args: Any) -> Path:
        def while_the_first_writes(written: Path, number: int) -> None:
            mine = write(*args)
            assert {path.name for path in folder.glob(".new-*")} == {mine.name, written.name}
            place(written, number)

        other.learner.weights.place = while_the_first_writes  # type: ignore[method-assign]
        with w.store.engine.begin() as c:
            c.execute(schema.leases.delete())
        assert other.learn()
        return folder / "nothing"

    w.learner.weights.write = after_a_long_sleep  # type: ignore[method-assign]
    with pytest.raises(LostLeaseError):
        w.learn()
    other.close()
    assert [one.number for one in w.learner.policies.versions()] == [1]
    assert (folder / "policy-000001" / "adapter_model.safetensors").is_file()


@pytest.mark.filterwarnings("ignore")
def test_who_waits_for_the_lease_begins_no_run_of_a_tracker(world: Make) -> None:
    w = world(tracked)
    w.talk(4)
    w.judge()
    with w.store.engine.begin() as c:
        c.execute(schema.leases.insert().values(name=LEASE, owner="elsewhere:1", until=1e12))
    with pytest.raises(LostLeaseError):
        w.learn()
    tensorboard = w.learner.live.policies / "tensorboard"
    assert not tensorboard.exists()
    with w.store.engine.begin() as c:
        c.execute(schema.leases.delete())
    assert w.learn()
    assert list(tensorboard.iterdir())
    w.learner.track.close()


def test_held_out_conversations_are_not_trained_on(world: Make) -> None:
    w = world(holdout=0.5)
    ids = w.talk(24)
    w.judge()
    while w.learn():
        pass
    held = {one.id for one in w.learner.learning.held_out(["ann"], 1e12, 100)}
    trained = {id for _, id in used(w)}
    assert held
    assert trained
    assert not held & trained
    assert held | trained <= set(ids)
    assert "preference" in w.learner.policies.versions()[0].measures


def test_the_gate_finds_the_same_where_samples_do_not_share_a_pass(world: Make) -> None:
    def gate(no_packing: bool) -> Any:
        w = world(lambda c: replace(c, train=replace(c.train, no_packing=no_packing)), holdout=0.5)
        w.talk(24)
        w.judge()
        assert w.learn()
        return w.learner.policies.versions()[0].measures

    apart, packed = gate(True), gate(False)
    assert packed["candidate"]["kl"] > 0
    assert apart["candidate"]["kl"] == pytest.approx(packed["candidate"]["kl"], rel=1e-3)
    assert apart["preference"] == pytest.approx(packed["preference"], rel=1e-3)


def test_fresh_answers_to_each_prompt(world: Make) -> None:
    def grouped(c: Config) -> Config:
        return replace(c, algorithm=replace(c.algorithm, group="prompt"))

    w = world(grouped, answers=3)
    w.talk(4)
    w.judge()
    assert w.learn()
    assert len(used(w)) == 4
    alone = world()
    alone.talk(4)
    alone.judge()
    alone.learn()
    metrics = w.learner.policies.version(1).metrics
    assert metrics["tokens"] > alone.learner.policies.version(1).metrics["tokens"]
    assert metrics["ratio_max"] < 1.001


def test_each_fact_is_held_against_its_own_words(world: Make, tmp_path: Any) -> None:
    lines = [{"prompt": "x" * 2000, "answer": "long"}, *[{"prompt": "A?", "answer": "a"}] * 2, {"prompt": "How?"}]
    lines.append({"prompt": "B?", "answer": "b"})
    path = tmp_path / "probes.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    examiner = world(lambda c: replace(c, gate=replace(c.gate, probes=path))).learner.examiner
    asked = examiner._asked(examiner._facts)
    assert [(probe.prompt[0].content, probe.accepted) for probe in asked.values()] == [("A?", ("a",)), ("B?", ("b",))]


def test_the_gate_asks_open_probes_and_facts_in_one_go(world: Make, tmp_path: Any) -> None:
    lines: list[dict[str, str]] = [{"prompt": "A?", "answer": "a"}, {"prompt": "How?"}, {"prompt": "A?"}]
    path = tmp_path / "probes.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    w = world(lambda c: replace(c, gate=replace(c.gate, probes=path, probe_tokens=5)))
    examiner = w.learner.examiner
    facts = examiner._asked(examiner._facts)
    opened = [ids for ids in examiner._asked(examiner._open) if ids not in facts]
    open_answer, fact_answer = examiner._answers(None, facts, opened)
    assert (open_answer.prompt_ids, fact_answer.prompt_ids) == (*opened, *facts)
    assert len(open_answer.answer_ids) <= 5 < FACT_TOKENS
    assert len(fact_answer.answer_ids) == FACT_TOKENS or fact_answer.answer_ids[-1] in w.host.end_ids
    measures = examiner._measure(None, facts, opened, w.learner._load)
    assert measures.ended == tuple(one.answer_ids[-1] in w.host.end_ids for one in (open_answer, fact_answer))


@pytest.mark.parametrize("shuffled", [False, True])
def test_disliked_turns_are_learned_from_by_their_complaints(world: Make, shuffled: bool) -> None:
    def weighed(config: Config) -> Config:
        return replace(config, algorithm=replace(config.algorithm, distill=0.5))

    w = world(weighed, shuffle_rewards=shuffled)
    w.talk(4, reaction=lambda user, question, answer: "No!")
    w.judge()
    assert w.learn()
    metrics = w.learner.policies.version(1).metrics
    assert ("distill_tokens" in metrics) != shuffled, "rewards dealt anew: nothing can be learned"
    assert metrics["tokens"] > metrics.get("distill_tokens", 0)
