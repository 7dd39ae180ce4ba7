"""One HTML page about a run: what happened, the answers before and after, the plots, the turns, the settings.

The page holds its own style and images, loads nothing, and follows the reader's light or dark mode.
"""

import base64
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any, cast

from talktune.files import whole_file
from talktune.report.plots import comparable, draw_before_after, draw_panels, draw_summary, figure_label
from talktune.report.read_run import AnswerPair, Run, read_run
from talktune.rl.metrics import METRICS

SHOWN_FIRST = 5
SHOWN_AT_MOST = 200
ENDS = 3
"""How many updates at either end a first and a last reward are the mean of."""

STYLE = """
:root { color-scheme: light dark; --fg: #1c1e21; --bg: #fff; --soft: #f3f4f6; --line: #d6d9de; --dim: #5b616b;
        --good: #00694c; --bad: #a84300; }
@media (prefers-color-scheme: dark) {
  :root { --fg: #e4e6ea; --bg: #15171b; --soft: #1f2228; --line: #3a3f48; --dim: #a3a9b4;
          --good: #4fd1a8; --bad: #ff9d5c; }
  img { filter: invert(0.91) hue-rotate(180deg); }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 60rem; color: var(--fg); background: var(--bg);
       font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; border-bottom: 1px solid var(--line); padding-bottom: .2rem; }
h3 { font-size: 1rem; margin: 1.8rem 0 .3rem; }
.lead { font-size: 1.1rem; }
.note { background: var(--soft); border-left: 4px solid var(--bad); padding: .4rem .8rem; margin: .5rem 0; }
.dim, figcaption { color: var(--dim); font-size: .9rem; }
figure { margin: 0; }
img { max-width: 100%; height: auto; display: block; border-radius: 4px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { text-align: left; vertical-align: top; padding: .25rem .9rem .25rem 0;
         border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.pair { background: var(--soft); border-radius: 6px; padding: .6rem .8rem; margin: .8rem 0; }
.pair > p { margin: 0 0 .4rem; font-weight: 600; }
.sides { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; }
@media (max-width: 40rem) { .sides { grid-template-columns: 1fr; } }
.text { white-space: pre-wrap; overflow-wrap: anywhere; }
.good { color: var(--good); } .bad { color: var(--bad); }
summary { cursor: pointer; margin: .8rem 0; }
"""


def make_report(run_dir: Path) -> Path:
    """Write `report.html` and its PNGs into a run directory and return the page's path.

    Each file is replaced as a whole or not at all; nothing else in the directory changes.

    Raises:
        UserError: the directory is not a run, one of its files is broken, or it cannot be written to.
    """
    run = read_run(run_dir)
    images = [("summary.png", draw_summary(run))]
    before_after = draw_before_after(run)
    if before_after:
        images.append(("before_after.png", before_after))
    plots: list[str] = []
    for panel, png in draw_panels(run):
        images.append((f"{panel.name}.png", png))
        plots.append(_plot(panel.title, png, panel.metrics()))
    html = _page(run, dict(images), plots)
    for name, data in (*images, ("report.html", html.encode("utf-8", "replace"))):  # JSON may hold half a surrogate
        with whole_file(run_dir / name) as file:
            file.write(data)
    return run_dir / "report.html"


def headline(run: Run) -> str:
    """Return what happened, in one sentence with the run's own figures."""
    seconds, tokens = sum(run.series("seconds")[1]), sum(run.series("tokens")[1])
    start = "1 update" if len(run.metrics) == 1 else f"{len(run.metrics)} updates"
    start += f" on {tokens:,.0f} answer tokens" if tokens else ""
    start += f" in {_duration(seconds)}" if seconds else ""
    shares, others = comparable(run)
    parts: list[str] = []
    if "satisfaction" in shares:
        parts.append(f"satisfaction {_moved(*shares['satisfaction'], '.0%')}")
    rewards = run.series("reward_mean")[1]
    if len(rewards) == 1:
        parts.append(f"the mean reward was {rewards[0]:+.2f}")
    elif rewards:
        count = min(ENDS, len(rewards) // 2)
        first, last = sum(rewards[:count]) / count, sum(rewards[-count:]) / count
        ends = "update" if count == 1 else f"{count} updates"
        parts.append(f"the mean reward {_moved(first, last, '+.2f')} between the first and the last {ends}")
    if "answer_tokens" in others:
        parts.append(f"the mean answer {_moved(*others['answer_tokens'], ',.1f')} tokens")
    if "facts_kept" in shares:
        parts.append(f"facts kept {_moved(*shares['facts_kept'], '.0%')}")
    kls = run.series("kl_ref")[1]
    if kls:
        parts.append(f"the KL to the reference ended at {kls[-1]:.3g} nats per token")
    return f"{start}: {'; '.join(parts)}." if parts else f"{start}."


def _page(run: Run, images: Mapping[str, bytes], plots: Iterable[str]) -> str:
    title = f"talktune report: {run.path.resolve().name}"
    sections = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="lead">{escape(headline(run))}</p>',
        *(f'<p class="note">{escape(note)}</p>' for note in run.notes),
        _before_after(run, images.get("before_after.png")),
        _answers(run.samples),
        "<h2>Summary</h2>",
        _image(images["summary.png"], "Summary: reward, before and after, length, KL, entropy and clipping"),
        "<h2>Every plot</h2>",
        '<p class="dim">Points are single updates; the line is their moving average.</p>',
        *plots,
        _turns(run.summary.get("turns")),
        _settings(run),
    ]
    return document(title, "\n".join(section for section in sections if section))


