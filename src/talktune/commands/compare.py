"""`talktune compare`: runs beside each other, as a table and a plot."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from talktune.commands.console import table, warn
from talktune.commands.options import Output


def compare(
    runs: Annotated[list[Path], Parameter(help="Run directories of `train` and `demo`, and stores of servers.")],
    /,
    *,
    output: Output = Path("compare.png"),
) -> int:
    """Compare runs: what they were set to, what came out, what it cost; a table, and a plot as a file.

    Parameters
    ----------
    output
        The plot to write, a PNG.
    """
    from talktune.files import whole_file
    from talktune.report.compare import LAST
    from talktune.report.compare import compare as run
    from talktune.report.plots import png

    found = run(*runs)
    table(f"Final metrics are means of the last {LAST} updates", ("", *found.names), found.rows)
    for note in found.notes:
        warn(note)
    with whole_file(output) as file:
        file.write(png(found.plot()))
    warn(f"Plot: {output}")
    return 0
