"""The page: what it says, in which order, and that it is whole, safe and alone."""

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from talktune.errors import UserError
from talktune.report.page import headline, make_report
from talktune.report.read_run import read_run
from talktune.rl.metrics import METRICS

MakeRun = Callable[..., Path]
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Collects tags, attributes and text, and checks that tags close in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.text += data


def test_a_demo_run_gets_its_page(make_run: MakeRun) -> None:
    run_dir = make_run()
    before = {file.name: file.read_bytes() for file in run_dir.iterdir()}
    page_file = make_report(run_dir)
    assert page_file == run_dir / "report.html"
    page = Page(page_file.read_text())

    order = [
        "28 updates",
        "Before and after",
        "Answers side by side",
        "Summary",
        "Every plot",
        "Turns",
        "Settings",
    ]
    places = [page.text.index(heading) for heading in order]
    assert places == sorted(places)
    assert page.text.count("What is a prime number?") == 1
    assert "83.3%" in page.text
    assert "+73.3 points" in page.text
    for name in ("reward_mean", "kl_ref", "clipped_high", "grad_norm"):
        assert METRICS[name].meaning in page.text
    assert "skipped: longer than max_tokens2" in page.text
    assert "algorithm.eps_high0.28" in page.text

    for name, data in before.items():
        assert (run_dir / name).read_bytes() == data
    made = {file.name for file in run_dir.iterdir()} - set(before)
    assert {"report.html", "summary.png", "before_after.png", "reward.png", "speed.png"} <= made
    assert {Path(name).suffix for name in made} == {".html", ".png"}


def test_the_page_loads_nothing_from_elsewhere(make_run: MakeRun) -> None:
    page = Page(make_report(make_run(updates=3)).read_text())
    assert len(page.links) > 5
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert not {"script", "link", "iframe"} & set(page.tags)


def test_whatever_the_run_holds_is_text(make_run: MakeRun) -> None:
    run_dir = make_run(updates=1)
    evil = "<script>alert('&')</script><img src=x onerror=y>"
    row = {"prompt": evil, "before": evil, "after": f"{evil} \ud83d", "split": evil}
    (run_dir / "samples.jsonl").write_text(json.dumps(row))
    figures = {
        "before": {evil: 1, "x": evil},
        "after": {evil: 2},
        "turns": {"skipped": {evil: 1}},
        evil: evil,
    }
    (run_dir / "summary.json").write_text(json.dumps(figures))
    (run_dir / "config.toml").write_text(f"[model]\nmodel = {json.dumps(evil)}\n")
    page = Page(make_report(run_dir).read_text(encoding="utf-8"))
    assert "script" not in page.tags
    assert page.text.count(evil) >= 8


def test_a_run_without_answers_or_summary_gets_a_page(make_run: MakeRun) -> None:
    page = Page(make_report(make_run(updates=2, live=True)).read_text())
    assert "the run had not ended" in page.text
    assert "Answers side by side" not in page.text
    assert "Turns" not in page.text


def test_a_torn_line_is_noted_on_the_page(make_run: MakeRun) -> None:
    run_dir = make_run(updates=2)
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write('{"upd')
    assert "last line of metrics.jsonl is broken" in Page(make_report(run_dir).read_text()).text


def test_a_second_report_replaces_the_first(make_run: MakeRun) -> None:
    run_dir = make_run(updates=2, live=True)
    make_report(run_dir)
    (run_dir / "summary.json").write_text('{"turns": {"main": 7, "side": 1, "unscored": 0, "skipped": {}}}')
    page = Page(make_report(run_dir).read_text())
    assert "main7" in page.text
    assert "skipped0" in page.text
    assert "had not ended" not in page.text


def test_a_page_that_cannot_be_written_leaves_no_litter(make_run: MakeRun) -> None:
    run_dir = make_run(updates=1, live=True)
    (run_dir / "report.html").mkdir()
    with pytest.raises(UserError, match=r"report\.html cannot be written"):
        make_report(run_dir)
    assert not [file for file in run_dir.iterdir() if file.suffix == ".tmp"]


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([{}], "1 update."),
        ([{"reward_mean": 0.5, "seconds": 12}], "1 update in 12 seconds: the mean reward was +0.50."),
        (
            [
                {"reward_mean": -0.5, "tokens": 900, "seconds": 60},
                {"reward_mean": 0.5, "tokens": 600, "seconds": 60},
            ],
            "2 updates on 1,500 answer tokens in 2.0 minutes: the mean reward rose from -0.50 to +0.50 "
            "between the first and the last update.",
        ),
        (
            [{"reward_mean": 0.2}] * 9,
            "9 updates: the mean reward stayed at +0.20 between the first and the last 3 updates.",
        ),
        (
            [{"reward_mean": 1, "kl_ref": 0}, {"reward_mean": 0, "kl_ref": 0.25}],
            "ended at 0.25 nats per token.",
        ),
    ],
)
def test_the_sentence(tmp_path: Path, rows: list[dict[str, float]], sentence: str) -> None:
    lines = [json.dumps({"update": i, **row}) for i, row in enumerate(rows, start=1)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    assert headline(read_run(tmp_path)).endswith(sentence)


def test_the_sentence_of_a_demo_tells_good_and_bad(make_run: MakeRun) -> None:
    sentence = headline(read_run(make_run()))
    assert "satisfaction rose from 10% to 83%" in sentence
    assert "the mean answer fell from 41.0 to 18.4 tokens" in sentence
    assert "facts kept fell from 90% to 85%" in sentence
