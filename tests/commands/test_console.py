"""What commands print on the terminal."""

import pytest
from rich.progress import TimeRemainingColumn

from talktune.commands.console import out, plain, progress, table


def test_a_progress_bar_says_how_long_it_will_take() -> None:
    bar = progress()
    assert sum(isinstance(column, TimeRemainingColumn) for column in bar.columns) == 1


def test_what_others_wrote_cannot_command_the_terminal() -> None:
    assert plain("a\x1b]0;title\x07\tb\r\nc\u202e é 好") == "a\ufffd]0;title\ufffd\tb\ufffd\nc\ufffd é 好"


@pytest.mark.parametrize("terminal", [True, False])
def test_a_table_breaks_no_name_and_in_a_pipe_nothing(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(out, "_force_terminal", terminal)
    monkeypatch.setattr(out, "_width", 40)
    monkeypatch.setattr(out, "_color_system", None)
    reason = "facts: 3 of 20 that the base model knows, wanted 80%; answers that end: 3, wanted 17"
    table("Versions", ("version", "state", "of", "reason"), [("policy-000001", "published, files gone", "ann", reason)])
    lines = capsys.readouterr().out.splitlines()
    assert "policy-000001" in "\n".join(lines)
    assert (max(map(len, lines)) <= 40) is terminal
    assert any(reason in line for line in lines) is not terminal
    assert all(line == line.rstrip() for line in lines[1:])
