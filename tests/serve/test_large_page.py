"""The page before a store with 100,000 turns: what it costs until it can be used, and while it is open."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest

from ..store.large import make_large
from .browser import CHROMIUM, browser
from .conftest import Serving, running_engine, serving

TURNS, FEW = 100_000, 200
MORE = 2.0
"""With a store of 100,000 turns all may cost this many times what it costs with 200, beside a tick of the clock."""
TRIES, POLLS = 4, 40  # the first that is cheap enough counts: beside other work a processor does less in the same time
TICK = 1 / os.sysconf("SC_CLK_TCK")
USABLE = "document.querySelectorAll('.turn').length === 10 && !document.querySelector('#send').disabled"
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt-get install chromium)")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Serving, Serving]]:
    """One with few turns and one with many."""
    paths = [tmp_path_factory.mktemp("large") / f"{turns}.db" for turns in (FEW, TURNS)]
    for path, turns in zip(paths, (FEW, TURNS), strict=True):
        make_large(path, turns)
    with running_engine() as engine, ExitStack() as stack:
        few, many = (stack.enter_context(serving(path, "--upstream", engine.url)) for path in paths)
        yield few, many


def computed(process: int) -> float:
    """Seconds of processor time of a process and of all that it has started: a busy machine makes none of them more."""
    words = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    children = [child for task in Path(f"/proc/{process}/task").iterdir() for child in _children(task)]
    return sum(map(int, words[11:13])) * TICK + sum(map(computed, children))


def _children(task: Path) -> list[int]:
    return [int(child) for child in (task / "children").read_text().split()]


def compare(measure: Callable[[Serving], float], servers: tuple[Serving, Serving], tick: float) -> None:
    """That it costs with many turns what it costs with few."""
    costs: list[tuple[float, float]] = []
    while len(costs) < TRIES and (not costs or costs[-1][1] > MORE * costs[-1][0] + tick):
        few, many = map(measure, servers)
        costs.append((few, many))
    print("seconds with few turns and with many:", costs)
    assert costs[-1][1] <= MORE * costs[-1][0] + tick


def test_it_opens_as_fast_as_with_few_turns(servers: tuple[Serving, Serving], tmp_path: Path) -> None:
    with browser(tmp_path) as page:

        def opening(server: Serving) -> float:
            page.open("about:blank")
            processes = (server.process.pid, page.process)
            before = sum(map(computed, processes))
            page.open(server.url)
            page.wait(USABLE)
            return sum(map(computed, processes)) - before

        compare(opening, servers, 10 * TICK)
        assert page.run("document.querySelector('.turn .cells').textContent").startswith(f"Why is number {TURNS - 1}")
        page.wait("document.querySelector('#line').textContent.startsWith('100000 reactions heard')")
        page.wait("document.querySelector('.plot .line')")
        assert not page.complaints


@pytest.mark.parametrize("path", ["/v1/turns?limit=10", "/v1/learning", "/v1/versions", "/health"])
def test_a_poll_costs_what_it_costs_with_few_turns(servers: tuple[Serving, Serving], path: str) -> None:
    with httpx2.Client() as client:

        def poll(server: Serving) -> float:
            assert client.get(server.url + path).status_code == 200
            before = computed(server.process.pid)
            for _ in range(POLLS):
                client.get(server.url + path)
            return (computed(server.process.pid) - before) / POLLS

        compare(poll, servers, 2 * TICK / POLLS)
