"""What commands print on the terminal."""

from rich.progress import TimeRemainingColumn

from talktune.commands.console import plain, progress


def test_a_progress_bar_says_how_long_it_will_take() -> None:
    bar = progress()
    assert sum(isinstance(column, TimeRemainingColumn) for column in bar.columns) == 1


def test_what_others_wrote_cannot_command_the_terminal() -> None:
    assert plain("a\x1b]0;title\x07\tb\r\nc\u202e é 好") == "a\ufffd]0;title\ufffd\tb\ufffd\nc\ufffd é 好"