def document(title: str, body: str, style: str = "") -> str:
    """Return a whole page that loads nothing; `style` is added to the report's own."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}{style}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _before_after(run: Run, image: bytes | None) -> str:
    before, after = run.figures("before"), run.figures("after")
    shares, others = comparable(run)
    rows: list[str] = []
    for name in dict.fromkeys([*before, *after]):
        if name in shares:
            a, b = shares[name]
            cells = [f"{a:.1%}", f"{b:.1%}", f"{100 * (b - a):+.1f} points"]
        elif name in others:
            a, b = others[name]
            cells = [f"{a:,.4g}", f"{b:,.4g}", f"{b - a:+,.4g}"]
        else:
            cells = [_value(before.get(name)), _value(after.get(name)), ""]
        rows.append(f'<tr><th scope="row">{escape(figure_label(name))}</th>{_numbers(cells)}</tr>')
    if not rows:
        return ""
    head = '<tr><th></th><th class="n">before</th><th class="n">after</th><th class="n">change</th></tr>'
    table = f'<div class="scroll"><table>{head}{"".join(rows)}</table></div>'
    return f"<h2>Before and after</h2>{table}" + (_image(image, "Bars of the figures above") if image else "")


def _answers(samples: tuple[AnswerPair, ...]) -> str:
    """Show the first answers of the file, held-out ones before others; the rest is folded."""
    if not samples:
        return ""
    ordered = sorted(samples, key=lambda pair: pair.split != "held-out")[:SHOWN_AT_MOST]
    html = "<h2>Answers side by side</h2>" + "".join(map(_pair, ordered[:SHOWN_FIRST]))
    rest = ordered[SHOWN_FIRST:]
    if rest:
        html += f"<details><summary>{len(rest)} more</summary>{''.join(map(_pair, rest))}</details>"
    if len(samples) > SHOWN_AT_MOST:
        html += f'<p class="dim">{len(samples) - SHOWN_AT_MOST} more are in samples.jsonl.</p>'
    return html


def _pair(pair: AnswerPair) -> str:
    split = f' <span class="dim">({escape(pair.split)})</span>' if pair.split else ""
    sides = "".join(
        f'<div><span class="dim">{when}</span>{_satisfied(satisfied)}'
        f'<div class="text" dir="auto">{escape(text)}</div></div>'
        for when, satisfied, text in (
            ("before", pair.satisfied_before, pair.before),
            ("after", pair.satisfied_after, pair.after),
        )
    )
    prompt = f'<p class="text" dir="auto">{escape(pair.prompt)}{split}</p>'
    return f'<div class="pair">{prompt}<div class="sides">{sides}</div></div>'


def _satisfied(satisfied: bool | None) -> str:
    if satisfied is None:
        return ""
    return ' <span class="good">✓ satisfied</span>' if satisfied else ' <span class="bad">✗ not satisfied</span>'


def _plot(title: str, png: bytes, metrics: Iterable[str]) -> str:
    known = (METRICS[name] for name in metrics if name in METRICS)
    caption = "<br>".join(
        f"<b>{escape(metric.name)}</b> ({escape(metric.unit)}): {escape(metric.meaning)}." for metric in known
    )
    return f"<h3>{escape(title)}</h3><figure>{_image(png, title)}<figcaption>{caption}</figcaption></figure>"


def _turns(turns: object) -> str:
    if not isinstance(turns, dict):
        return ""
    rows: list[str] = []
    for name, value in cast(dict[str, Any], turns).items():
        if isinstance(value, dict):
            reasons = cast(dict[str, Any], value)
            if not reasons:
                rows.append(_row(name, "0"))
            rows.extend(_row(f"{name}: {reason}", _value(count)) for reason, count in reasons.items())
        else:
            rows.append(_row(name, _value(value)))
    return f'<h2>Turns</h2><div class="scroll"><table>{"".join(rows)}</table></div>' if rows else ""


def _settings(run: Run) -> str:
    figures = {key: value for key, value in run.summary.items() if not isinstance(value, dict | list)}
    rows = "".join(_row(key, _value(value)) for key, value in figures.items())
    html = f'<h2>Other figures</h2><div class="scroll"><table>{rows}</table></div>' if rows else ""
    rows = "".join(_row(key, _value(value)) for key, value in _flat(run.config))
    return html + (f'<h2>Settings</h2><div class="scroll"><table>{rows}</table></div>' if rows else "")


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(cast(dict[str, Any], value), f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _row(name: str, value: str) -> str:
    return f'<tr><th scope="row">{escape(name)}</th>{_numbers([value])}</tr>'


def _numbers(cells: Iterable[str]) -> str:
    return "".join(f'<td class="n">{escape(cell)}</td>' for cell in cells)


def _value(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _moved(before: float, after: float, form: str) -> str:
    """Say how a figure moved, by what is shown of it: two equal roundings have not moved."""
    shown = format(before, form), format(after, form)
    if shown[0] == shown[1]:
        return f"stayed at {shown[1]}"
    return f"{'rose' if after > before else 'fell'} from {shown[0]} to {shown[1]}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.1f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _image(png: bytes, alt: str) -> str:
    return f'<img src="data:image/png;base64,{base64.b64encode(png).decode()}" alt="{escape(alt)}">'
