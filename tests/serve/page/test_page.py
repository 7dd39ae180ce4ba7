"""The page's files and its routes: what they say, to whom, and that no user hears of another."""

import json
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import insert, update

from talktune.errors import UserError
from talktune.judge.evaluate import load_judge_lines
from talktune.judge.exchange import Exchange, JudgeLine
from talktune.serve.keys import load_keys
from talktune.serve.page.assets import FILES
from talktune.store import schema
from talktune.store.blobs import ids_to_bytes
from talktune.store.policies import Policies
from talktune.store.store import Store

from ..conftest import running_engine, serving

ROUTES = ("turns", "turns/x", "turns/x/change", "judge-lines", "learning", "versions", "events")
STATES = ("published", "rejected", "published", "candidate")


@dataclass
class Watched:
    """A server with two users and an admin, the store behind it, and the engine."""

    url: str
    store: Store
    engine: Any

    def get(self, user: str, path: str, **query: Any) -> Any:
        reply = httpx2.get(f"{self.url}/v1/{path}", params=query, headers=key(user))
        return reply.json() if reply.status_code == 200 else reply.status_code

    def post(self, user: str, path: str, body: Any = None) -> Any:
        reply = httpx2.post(f"{self.url}/v1/{path}", json=body or {}, headers=key(user))
        return reply.json() if reply.status_code == 200 else reply.status_code

    def say(self, user: str, *texts: str, **more: Any) -> list[str]:
        """A conversation; the ids of its answers."""
        ids: list[str] = []
        messages: list[Any] = []
        for text in texts:
            messages.append({"role": "user", "content": text})
            reply = self.post(user, "chat/completions", {"messages": messages} | more)
            messages.append(reply["choices"][0]["message"])
            ids.append(reply["id"])
        return ids


def key(user: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {user}-secret"}


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("page")
    (folder / "keys").write_text("ann ann-secret\nbob bob-secret\nboss boss-secret admin\n")
    store = Store(folder / "s.db")
    with store.engine.begin() as c:
        for number, state in enumerate(STATES, start=1):
            made = {"number": number, "parent": 1 if number == 3 else None, "path": f"/policies/{number}"}
            reason = "KL to the base model 2.00" if state == "rejected" else ""
            c.execute(insert(schema.versions).values(**made, state=state, reason=reason, measures="{}", created=0.0))
        made = {"number": 5, "path": "/policies/5", "lineage": "ann", "state": "published"}  # of --per-user once
        c.execute(insert(schema.versions).values(**made, reason="", measures="{}", created=0.0))
    for number in (3, 5):
        Policies(store).promote(number)
    options = ("--keys", str(folder / "keys"), "--grace", "60")
    with running_engine() as engine:
        engine.version = {"version": "0.14.0"}
        with serving(folder / "s.db", "--upstream", engine.url, *options) as server:
            yield Watched(server.url, store, engine)
            with httpx2.stream("GET", f"{server.url}/v1/events", headers=key("ann"), timeout=30) as listening:
                next(listening.iter_lines())
                server.process.send_signal(signal.SIGTERM)  # a page that is open does not keep a server from its end
                assert server.process.wait(30) == 0
    store.close()


def test_the_page_is_for_everybody_and_its_data_is_not(watched: Watched) -> None:
    for name in ("", *(f"page/{path.name}" for path in FILES.iterdir())):
        reply = httpx2.get(f"{watched.url}/{name}")
        assert reply.status_code == 200, name
        assert "default-src 'self'" in reply.headers["content-security-policy"]
        assert "unsafe" not in reply.headers["content-security-policy"]
        assert reply.headers["x-content-type-options"] == "nosniff"
    for route in ROUTES:
        assert httpx2.get(f"{watched.url}/v1/{route}").status_code == 401, route
    for name in ("page/..%2fkeys.py", "page/nothing.js", "page/__init__.py"):
        assert httpx2.get(f"{watched.url}/{name}").status_code == 404


def test_the_page_holds_no_script_and_names_files_that_are_there() -> None:
    files = {path.name: path.read_text() for path in FILES.iterdir()}
    page = files["index.html"]
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*\ssrc=)", page)
    for name, text in files.items():
        if name != "icon.svg":  # which names SVG's own namespace
            foreign = re.findall(r"(?:https?:)?//[a-z0-9][\w.-]+\.[a-z]+", text)
            assert foreign == [] or foreign == ["http://www.w3.org"], name
        for named in re.findall(r'"/page/([^"]+)"', text):
            assert named in files, (name, named)
        emoji = re.findall(r"[\U00010000-\U0010ffff]", text)  # which need a font that not every machine has
        assert emoji == [], name
    ids = set(re.findall(r'id="([^"]+)"', page))
    assert set(re.findall(r'for="([^"]+)"|aria-labelledby="([^"]+)"', page)) <= {(i, "") for i in ids} | {
        ("", i) for i in ids
    }
    for name, text in files.items():
        if name.endswith(".js"):  # `lost`, `back` and `note` are made when they are needed
            assert set(re.findall(r'\bby\("([^"]+)"\)', text)) <= ids | {"lost", "back", "note"}, name


