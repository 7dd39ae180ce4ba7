"""What is said of learning: the band around a share, and how much is missing until the next update."""

from pathlib import Path
from typing import Any

import pytest

from talktune.config import Config, LiveConfig, LiveTrainConfig
from talktune.serve.keys import Caller
from talktune.serve.page.learned import UNCHANGED_SECONDS, Learned, band
from talktune.store.policies import Policies
from talktune.store.reactions import reactions
from talktune.store.rows import NewTurn
from talktune.store.store import Store
from talktune.types import Message


def talk(store: Store, user: str, count: int) -> None:
    """So many answers, each liked by the user."""
    for i in range(count):
        id = f"{user}-{i}"
        said = (Message("user", "Hi"),)
        store.add_turns(
            [NewTurn(id, user, f"c-{id}", None, id.encode(), said, Message("assistant", "Hello"), "e", float(i))]
        )
        assert store.add_feedback(user, id, 1.0, float(i))


def learned(store: Store, **live: Any) -> Learned:
    live = {"holdout": 0.0} | live
    return Learned(store, Config(train=LiveTrainConfig(batch_turns=8), live=LiveConfig(**live)))


def test_wilsons_interval() -> None:
    # Newcombe, Statistics in Medicine 17 (1998), table I: 81 of 263 and 0 of 20, method 3.
    assert band(81 / 263, 263) == pytest.approx({"low": 0.2553, "high": 0.3662}, abs=5e-5)
    assert band(0.0, 20) == pytest.approx({"low": 0.0, "high": 0.1611}, abs=5e-5)


def test_all_verdicts_are_read_again_where_one_came_and_not_all_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, now, reads = Store(tmp_path / "s.db"), 0.0, 0

    def slow(*args: Any) -> Any:
        nonlocal now, reads
        now, reads = now + 1.0, reads + 1
        return reactions(*args)

    monkeypatch.setattr("talktune.serve.page.learned.reactions", slow)
    ann = Caller("ann", False)
    said = Learned(store, Config(), lambda: now)
    talk(store, "ann", 3)
    assert [said.of(ann)["reactions"] for _ in range(2)] == [3, 3]
    now += 60
    assert (said.of(ann)["reactions"], reads) == (3, 1), "nothing was said since"
    assert store.add_feedback("ann", "ann-0", -1.0, 99.0)
    assert (said.of(ann)["disliked"], reads) == (1, 2)
    assert store.add_feedback("ann", "ann-1", -1.0, 100.0)
    assert (said.of(ann)["disliked"], reads) == (2, 3), "at once, though a busy machine took a second for three"
    monkeypatch.setattr("talktune.serve.page.learned.SECONDS_A_VERDICT", 10.0)
    assert store.add_feedback("ann", "ann-0", 1.0, 101.0)
    assert (said.of(ann)["disliked"], reads) == (1, 4)
    assert store.add_feedback("ann", "ann-1", 1.0, 102.0)
    now += 28
    assert (said.of(ann)["disliked"], reads) == (1, 4), "three were read 29 seconds ago"
    now += 1
    assert (said.of(ann)["disliked"], reads) == (0, 5)
    now += UNCHANGED_SECONDS
    assert (said.of(ann)["disliked"], reads) == (0, 6)
    store.close()


def test_what_is_missing_is_what_the_learner_waits_for(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.db")
    ann, admin = Caller("ann", False), Caller("local", True)
    assert learned(store).of(ann)["next_update"] == {
        "of": 8,
        "missing": 8,
        "waiting": 0,
        "held_out": 0,
        "stopped": None,
    }
    talk(store, "ann", 7)
    assert learned(store).of(ann)["next_update"]["missing"] == 1
    talk(store, "bob", 1)
    found = learned(store).of(ann)["next_update"]
    assert (found["waiting"], found["missing"]) == (8, 6)  # she may fill half of an update while others wait too
    assert learned(store, per_user=True).of(ann)["next_update"]["missing"] == 1
    assert learned(store, holdout=0.999).of(ann)["next_update"]["held_out"] == 8
    Policies(store).stop("", "KL is 4.00")
    assert learned(store).of(admin)["next_update"]["stopped"] == "KL is 4.00"
    assert (learned(store).of(admin)["reactions"], learned(store).of(ann)["reactions"]) == (8, 7)
    store.close()
