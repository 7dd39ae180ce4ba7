"""`talktune lab`: experiments of the course, each a table, a picture and its numbers; `all` makes the page too."""

from pathlib import Path
from typing import Any

from talktune.commands.console import out, progress, table
from talktune.commands.options import Output
from talktune.config import LabConfig

EVERYTHING = "all"


def lab(name: str, /, *, output: Output = Path("runs/lab"), config: LabConfig = LabConfig()) -> int:
    """Run an experiment of the course, or all of them: a table, a picture and its numbers; `all` makes a page too.

    Parameters
    ----------
    name
        voting, advantages, overlong, clip, training, summary, dynamic-clip, weighted-voting, judge-quality,
        group-size, biased-judge, fresh-answers, ablation, memory, or all (which keeps what it finished before).
    output
        The directory for pictures, numbers and page.
    """
    from talktune.lab.course import NAMES, find_experiment, kept_result, make_output, run_experiment
    from talktune.lab.page import write_page

    names = NAMES if name == EVERYTHING else (name,)
    for one in names:
        find_experiment(one)  # rather now than half way
    make_output(output)
    results: dict[str, dict[str, Any]] = {}
    kept = 0
    with progress() as bar:
        task = bar.add_task("starting", total=len(names))
        for one in names:
            bar.update(task, description=one)
            result = kept_result(one, config, output) if name == EVERYTHING else None
            if result is None:
                result = run_experiment(one, config, output, lambda what: bar.update(task, description=what))
            else:
                kept += 1
            results[one] = result
            bar.advance(task)
    for one, result in results.items():
        table(find_experiment(one).title, result["columns"], result["rows"])
        out.print(result["conclusion"], markup=False, highlight=False)
    if name != EVERYTHING:
        out.print(f"Picture: {output / name}.png\nNumbers: {output / name}.json", markup=False, soft_wrap=True)
        return 0
    page = write_page(results, output)
    if kept:
        out.print(f"{kept} of {len(names)} experiments were there already, with the same options.")
    out.print(f"Course: {page}\nPictures and numbers: {output}", markup=False, soft_wrap=True)
    return 0
