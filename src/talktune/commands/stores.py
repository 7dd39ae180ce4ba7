"""Stores on the command line: told from files of conversations, opened, and `talktune forget`."""

from pathlib import Path
from typing import TYPE_CHECKING

from talktune.commands.console import table, warn
from talktune.errors import UserError

if TYPE_CHECKING:
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


def open_store(where: Path | str) -> "Store":
    """Open a store by its file, or a string that is a file or URL; UserError when there is none."""
    from talktune.store.store import Store

    if "://" not in str(where) and not is_store(Path(where)):
        raise UserError(f"{where}: there is no store; name the database file that the server writes.")
    return Store(where)


def forget(store: Path, /, *, user: str | None = None, conversation: str | None = None) -> int:
    """Really delete what a user said, or one conversation, and say which policy versions were trained on it.

    Parameters
    ----------
    store
        The store's file.
    user
        Everything of this user.
    conversation
        One conversation, by its id; together with --user only if it is that user's.
    """
    if user is None and conversation is None:
        raise UserError("Give --user or --conversation: without them there is nothing to forget.")
    forgotten = open_store(store).forget(user=user, conversation=conversation)
    if not forgotten.conversations:
        raise UserError(f"{store}: holds nothing of {' and '.join(x for x in (user, conversation) if x)}.")
    rows = [("conversations", forgotten.conversations), ("turns", forgotten.turns)]
    table("Deleted", ("what", "number"), rows)
    if forgotten.versions:
        warn(f"Policy versions that were trained on it: {', '.join(map(str, forgotten.versions))}.")
    else:
        warn("No policy version was trained on it.")
    return 0
