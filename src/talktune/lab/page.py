"""One HTML page that reads like a short course: idea, formula, picture, what to look at, number, source."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from talktune.files import whole_file
from talktune.lab.course import NAMES, find_experiment
from talktune.report.page import document

QUESTIONS: Mapping[str, tuple[str, ...]] = {
    "What does a very large ε_high do?": ("clip", "dynamic-clip"),
    "A linear or a quadratic length penalty?": ("overlong",),
    "What if the judge prefers long answers?": ("biased-judge",),
    "Can a model of the user judge in its place?": ("fresh-answers",),
    "Is a better judge worth more than more votes?": ("judge-quality",),
    "How many answers to one prompt, at equal tokens?": ("group-size",),
    "Does having no critic save about half of the memory?": ("memory",),
    "Which of T, C and R is needed?": ("ablation",),
}
"""Questions that a reader of the method asks, and the experiments whose measurements answer them."""

_STYLE = """
nav ol { columns: 2; } @media (max-width: 40rem) { nav ol { columns: 1; } }
pre { background: var(--soft); padding: .6rem .8rem; border-radius: 6px; white-space: pre-wrap; }
.number { border-left: 4px solid var(--good); background: var(--soft); padding: .4rem .8rem; }
"""


def write_page(results: Mapping[str, Mapping[str, Any]], output: Path) -> Path:
    """Write `index.html` about `results` (by experiment, as their JSON holds them), with the PNGs of `output`."""
    names = [name for name in NAMES if name in results]
    chapters = [_chapter(i, name, results[name], output) for i, name in enumerate(names, 1)]
    contents = "".join(f'<li><a href="#{n}">{escape(find_experiment(n).title)}</a></li>' for n in names)
    options = ", ".join(f"{key} {value}" for key, value in results[names[0]]["options"].items())
    body = (
        "<h1>GRPO-TCR, measured</h1>\n"
        '<p class="lead">How a language model learns from what people say next, one idea at a time. Every number '
        "below was measured by the code that also trains real models.</p>\n"
        f"<nav><ol>{contents}</ol></nav>\n"
        f'<p class="dim">Options of this run: {escape(options)}.</p>\n' + "\n".join(chapters) + _questions(results)
    )
    page = output / "index.html"
    with whole_file(page) as file:
        file.write(document("GRPO-TCR, measured", body, _STYLE).encode())
    return page


def _chapter(number: int, name: str, result: Mapping[str, Any], output: Path) -> str:
    e = find_experiment(name)
    picture = base64.b64encode((output / f"{name}.png").read_bytes()).decode()
    formula = f"<pre>{escape(e.formula)}</pre>" if e.formula else ""
    return (
        f'<section id="{name}"><h2>{number}. {escape(e.title)}</h2>\n<p>{escape(e.idea)}</p>{formula}'
        f'<figure><img src="data:image/png;base64,{picture}" alt="{escape(e.title)}">'
        f"<figcaption>{escape(e.look_at)}</figcaption></figure>"
        f'<p class="number">{escape(result["conclusion"])}</p>'
        f"<details><summary>The table</summary>{_table(result['columns'], result['rows'])}</details>"
        f'<p class="dim">Source: {_linked(e.source)}. Again: <code>talktune lab {name}</code></p></section>'
    )


def _questions(results: Mapping[str, Mapping[str, Any]]) -> str:
    parts: list[str] = []
    for question, names in QUESTIONS.items():
        answers = [f"<p>{escape(results[name]['conclusion'])}</p>" for name in names if name in results]
        if answers:
            parts.append(f"<h3>{escape(question)}</h3>{''.join(answers)}")
    return f"<h2>Questions that the method raises, answered by measurement</h2>{''.join(parts)}" if parts else ""


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th{_side(i)}>{escape(column)}</th>" for i, column in enumerate(columns))
    body = "".join(
        f"<tr>{''.join(f'<td{_side(i)}>{escape(cell)}</td>' for i, cell in enumerate(row))}</tr>" for row in rows
    )
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def _side(column: int) -> str:
    return "" if column == 0 else ' class="n"'


def _linked(source: str) -> str:
    words = source.split(" ")
    for i, word in enumerate(words):
        if word.startswith("https://"):
            address = word.rstrip(".,;")
            words[i] = f'<a href="{escape(address)}">{escape(address)}</a>{word[len(address) :]}'
        else:
            words[i] = escape(word)
    return " ".join(words)