def test_turns_are_listed_newest_first_to_their_user(watched: Watched) -> None:
    asked = [f"Question {i}" for i in range(5)]
    ids = watched.say("ann", *asked)
    watched.say("ann", "Generate a concise title for this conversation.")  # nobody's
    page = watched.get("ann", "turns", limit=3)
    assert [one["id"] for one in page["data"]] == ids[:1:-1]
    assert page["next"] == ids[2]
    rest = watched.get("ann", "turns", limit=3, before=page["next"])
    assert [one["id"] for one in rest["data"]] == [ids[1], ids[0]]
    assert rest["next"] is None
    first = rest["data"][1]
    assert (first["request"], first["answer"], first["reaction"]) == ("Question 0", "I am fine", "Question 1")
    assert (first["reward"], first["version"], first["feedback"]) == (None, None, None)
    assert page["data"][0]["reaction"] is None
    whole = watched.get("ann", f"turns/{ids[0]}")
    assert whole["tokens"] == []
    assert whole["request"] == "Question 0"
    for query in ({"limit": 0}, {"limit": "x"}, {"limit": 201}, {"bad": "yes"}):
        assert watched.get("ann", "turns", **query) == 400
    # Another user's are not there.
    assert watched.get("bob", "turns")["data"] == []
    assert watched.get("bob", "turns", before=ids[4])["data"] == []
    assert watched.get("bob", f"turns/{ids[0]}") == 404
    assert watched.get("boss", f"turns/{ids[0]}") == 404
    assert watched.post("bob", "feedback", {"completion_id": ids[0], "thumbs": "up"}) == 404


def test_a_person_overrules_the_judge_after_its_verdict_too(watched: Watched, tmp_path: Path) -> None:
    liked, disliked, _ = watched.say("bob", "One", "Two", "Three")
    with watched.store.engine.begin() as c:
        for id, reward in ((liked, 1.0), (disliked, -1.0)):
            c.execute(insert(schema.verdicts).values(turn=id, reward=reward, created=time.time()))
            vote = {"turn": id, "number": 0, "label": int(reward), "judge": "local", "reason": "", "created": 0.0}
            c.execute(insert(schema.votes).values(**vote, confidence=0.9))
        failed = {"label": None, "number": 1, "reason": "ConnectError: http://10.0.0.7/v1"}
        c.execute(insert(schema.votes).values(**(vote | failed)))
    for path in ("turns", f"turns/{disliked}", "conversations?format=jsonl"):
        told = httpx2.get(f"{watched.url}/v1/{path}", headers=key("bob"))
        assert (told.status_code, "10.0.0.7" in told.text) == (200, False), path
    assert [one["id"] for one in watched.get("bob", "turns", bad=1)["data"]] == [disliked]
    assert len(watched.get("bob", "turns", unscored=1)["data"]) == 1
    given = watched.post("bob", "feedback", {"completion_id": liked, "better": ""})
    assert (given["score"], given["better"]) == (None, None)  # nothing was said
    given = watched.post("bob", "feedback", {"completion_id": liked, "better": "What I wanted"})
    assert (given["score"], given["better"]) == (-1.0, "What I wanted")
    assert {one["id"] for one in watched.get("bob", "turns", bad=1)["data"]} == {liked, disliked}
    given = watched.post("bob", "feedback", {"completion_id": liked, "score": 0.5})
    assert (given["score"], given["better"]) == (0.5, "What I wanted")
    found = watched.get("bob", f"turns/{liked}")
    assert (found["reward"], found["feedback"]) == (0.5, {"score": 0.5, "better": "What I wanted"})
    assert [vote["label"] for vote in found["votes"]] == [1]
    exported = httpx2.get(f"{watched.url}/v1/judge-lines", headers=key("bob"))
    assert (exported.json()["label"], exported.json()["better"]) == (1, "What I wanted")
    assert watched.post("bob", "feedback", {"completion_id": liked, "better": ""})["better"] is None
    assert [one["id"] for one in watched.get("bob", "turns", corrected=1)["data"]] == [liked]
    lines = tmp_path / "lines.jsonl"
    lines.write_bytes(httpx2.get(f"{watched.url}/v1/judge-lines", headers=key("bob")).content)
    (line,) = load_judge_lines(lines)
    assert line == JudgeLine(Exchange("One", "I am fine", "user", "Two"), 1)
    assert "better" not in lines.read_text()
    for wrong in ({"better": 1}, {}):
        assert watched.post("bob", "feedback", {"completion_id": liked} | wrong) == 400


