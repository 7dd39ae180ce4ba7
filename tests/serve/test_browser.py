"""The page in a real browser, before a real server and host: what a person does on it, and what it must not do."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import insert, select

from talktune.store import schema
from talktune.store.policies import Policies
from talktune.store.store import Store

from ..versions import make_candidate, make_versions
from .browser import AXE, CHROMIUM, TRIES, Browser, browser
from .conftest import serving

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt-get install chromium)")


@pytest.fixture(scope="module")
def server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A tiny model with two versions, of which the second is live; the key of `own` runs it, `bob` is a user."""
    folder = tmp_path_factory.mktemp("page")
    store = Store(folder / "s.db")
    make_versions(tiny_model, store, folder / "policies", 2)
    Policies(store).promote(2)
    store.close()
    (folder / "keys").write_text("bob bob-secret\n")
    options = ("--model", str(tiny_model), "--device", "cpu", "--no-judge", "--no-learn", "--max-answer-tokens", "8")
    options += ("--keys", str(folder / "keys"), "--policies", str(folder / "policies"))
    with serving(folder / "s.db", *options, env={"TALKTUNE_API_KEY": "own"}) as running:
        yield running


@pytest.fixture
def page(server: Any, tmp_path: Path) -> Iterator[Browser]:
    with browser(tmp_path) as opened:
        opened.open(server.url)
        yield opened
        # A key is asked for once; nothing else is an error, and nothing leaves the machine.
        assert all("401" in complaint for complaint in opened.complaints), opened.complaints
        assert all(url.startswith(server.url) for url in opened.requests)


def learn_from_the_only_turn(path: Path, advantage: float) -> None:
    store = Store(path)
    with store.engine.begin() as c:
        id = c.execute(select(schema.turns.c.id)).scalar_one()
        c.execute(insert(schema.updates).values(number=1, version=None, created=0.0))
        c.execute(insert(schema.update_turns).values(update=1, turn=id, advantage=advantage))
    store.close()


def publish(path: Path, number: int, parent: int) -> None:
    """As the learner does whose candidate has passed the gate."""
    store = Store(path)
    make_candidate(store, path.parent / "policies", number, parent)
    assert Policies(store).decide(number, [], {})
    store.close()


def give_key(page: Browser, key: str) -> None:
    page.wait("document.querySelector('#key').open")
    page.type("#key-words", key)
    page.press_enter()


def test_talk_react_correct_compare_and_roll_back(server: Any, page: Browser) -> None:
    give_key(page, "own")
    page.wait("document.querySelector('#line').textContent.startsWith('No reaction heard yet')")
    page.type("#words", "Hello there")
    page.press_enter()
    page.click(".answer .thumb[aria-label='Good answer']")
    page.wait("document.querySelector('.answer .thumb[aria-pressed=true]')")
    # It is told of what it did itself, without a reload.
    page.wait("document.querySelector('#line').textContent.startsWith('1 reaction heard')")
    page.wait("document.querySelector('.turn .badge.good')")
    assert page.run("document.querySelector('.turn .cells').textContent").startswith("Hello there")
    learn_from_the_only_turn(server.store, 0.84)
    page.click(".turn > summary")
    page.wait("document.querySelector('.turn .tokens span[title^=chance]')")
    page.click(".turn input[value=advantage]")
    page.wait("document.querySelector('.turn .legend').textContent.includes('in update 1 is +0.84')")
    assert page.run("[...document.querySelectorAll('.turn .tokens span')].every((one) => one.className === 'u2')")
    page.click(".turn input[value=change]")
    page.wait("document.querySelector('.turn .legend').textContent.includes('to policy-000002')")
    shades = "[...document.querySelectorAll('.turn .tokens span')].map((one) => one.className)"
    assert any(re.fullmatch(r"[ud][1-4]", shade) for shade in page.run(shades))
    page.click(".turn .thumb[aria-label='Bad answer']")
    page.wait("document.querySelector('.turn .badge.bad')")
    page.run("document.querySelector('.turn .better').open = true")
    page.type(".turn .better textarea", "Good morning!")
    page.click(".turn .better button")
    page.wait("document.querySelector('.turn .better [role=status]').textContent")
    (kept,) = httpx2.get(f"{server.url}/v1/turns", headers={"X-Api-Key": "own"}).json()["data"]
    assert (kept["request"], kept["reward"], kept["version"]) == ("Hello there", -1.0, "policy-000002")
    assert kept["feedback"] == {"score": -1.0, "better": "Good morning!"}
    page.type("#prompt", "Say something")
    page.click("#compare .main")
    page.wait("document.querySelectorAll('.side').length === 2")
    page.wait("[...document.querySelectorAll('.side .text')].every((one) => one.textContent)")
    page.wait("!document.querySelector('.side[aria-busy]')")
    assert "policy-000002" in page.run("document.querySelector('tr.live').textContent")
    page.type("#note", "It says too much.")
    page.click("#back")
    page.wait("document.querySelector('tr.live').textContent.startsWith('policy-000001')")
    page.wait("document.querySelector('.notes')?.textContent.startsWith('policy-000001: It says too much. (local)')")
    # The page is told of what others did, too, without a reload.
    page.run("window.stays = true")
    publish(server.store, 3, parent=1)
    page.wait("document.querySelector('tr.live').textContent.startsWith('policy-000003')")
    assert page.run("window.stays")
    listed = httpx2.get(f"{server.url}/v1/turns", headers={"X-Api-Key": "own"}).json()["data"]
    assert len(listed) == 1, "nothing is learned from what was compared"


