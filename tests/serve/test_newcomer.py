"""A newcomer's path, timed: `talktune serve`, the page, 24 reactions, and the page says that it has learned."""

import json
import random
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from talktune.demo.user import User

from .browser import CHROMIUM, browser
from .conftest import serving

REACTIONS = 24


def answer(url: str, messages: list[dict[str, str]]) -> tuple[str, bool]:
    """As the page asks: streamed; the text, and whether the model ended it."""
    text, finish = "", None
    body: dict[str, Any] = {"messages": messages, "stream": True, "max_tokens": 64}
    with httpx2.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=300) as reply:
        assert reply.status_code == 200
        for line in reply.iter_lines():
            if line.startswith("data: ") and line != "data: [DONE]":
                choice = json.loads(line[6:])["choices"][0]
                text += choice["delta"].get("content") or ""
                finish = choice["finish_reason"] or finish
    return text.strip(), finish == "stop"


@pytest.mark.slow
@pytest.mark.timeout(2400)  # of which the limits below are parts
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt-get install chromium)")
def test_after_24_reactions_a_version_is_live_and_the_page_says_so(tmp_path: Path) -> None:
    user, rng = User("plain"), random.Random(0)
    began = time.monotonic()
    with (
        serving(tmp_path / "s.db", "--policies", str(tmp_path / "policies")) as server,
        browser(tmp_path / "b") as page,
    ):
        page.open(server.url)
        page.wait("document.querySelector('#line').textContent.startsWith('No reaction heard yet')")
        page.run("window.stays = true")
        opened = time.monotonic()
        for question in user.questions["train"][:REACTIONS]:
            said = [{"role": "user", "content": question.text}]
            text, finished = answer(server.url, said)
            reaction = user.react(user.judge(question, text, finished), question, rng)
            answer(server.url, [*said, {"role": "assistant", "content": text}, {"role": "user", "content": reaction}])
        talked = time.monotonic()
        until = talked + 1500
        while not page.run("Boolean(document.querySelector('tr.live'))"):
            assert time.monotonic() < until, page.run("document.body.innerText")
            assert "rejected" not in page.run("document.querySelector('#version-list').textContent")
            time.sleep(1)
        learned = time.monotonic()
        assert page.run("document.querySelector('tr.live').textContent").startswith("policy-000001")
        page.wait("document.querySelector('#line').textContent.includes('1 version.')")
        assert page.run("window.stays"), "seen without a reload"
    print(f"page open {opened - began:.0f} s, talked {talked - opened:.0f} s, live {learned - talked:.0f} s later")
