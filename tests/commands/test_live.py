"""`talktune policies` and `talktune status` on a store in which something was learned."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from talktune.commands import policies, status
from talktune.errors import UserError
from talktune.store.learning import LEASE, Learning, NewVersion
from talktune.store.overview import overview
from talktune.store.policies import Policies
from talktune.store.queues import Judging, lease
from talktune.store.rows import NewTurn
from talktune.store.store import Store
from talktune.types import Message, Verdict, Vote


def _turn(number: int, at: float) -> NewTurn:
    return NewTurn(
        id=f"t{number}",
        user="ann",
        conversation=f"c{number}",
        parent=None,
        hash=f"t{number}".encode(),
        messages=(Message("user", "?"),),
        answer=Message("assistant", "!"),
        engine="host",
        created=at,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "store.db"
    store = Store(file)
    for i in range(4):
        turn = _turn(i, float(i))
        store.add_turns([turn])
        store.add_feedback("ann", turn.id, 1.0 if i % 2 else -1.0, float(i))
    learning, found = Learning(store), Policies(store)
    assert lease(store, LEASE, "me:0")
    for number, reasons in ((1, []), (2, ["facts: 3 of 20 that the base model knows, wanted 80%"])):
        made = NewVersion(number, number - 1 or None, "", f"/policies/policy-{number:06d}")
        turns = [f"t{2 * number - 2}", f"t{2 * number - 1}"]
        learning.commit("me:0", made, {"reward_mean": 0.25 * number, "kl_ref": 0.1}, turns, 1, 10.0)
        found.decide(number, reasons, {"candidate": {"facts": 3}})
    store.close()
    return file


def test_list_names_the_live_one_and_every_reason(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert policies.list_versions(store=str(path), as_json=True) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["state"], first["live"], first["parent"]) == ("published", True, None)
    assert (second["state"], second["live"], second["parent"]) == ("rejected", False, 1)
    assert second["reason"] == "facts: 3 of 20 that the base model knows, wanted 80%"
    assert policies.list_versions(store=str(path)) == 0
    shown = capsys.readouterr().out
    assert "live" in shown
    assert "rejected" in shown


def test_promote_and_rollback(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert policies.promote(2, store=str(path), note="It is kinder.") == 0
    assert "policy-000002 serves everybody" in capsys.readouterr().out
    assert policies.list_versions(store=str(path)) == 0
    assert "to policy-000002: It is kinder." in capsys.readouterr().err
    assert policies.rollback(store=str(path)) == 0
    assert "policy-000001 serves everybody" in capsys.readouterr().out
    assert policies.rollback(store=str(path)) == 0
    assert "the model as it was serves everybody" in capsys.readouterr().out
    with pytest.raises(UserError, match="nothing to go back from"):
        policies.rollback(store=str(path))
    with pytest.raises(UserError, match="--note has 501 letters"):
        policies.promote(2, store=str(path), note="x" * 501)
    with pytest.raises(UserError, match="There is no version 7"):
        policies.promote(7, store=str(path))


def test_show(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert policies.show(2, store=str(path)) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["metrics"] == {"reward_mean": 0.5, "kl_ref": 0.1}
    assert found["gate"] == {"candidate": {"facts": 3}}


def test_status(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status.status(store=str(path), as_json=True) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (found["turns"], found["feedback"], found["learned"], found["updates"]) == (4, 4, 4, 2)
    assert found["versions"] == {"candidate": 0, "published": 1, "rejected": 1}
    assert found["live"] == {"": 1}
    assert [update["reward_mean"] for update in found["last_updates"]] == [0.25, 0.5]
    assert status.status(store=str(path)) == 0
    shown = capsys.readouterr().out
    assert "live for everybody: version 1" in shown
    assert "facts: 3 of 20" in shown


def test_an_update_that_taught_nothing_is_named(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status.status(store=str(path))
    assert "made no version" not in capsys.readouterr().out
    store = Store(path)
    store.add_turns([_turn(9, 9.0)])
    store.add_feedback("ann", "t9", 1.0, 9.0)
    assert lease(store, LEASE, "me:0")
    Learning(store).commit("me:0", None, {"reward_mean": 1.0}, ["t9"], 1, 11.0)
    store.close()
    status.status(store=str(path))
    assert "the last update made no version" in capsys.readouterr().out


def test_a_brake_is_shown(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(path)
    Policies(store).stop("", "KL to the base model is 9.00, wanted at most 3.0")
    reason = "learning of everybody is stopped: KL to the base model is 9.00, wanted at most 3.0"
    store.tell("learner", f"{reason}; ann: 3 of 16 verdicts until the next update", time.time())
    store.close()
    status.status(store=str(path))
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.count(reason) == 1
    assert "`talktune policies promote` or `rollback` lets it go on" in shown
    assert "learner: ann: 3 of 16 verdicts until the next update" in shown
    policies.list_versions(store=str(path))
    assert "promote a version or roll back" in " ".join(capsys.readouterr().err.split())


def test_a_persons_word_is_what_counts(path: Path) -> None:
    store = Store(path)
    queue = Judging(store, "me:0")
    store.add_turns(
        [
            replace(_turn(8, 8.0), id="a"),
            replace(_turn(8, 9.0), id="b", parent="a", hash=b"b", messages=(Message("user", "no!"),)),
        ]
    )
    [claimed] = queue.claim(1)
    assert queue.settle(claimed.id, Verdict((Vote(-1),), -1.0), 0.0, 10.0)
    assert overview(store)["judged"] == {"-1": 1}
    assert store.add_feedback("ann", "a", 1.0, 11.0)
    assert overview(store)["judged"] == {"+1": 1}
    assert overview(store)["without_reaction"] == 1
    store.close()


def test_without_a_store(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no store"):
        status.status(store=str(tmp_path / "nothing.db"))
