"""The database behind the store: SQLite or PostgreSQL, opened so that a commit lasts and an outage is a sentence.

Open it to see with which options, and what each of them is for.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, ExceptionContext, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError

from talktune.errors import StoreDownError

BUSY_MS = 10_000
"""How long a writer waits for another process's transaction."""


def open_engine(where: str | Path) -> Engine:
    """A SQLite file by its path, or a database by SQLAlchemy's URL; nothing is asked of it yet."""
    url = str(where) if "://" in str(where) else f"sqlite:///{where}"
    if url.startswith(("postgresql://", "postgres://")):  # SQLAlchemy would ask for the driver's predecessor
        url = "postgresql+psycopg://" + url.split("://", 1)[1]
    if url.startswith("sqlite:///") and (name := make_url(url).database) not in (None, "", ":memory:"):
        _make_private(Path(name))
    # A connection that died while nobody used it is opened again, before anything is asked over it.
    engine = create_engine(url, pool_pre_ping=not url.startswith("sqlite"))
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _sqlite_options)
        event.listen(engine, "begin", _sqlite_begin)
    return engine


def report_outages(engine: Engine) -> None:
    """From now on a PostgreSQL server that cannot be reached raises StoreDownError."""
    if engine.dialect.name == "postgresql":
        event.listen(engine, "handle_error", _down)


def shown(where: str | Path) -> str:
    """A store as it may be printed: a URL may hold a password."""
    return str(where) if "@" not in str(where) else str(where).split("://")[0] + "://…"


def _down(context: ExceptionContext) -> None:
    """Say in a sentence that the database cannot be reached."""
    if context.is_pre_ping:
        return  # it is tried again with a new connection
    if context.is_disconnect or (context.connection is None and isinstance(context.sqlalchemy_exception, DBAPIError)):
        said = str(context.original_exception).strip() or type(context.original_exception).__name__
        reason = said.splitlines()[0]
        raise StoreDownError(f"the database cannot be reached ({reason}).") from context.original_exception


def _sqlite_options(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # sqlite3 would begin transactions in its own way
    for option in (
        f"busy_timeout = {BUSY_MS}",  # first: the next one may have to wait for another process that does the same
        "journal_mode = WAL",
        "synchronous = FULL",  # a commit that was acknowledged survives a loss of power
        "foreign_keys = ON",
        "secure_delete = ON",  # what is forgotten is overwritten
    ):
        connection.execute(f"PRAGMA {option}")


def _sqlite_begin(connection: Connection) -> None:
    # IMMEDIATE: two transactions that both read first and then write would refuse each other. Readers wait for none,
    # and one question is a transaction by itself.
    options = connection.get_execution_options()
    if not options.get("talktune_asks"):
        connection.exec_driver_sql("BEGIN" if options.get("talktune_reads") else "BEGIN IMMEDIATE")


def _make_private(path: Path) -> None:
    """A SQLite file that nobody but its owner reads; SQLite gives its journals the same mode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    for one in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))):
        with suppress(OSError):  # it is not there, or somebody else's who lets us write
            one.chmod(0o600)
