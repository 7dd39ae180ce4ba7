"""Fresh answers beside a server: earned, exact after every kill, forgotten with their turns, never without trust."""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from sqlalchemy import select

from talktune.config import Config, FreshConfig, LiveConfig, ModelConfig
from talktune.learner.asker import Asker
from talktune.learner.readings import reading_from_bytes
from talktune.live.candidates import brakes
from talktune.store import schema
from talktune.store.readings import kept_readings
from talktune.types import Label, Turn

from .conftest import WIDE, World, tiny_config
from .test_learn import adapter, killed, used

Make = Callable[..., World]
SHORT, LONG = 3, 9


def asked(config: Config, count: int = 4) -> Config:
    # Turns that wait are not learned from in larger updates here, however many they are.
    algorithm = replace(config.algorithm, max_staleness=100)
    fresh = FreshConfig(count, guided=1 if count > 1 else 0)
    return replace(config, algorithm=algorithm, fresh=fresh, gate=replace(WIDE, no_gate=True))


def short(turn: Turn) -> Label:
    """Likes short answers: what can be foretold from the answer alone."""
    assert turn.sampled is not None
    return 1 if len(turn.sampled.answer_ids) <= SHORT else -1


def talk(w: World, rounds: int) -> list[str]:
    """Four turns a round: two short answers, two long ones."""
    return [id for _ in range(rounds) for tokens in (SHORT, LONG) for id in w.talk(2, tokens=tokens)]


def talked(make: Make, rounds: int, likes: Callable[[Turn], Label] = short, **live: Any) -> World:
    w = make(asked, **live)
    w.worker.judge = type(w.worker.judge)(likes)
    talk(w, rounds)
    w.judge()
    return w


WANTED = "A short answer."


def say_what_was_wanted(w: World, ids: list[str]) -> None:
    for id in ids:
        assert w.store.add_feedback("ann", id, None, w.clock, WANTED)


def wanting(make: Make, rounds: int, **live: Any) -> World:
    w = make(asked, **live)
    w.worker.judge = type(w.worker.judge)(short)
    ids = talk(w, rounds)
    w.judge()
    say_what_was_wanted(w, ids[3::4])
    return w


def readings(w: World) -> list[tuple[Any, ...]]:
    r = schema.readings
    with w.store.reading() as c:
        return [tuple(row) for row in c.execute(select(r).order_by(r.c.update, r.c.place))]


def metrics(w: World) -> list[dict[str, float]]:
    u = schema.updates.c
    with w.store.reading() as c:
        return [json.loads(text) for text in c.execute(select(u.metrics).order_by(u.number)).scalars()]


def learn_all(w: World) -> None:
    while w.learn():
        pass


def test_a_user_who_can_be_foretold_is_learned_from_by_fresh_answers(world: Make) -> None:
    w = talked(world, 4)
    learn_all(w)
    found = metrics(w)
    assert [one["trust"] > 0 for one in found] == [False, False, True, True]
    assert found[0]["fresh_answers"] == 0
    assert "fresh_tokens" not in found[0]
    for one in found[2:]:
        assert one["fresh_answers"] == 16
        assert one["fresh_guided"] == 2  # of two disliked turns, one each
        assert 0 < one["fresh_learned"] <= 8
        assert one["fresh_tokens"] > 0
        assert one["gain"] > 0
    kept = readings(w)
    assert [(row[0], row[2]) for row in kept] == [(turn, update) for update, turn in used(w)]


def test_distillation_is_on_where_complaints_are_found_to_help_and_nowhere_else(world: Make) -> None:
    def auto(config: Config) -> Config:
        return replace(made := asked(config), algorithm=replace(made.algorithm, distill="auto"))

    w = world(auto)
    w.worker.judge = type(w.worker.judge)(short)
    talk(w, 4)
    w.judge()
    learn_all(w)
    found = metrics(w)
    assert [("complaints_help" in one) for one in found] == [True] * 4
    assert found[0]["complaints_help"] == 0.0  # nobody is trusted to say so yet
    for one in found:
        assert ("distill_tokens" in one) == (one["complaints_help"] == 1.0)


def test_the_fresh_term_alone_makes_a_version(world: Make) -> None:
    w = talked(world, 3)
    w.talk(4, tokens=LONG)
    w.judge()
    learn_all(w)
    last = metrics(w)[-1]
    assert "tokens" not in last
    assert last["fresh_tokens"] > 0
    assert len(w.learner.policies.versions()) == 4
    assert w.learner.policies.version(4).state == "published"


