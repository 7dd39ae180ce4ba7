"""What is written to a terminal: what models, files and servers say is text there, and never steers it.

An escape code can clear the screen, rename the window, write to the clipboard, and on some terminals type for whoever
sits there. Each control character becomes a visible sign; line breaks and tabs stay. rich's consoles do the same for
the commands (`talktune.commands.console`); ruff forbids a bare `print`.
"""

import logging
import os
import sys

_C0 = [c for c in (*range(0x20), 0x7F) if c not in (0x09, 0x0A)]
# C1, in which 0x9B opens a code as ESC [ does; what turns the direction of writing; halves of a pair, which no
# terminal's encoding has.
_OTHERS = (*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A), *range(0xD800, 0xE000))
_SIGNS = {c: chr(0x2421 if c == 0x7F else 0x2400 + c) for c in _C0} | dict.fromkeys(_OTHERS, "\ufffd")


def printable(text: str) -> str:
    """The text with a sign in the place of every control character but line breaks and tabs."""
    return text.translate(_SIGNS)


def rank_of_torchrun() -> int | None:
    """Which of several processes that torchrun started this is; None where it did not, or started but one."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ.get("WORLD_SIZE", "1") == "1":
        return None
    return int(os.environ["RANK"])


def speaks() -> bool:
    """Whether this process is the one that tells people how it goes: of several ranks only the first does."""
    return not rank_of_torchrun()


def say(text: object) -> None:
    """A line on stdout, at once."""
    print(printable(str(text)), flush=True)  # noqa: T201


def complain(text: object) -> None:
    """A line on stderr: what is wrong, in a sentence."""
    if speaks():
        print(f"talktune: {printable(str(text))}", file=sys.stderr)  # noqa: T201


def log_to_stderr() -> None:
    """Let warnings and errors that are logged be lines on stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING if speaks() else logging.ERROR, handlers=[handler])


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))