def test_what_was_learned_is_said_of_what_a_user_may_know(watched: Watched) -> None:
    before = watched.get("ann", "learning")
    for score in (1, -1):
        (id,) = watched.say("ann", f"Something {score}")
        watched.post("ann", "feedback", {"completion_id": id, "score": score})
    after = watched.get("ann", "learning")
    assert after["reactions"] == before["reactions"] + 2
    assert (after["liked"], after["disliked"]) == (before["liked"] + 1, before["disliked"] + 1)
    assert (after["now"], after["points"][-1]["share"]) == (0.0, 0.0)
    assert after["versions"] == {"published": 2, "rejected": 1, "candidate": 1}
    assert [mark["reason"] for mark in after["marks"] if mark["state"] == "rejected"] == ["KL to the base model 2.00"]
    assert (after["user"], after["admin"], after["live"], after["trust"]) == ("ann", False, "policy-000003", None)
    now, was = after["next_update"], before["next_update"]
    assert now["waiting"] + now["held_out"] == was["waiting"] + was["held_out"] + 2
    everybodys = watched.get("boss", "learning")
    assert everybodys["admin"]
    assert everybodys["reactions"] >= after["reactions"]
    watched.store.tell("learner", "16 verdicts are missing, ann has none", time.time())
    assert "trouble" in watched.get("boss", "learning")["roles"]["learner"]
    assert "trouble" not in watched.get("ann", "learning")["roles"]["learner"]


@pytest.mark.parametrize("limit", ["0", "0000000010000000", "000000001" + "9" * 20, "9" * 5000, "-1", "1.5"])
@pytest.mark.parametrize("path", ["turns", "conversations"])
def test_a_page_is_no_longer_than_it_may_be(watched: Watched, path: str, limit: str) -> None:
    assert watched.get("ann", path, limit=limit) == 400


def test_which_version_serves_is_an_admins_word(watched: Watched) -> None:
    listed = watched.get("ann", "versions")["data"]
    assert [(one["number"], one["state"], one["live"]) for one in listed] == [
        (4, "candidate", False), (3, "published", True), (2, "rejected", False), (1, "published", False)
    ]  # fmt: skip
    assert "/policies" not in json.dumps(listed)
    for path in ("versions/1/promote", "versions/rollback", "versions/nothing/promote"):
        assert watched.post("ann", path) == 403
    for number, status in ((4, 409), (5, 404), (9, 404), ("x", 404), (10**30, 404), (-1, 404)):
        assert watched.post("boss", f"versions/{number}/promote") == status
    for headers in ({}, {"Content-Type": "text/plain"}):  # as a page of another origin may, unasked
        sent = key("boss") | {"Origin": "http://localhost:5173"} | headers
        assert httpx2.post(f"{watched.url}/v1/versions/rollback", headers=sent).status_code == 415
    for note in ({"note": 1}, {"note": "x" * 501}):
        assert watched.post("boss", "versions/2/promote", note) == 400
    assert watched.post("boss", "versions/2/promote", {"note": " It is kinder.\n"})["live"]
    assert watched.get("ann", "learning")["live"] == "policy-000002"
    assert watched.post("boss", "versions/rollback", {"note": "Too long."})["live"] is None
    assert watched.post("boss", "versions/rollback") == 409
    assert watched.post("boss", "versions/3/promote")["name"] == "policy-000003"
    written = [("Too long.", None), ("It is kinder.", "policy-000002")]
    for user, by in (("boss", "boss"), ("ann", None)):
        told = watched.get(user, "versions")["notes"]
        assert [(one["text"], one["version"], one["by"]) for one in told] == [(*one, by) for one in written]
    watched.store.forget(user="boss")
    assert watched.get("ann", "versions")["notes"] == []