def test_the_brakes_look_at_fresh_answers_too(world: Make) -> None:
    w = talked(world, 3, brake_entropy=100.0)
    for number in (1, 2):
        assert w.learn()
        assert "fresh" not in w.learner.policies.lineages()[""][1]
        w.learner.policies.promote(number)
    assert w.learn()
    assert not w.learn()
    assert "entropy of the fresh answers is" in w.learner.trouble


def test_the_kl_of_fresh_answers_is_held_against_the_brake_where_there_are_any() -> None:
    old, new = {"kl_ref": 9.0}, {"kl_ref": 0.1, "fresh_kl_ref": 9.0}
    assert [len(brakes(metrics, LiveConfig())) for metrics in (old, new, old | {"fresh_kl_ref": 0.1})] == [1, 1, 0]


def test_without_trust_the_update_is_what_it_was(world: Make) -> None:
    found: list[World] = []
    for config in (lambda c: c, asked):
        w = world(config)
        w.talk(8)
        w.worker.judge = type(w.worker.judge)(lambda turn: 1 if int(turn.prompt[-1].content[-1]) % 2 else -1)
        w.judge()
        learn_all(w)
        found.append(w)
    today, fresh = found
    assert [one["trust"] for one in metrics(fresh)] == [0.0, 0.0]
    for number in (1, 2):
        a, b = adapter(today, number), adapter(fresh, number)
        assert all(torch.equal(a[name], b[name]) for name in a)
    clock = ("seconds", "tokens_per_second")
    for was, now in zip(metrics(today), metrics(fresh), strict=True):
        assert {k: v for k, v in was.items() if k not in clock}.items() <= now.items()


