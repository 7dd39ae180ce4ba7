"""The page before a store with 100,000 turns: what it costs until it can be used, and while it is open."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from ..store.large import make_large
from .browser import CHROMIUM, Browser, browser
from .conftest import Serving, running_engine, serving

TURNS = 100_000
INTERACTIVE_SECONDS = 1.0
POLL_SECONDS = 0.005
ROUNDS, POLLS = 4, 40
TICK = 1 / os.sysconf("SC_CLK_TCK")
USABLE = "document.querySelectorAll('.turn').length === 10 && !document.querySelector('#send').disabled"
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt-get install chromium)")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    path = tmp_path_factory.mktemp("large") / "s.db"
    make_large(path, TURNS)
    with running_engine() as engine, serving(path, "--upstream", engine.url) as running:
        yield running


def computed(process: int) -> float:
    """Seconds of processor time of a process and of all that it has started: a busy machine makes none of them more."""
    words = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    children = [child for task in Path(f"/proc/{process}/task").iterdir() for child in _children(task)]
    return sum(map(int, words[11:13])) * TICK + sum(map(computed, children))


def _children(task: Path) -> list[int]:
    return [int(child) for child in (task / "children").read_text().split()]


def cost_of_opening(page: Browser, server: Serving) -> tuple[float, float]:
    """Processor time and time until the page can be used."""
    page.open("about:blank")
    processes = (server.process.pid, page.process)
    before, began = sum(map(computed, processes)), time.monotonic()
    page.open(f"{server.url}/?{began}")
    page.wait(USABLE)
    return sum(map(computed, processes)) - before, time.monotonic() - began


def test_it_is_interactive_within_a_second(server: Serving, tmp_path: Path) -> None:
    with browser(tmp_path) as page:
        costs = [cost_of_opening(page, server) for _ in range(3)]
        assert page.run("document.querySelector('.turn .cells').textContent").startswith(f"Why is number {TURNS - 1}")
        page.wait("document.querySelector('#line').textContent.startsWith('100000 reactions heard')")
        page.wait("document.querySelector('.plot .line')")
        assert not page.complaints
    print("computed, took:", costs)
    assert min(computed for computed, _ in costs) < INTERACTIVE_SECONDS


@pytest.mark.parametrize("path", ["/v1/turns?limit=10", "/v1/learning", "/v1/versions", "/health"])
def test_a_poll_costs_next_to_nothing(server: Serving, path: str) -> None:
    with httpx2.Client() as client:
        assert client.get(server.url + path).status_code == 200
        costs: list[float] = []
        for _ in range(ROUNDS):  # the least counts: beside other work a processor does less in the same time
            before = computed(server.process.pid)
            for _ in range(POLLS):
                client.get(server.url + path)
            costs.append((computed(server.process.pid) - before) / POLLS)
    print(path, [f"{1000 * cost:.1f} ms" for cost in costs])
    assert min(costs) < POLL_SECONDS
