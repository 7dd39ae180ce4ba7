from html import escape
from pathlib import Path
from typing import Any

from talktune.lab.course import NAMES, find_experiment
from talktune.lab.page import QUESTIONS, write_page


def test_the_page_tells_every_experiment_in_order(course: Path, results: dict[str, dict[str, Any]]) -> None:
    page = (course / "index.html").read_text("utf-8")
    places = [page.index(f'<section id="{name}">') for name in NAMES]
    assert places == sorted(places)
    for name in NAMES:
        experiment = find_experiment(name)
        for text in (experiment.title, experiment.idea, experiment.look_at, results[name]["conclusion"]):
            assert escape(text) in page
    assert page.count('src="data:image/png;base64,') == len(NAMES)
    assert "<script" not in page
    assert "default-src 'none'" in page


def test_questions_are_answered_by_what_was_measured(course: Path, results: dict[str, dict[str, Any]]) -> None:
    page = (course / "index.html").read_text("utf-8")
    answers = page[page.index("Questions that the method raises") :]
    for question, names in QUESTIONS.items():
        assert escape(question) in answers
        assert all(escape(results[name]["conclusion"]) in answers for name in names)


def test_what_a_result_says_is_text(course: Path, results: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "voting.png").write_bytes((course / "voting.png").read_bytes())
    hostile = results["voting"] | {"conclusion": "<script>alert(1)</script>", "rows": [["<b>"]], "columns": ["<i>"]}
    page = write_page({"voting": hostile}, tmp_path).read_text("utf-8")
    assert "<script>" not in page
    assert "<b>" not in page
    assert "<i>" not in page