@pytest.fixture(scope="module")
def undisturbed(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("undisturbed")
    w = World(asked(tiny_config(tiny_model, folder / "policies")), folder / "store.db", short)
    ids = talk(w, 3)
    w.judge()
    say_what_was_wanted(w, ids[3::4])
    learn_all(w)
    found = used(w), readings(w), metrics(w), [adapter(w, number) for number in (1, 2, 3)]
    w.close()
    return found


# Each step again and again, so much further each time: in the fits, in the sampling, in the reading, in the update.
@pytest.mark.parametrize("stop", [37, 61])
def test_killed_and_started_again_it_ends_with_the_same_bytes(world: Make, undisturbed: Any, stop: int) -> None:
    w = wanting(world, 3)
    at, kills = 0, 0
    while len(used(w)) < 12:
        if not killed(w, at := at + stop):
            at = 0
            continue
        again = World(w.config, w.store.engine.url.database, short)  # type: ignore[arg-type]
        w.close()
        w, kills = again, kills + 1
        w.learner._owner = f"other:{at}"
        with w.store.engine.begin() as c:
            c.execute(schema.leases.delete())
    learn_all(w)
    turns, kept, rows, weights = undisturbed
    assert kills > 2
    assert rows[2]["fresh_tokens"] > 0
    assert rows[2]["wanted_tokens"] > 0
    assert used(w) == turns
    assert readings(w) == kept
    clock = ("seconds", "tokens_per_second")
    for was, now in zip(rows, metrics(w), strict=True):
        assert {k: v for k, v in was.items() if k not in clock} == {k: v for k, v in now.items() if k not in clock}
    for number, a in enumerate(weights, 1):
        b = adapter(w, number)
        assert all(torch.equal(a[name], b[name]) for name in a)
    w.close()


def test_forgetting_takes_the_readings_along(world: Make) -> None:
    w = talked(world, 2)
    learn_all(w)
    first = readings(w)[0][0]
    w.store.forget(conversation=first.replace("t", "c"))
    assert first not in {row[0] for row in readings(w)}
    assert len(readings(w)) == 7
    w.store.forget(user="ann")
    assert readings(w) == []


def fitted(w: World, monkeypatch: pytest.MonkeyPatch) -> list[list[str | None]]:
    """What was wanted, at each fit."""
    seen: list[list[str | None]] = []
    learn = Asker.learn

    def look(self: Asker, found: Any, labels: Any, turns: Any = ()) -> Any:
        seen.append([turn.wanted for turn in turns])
        return learn(self, found, labels, turns)

    monkeypatch.setattr(Asker, "learn", look)
    return seen


def test_a_wanted_answer_is_shown_once_and_fitted_from_then_on(world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    w = wanting(world, 3)
    seen = fitted(w, monkeypatch)
    learn_all(w)
    assert seen == [[WANTED] * n for n in (1, 2, 3)]
    assert [one["wanted_answers"] for one in metrics(w)] == [1, 1, 1]
    assert all(one["wanted_tokens"] > 3 for one in metrics(w))
    talk(w, 1)
    w.judge()
    first = readings(w)[3][0]
    w.store.add_feedback("ann", first, None, 5000.0, "Another one.")
    w.store.forget(conversation=readings(w)[7][0].replace("t", "c"))
    learn_all(w)
    assert seen[-1] == ["Another one.", WANTED], "as they are now, without what was forgotten"
    assert "wanted_answers" not in metrics(w)[-1]


def test_shuffled_rewards_want_nothing(world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    w = wanting(world, 1, shuffle_rewards=True)
    seen = fitted(w, monkeypatch)
    learn_all(w)
    assert seen == [[]]
    assert "wanted_answers" not in metrics(w)[0]


def test_what_was_wanted_makes_a_version_where_all_was_disliked(world: Make) -> None:
    w = world()
    w.worker.judge = type(w.worker.judge)(lambda _: -1)
    ids = w.talk(4)
    say_what_was_wanted(w, ids[:1])
    w.judge()
    learn_all(w)
    assert "tokens" not in metrics(w)[0]
    assert w.learner.policies.version(1).state == "published"


def test_feedback_changes_what_is_fitted(world: Make) -> None:
    w = talked(world, 4)
    learn_all(w)
    [reader] = {row[4] for row in readings(w)}
    before = kept_readings(w.store, "", reader)
    assert [one.reward for one in before] == [1, 1, -1, -1] * 4
    w.store.add_feedback("ann", before[0].turn, -0.9, 2000.0)
    after = kept_readings(w.store, "", reader)
    assert [one.reward for one in after] == [-0.9, 1, -1, -1, *[1, 1, -1, -1] * 3]
    assert [one.body for one in after] == [one.body for one in before]
    fit = [
        w.learner.candidates._fresh._asker.learn(  # type: ignore[union-attr]
            [reading_from_bytes(one.body) for one in kept], [one.reward for one in kept]
        )
        for kept in (before, after)
    ]
    assert fit[1].trust < fit[0].trust


def test_shuffled_rewards_are_what_the_preference_model_sees(world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[float]] = []
    learn = Asker.learn

    def look(self: Asker, found: Any, labels: Any, turns: Any) -> Any:
        seen.append(list(labels))
        return learn(self, found, labels, turns)

    monkeypatch.setattr(Asker, "learn", look)
    w = talked(world, 3, shuffle_rewards=True)
    learn_all(w)
    assert len(seen) == 3
    for earlier, later in pairwise(seen):
        assert later[: len(earlier)] == earlier, "the same turns were dealt other rewards"
    assert all(sorted(seen[-1][i : i + 4]) == [-1, -1, 1, 1] for i in (0, 4, 8))
    assert seen[-1] != [1, 1, -1, -1] * 3


def test_only_the_latest_turns_are_kept(world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("talktune.live.fresh_answers.WINDOW", 6)
    w = talked(world, 3)
    learn_all(w)
    assert [row[0] for row in readings(w)] == [turn for _, turn in used(w)][-6:]


def test_turns_that_are_used_twice_are_read_once(world: Make) -> None:
    w = world(lambda c: replace(asked(c), train=replace(c.train, epochs=2)))
    w.talk(4)
    w.judge()
    learn_all(w)
    assert len(metrics(w)) == 2
    assert [row[2] for row in readings(w)] == [1] * 4


def test_another_model_does_not_look_at_old_readings(world: Make) -> None:
    w = talked(world, 2)
    assert w.learn()
    config = replace(w.config, model=ModelConfig(model="other", device="cpu", lora_rank=4))
    w.learner.candidates._fresh._reader = "1 other"  # type: ignore[union-attr]
    assert w.learn()
    assert config.model.model == "other"
    assert [row[4] == "1 other" for row in readings(w)] == [False] * 4 + [True] * 4
    assert metrics(w)[1]["trust"] == 0.0, "four turns prove nothing"


def test_a_model_without_layers_goes_without(
    world: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("talktune.learner.asker.decoder_layers", lambda _: None)
    w = talked(world, 2)
    learn_all(w)
    assert readings(w) == []
    assert len(w.learner.policies.versions()) == 2
    assert caplog.text.count("--fresh-answers is off") == 1