def test_the_shipped_model_learns_before_ones_eyes(tmp_path: Path) -> None:
    """Everything real: four answers, a thumb for each, and the version that comes of them is seen, tried and left."""
    options = ("--no-judge", "--no-gate", "--holdout", "0", "--batch-turns", "4", "--fresh-answers", "0")
    options += ("--max-answer-tokens", "12", "--policies", str(tmp_path / "policies"))
    with serving(tmp_path / "s.db", *options) as server, browser(tmp_path / "browser") as page:
        page.open(server.url)
        page.wait("document.querySelector('#line').textContent.endsWith('heard yet. Next update in 4 reactions.')")
        page.run("window.stays = true")
        for number, thing in enumerate(("bread", "snow", "glass", "rust")):
            page.type("#words", f"What is {thing}?")
            page.press_enter()
            page.wait(f"document.querySelectorAll('.answer .verdict').length === {number + 1}")
            page.click(f".answer:last-child .thumb[data-score='{-1 if number % 2 else 1}']")
        page.wait("document.querySelector('#line').textContent.startsWith('4 reactions heard')")
        page.wait("document.querySelector('tr.live')", tries=3 * TRIES)
        assert page.run("document.querySelector('tr.live').textContent").startswith("policy-000001")
        page.wait("document.querySelector('#line').textContent.startsWith('4 reactions heard, 1 version. Answers')")
        page.click(".turn > summary")  # the newest: rust, disliked
        page.click(".turn input[value=advantage]")
        page.wait("/in update 1 is -[.0-9]+;.*less likely/.test(document.querySelector('.turn .legend').textContent)")
        page.click(".turn input[value=change]")
        page.wait("document.querySelector('.turn .legend').textContent.includes('to policy-000001: ')")
        page.click(".turn .thumb[aria-label='Good answer']")
        page.wait("document.querySelector('.turn .badge.good')")
        page.type("#prompt", "What is salt?")
        page.click("#compare .main")
        page.wait("document.querySelectorAll('.side:not([aria-busy])').length === 2")
        base, learned = page.run("[...document.querySelectorAll('.side .text')].map((one) => one.textContent)")
        assert base
        assert learned
        page.click("#back")
        page.wait("document.querySelector('#version-list').textContent.includes('The model serves as it was.')")
        assert page.run("window.stays"), "all of it without a reload"
        assert not page.complaints
        assert all(url.startswith(server.url) for url in page.requests)


def test_no_serious_fault_of_accessibility(page: Browser) -> None:
    if not AXE.is_file():
        pytest.skip("axe-core is not there: `make clients` fetches it, where npm's registry can be reached")
    assert page.run("document.querySelector('#key').open")
    assert page.faults() == []
    give_key(page, "own")
    page.wait("document.querySelector('.turn') && document.querySelector('#version-list table')")
    page.click(".turn > summary")
    page.wait("document.querySelector('.turn .tokens span')")
    page.click(".turn input[value=change]")
    page.wait("document.querySelector('.turn .legend').textContent.includes('nats a token')")
    page.run("document.querySelector('.turn .better').open = true")
    for dark in (False, True):
        page.dark(dark)
        assert page.faults() == [], dark


def test_a_second_user_sees_none_of_it(page: Browser) -> None:
    give_key(page, "wrong")
    page.wait("document.querySelector('#key-why').textContent.includes('does not know')")
    give_key(page, "bob-secret")
    page.wait("!document.querySelector('#no-turns').hidden")
    assert page.run("document.querySelectorAll('.turn').length") == 0
    page.wait("document.querySelector('#line').textContent.startsWith('No reaction heard yet')")
    assert not page.run("Boolean(document.querySelector('#version-list button'))")


def test_turns_that_were_pushed_down_are_brought_up_to_date_too(server: Any, page: Browser) -> None:
    give_key(page, "bob-secret")
    page.wait("!document.querySelector('#no-turns').hidden")

    def post(path: str, body: Any) -> Any:
        return httpx2.post(f"{server.url}/v1/{path}", json=body, headers={"X-Api-Key": "bob-secret"}, timeout=60).json()

    ids: list[str] = []
    for number in range(12):
        ids.append(post("chat/completions", {"messages": [{"role": "user", "content": f"Number {number}"}]})["id"])
        page.wait(f"document.querySelectorAll('.turn').length === {number + 1}")
    page.run("(now => { Date.now = () => now() + 3600e3; })(Date.now)")
    post("feedback", {"completion_id": ids[0], "thumbs": "up"})
    page.wait("document.querySelector('.turn:last-child .badge.good')")
    assert page.run("document.querySelector('.turn:last-child .cells').textContent").startswith("Number 0")
    ages = "[...document.querySelectorAll('.turn > summary > .dim')].map((one) => one.textContent.slice(0, 14))"
    assert set(page.run(ages)) <= {"60 minutes ago", "61 minutes ago"}


def test_it_fits_a_phone(page: Browser) -> None:
    page.narrow()
    give_key(page, "own")
    page.wait("document.querySelector('#version-list table') && document.querySelector('#state li')")
    assert page.run("document.documentElement.scrollWidth") == 390
