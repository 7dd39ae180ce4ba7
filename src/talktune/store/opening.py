"""Tells a store from a file of conversations, and opens it; SQLAlchemy is loaded only then.

Open it when a command takes a file for a store.
"""

from pathlib import Path
from typing import TYPE_CHECKING

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