def test_only_a_host_says_how_likely_tokens_are_and_of_ones_own_turns(watched: Watched) -> None:
    (id,) = watched.say("ann", "What became of it?")
    assert watched.get("ann", f"turns/{id}/change") == 404  # this engine tells no tokens
    with watched.store.engine.begin() as c:
        ids = ids_to_bytes((1, 2))
        c.execute(
            update(schema.turns).where(schema.turns.c.id == id).values(prompt_ids=ids, answer_ids=ids, temperature=1.0)
        )
        c.execute(insert(schema.updates).values(number=1, version=None, created=0.0))
        c.execute(insert(schema.update_turns).values(update=1, turn=id, advantage=-0.25))
    assert watched.get("ann", f"turns/{id}/change") == 409
    assert watched.get("bob", f"turns/{id}/change") == 404
    found = watched.get("ann", f"turns/{id}")
    assert (found["learned_in"], found["advantage"]) == ([1], -0.25)


def test_any_version_can_be_asked_by_its_name_and_the_model_as_it_was(watched: Watched) -> None:
    def of_the_engine(name: str) -> str:
        return name.replace("policy", f"tt-{watched.store.name}")

    watched.say("ann", "Hi")
    for name in ("policy-000001", "policy-000002", "policy-000004", "policy-base"):
        watched.say("ann", "Compare", model=name, turn_type="side")
        assert watched.engine.asked[-1]["model"] == {"policy-base": "m"}.get(name, of_the_engine(name))
    # The live one stays, and of the others the last two; no answer waits until another is gone.
    kept, until = {of_the_engine(f"policy-{n:06}") for n in (2, 3, 4)}, time.monotonic() + 30
    while set(watched.engine.loaded) != kept:
        assert time.monotonic() < until, watched.engine.loaded
        time.sleep(0.05)
    for name in ("policy-000005", "policy-000009"):
        unknown = {"messages": [{"role": "user", "content": "?"}], "model": name}
        assert watched.post("ann", "chat/completions", unknown) == 404


def test_pages_hear_of_changes_of_their_own_user_only(watched: Watched) -> None:
    def events(user: str) -> Iterator[dict[str, Any]]:
        with httpx2.stream("GET", f"{watched.url}/v1/events", headers=key(user), timeout=30) as reply:
            for line in reply.iter_lines():
                if line.startswith("data: "):
                    yield json.loads(line[6:])

    ann, bob = events("ann"), events("bob")
    before, others = next(ann), next(bob)
    assert (others["version"], others["candidates"]) == (4, 1)
    (id,) = watched.say("ann", "News")
    assert next(ann)["turn"] == id != before["turn"]
    watched.post("ann", "feedback", {"completion_id": id, "thumbs": "up"})
    told = next(bob)  # that something was judged, not what, nor when
    assert (told["turn"], told["judged"] != others["judged"]) == (others["turn"], True)
    assert isinstance(told["judged"], str)
    ann.close()
    bob.close()


def test_a_key_of_an_admin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "keys"
    path.write_text("ann key-a\nboss key-b admin\n")
    monkeypatch.setenv("TALKTUNE_API_KEY", "own")
    keys = load_keys(path)
    callers = [keys.caller({"x-api-key": one}) for one in ("key-a", "key-b", "own")]
    assert [(caller.user, caller.admin) for caller in callers] == [("ann", False), ("boss", True), ("local", True)]
    for line in ("ann key admin too", "ann key boss", "ann"):
        path.write_text(line)
        with pytest.raises(UserError, match="line 1"):
            load_keys(path)
