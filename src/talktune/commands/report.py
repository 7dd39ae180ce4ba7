"""`talktune report`: the plots and the page of a run, anew."""

from pathlib import Path

from talktune.terminal import say


def report(run: Path, /) -> int:
    """Draw the plots and the HTML page of a run again.

    Parameters
    ----------
    run
        A run directory.
    """
    from talktune.report.page import make_report

    say(make_report(run))
    return 0
