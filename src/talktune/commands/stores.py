"""Stores on the command line: told from files of conversations, opened, and `talktune forget`."""

from pathlib import Path

from talktune.commands.console import table, warn
from talktune.errors import UserError
from talktune.store.store import Store

MAGIC = b"SQLite format 3\0"
"""How every SQLite file begins (https://www.sqlite.org/fileformat.html)."""


def is_store(path: Path) -> bool:
    """Whether the file is a SQLite database, whatever its name."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def open_store(path: Path) -> Store:
    """Open a store that exists; UserError when it does not."""
    if not is_store(path):
        raise UserError(f"{path}: there is no store; name the database file that the server writes.")
    return Store(path)


def open_database(where: str) -> Store:
    """Open a store by its file or URL; UserError when there is none."""
    return Store(where) if "://" in where else open_store(Path(where))


def forget(path: Path, user: str | None, conversation: str | None) -> int:
    """The command."""
    if user is None and conversation is None:
        raise UserError("Give --user or --conversation: without them there is nothing to forget.")
    store = open_store(path)
    forgotten = store.forget(user=user, conversation=conversation)
    if not forgotten.conversations:
        raise UserError(f"{path}: holds nothing of {' and '.join(x for x in (user, conversation) if x)}.")
    rows = [("conversations", forgotten.conversations), ("turns", forgotten.turns)]
    table("Deleted", ("what", "number"), rows)
    if forgotten.versions:
        warn(f"Policy versions that were trained on it: {', '.join(map(str, forgotten.versions))}.")
    else:
        warn("No policy version was trained on it.")
    return 0
