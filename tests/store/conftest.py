"""PostgreSQL for the store's tests: the database that a variable names, or a cluster of their own for one run."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from talktune.store import schema
from talktune.store.store import Store

NAMED = os.environ.get("TALKTUNE_TEST_DATABASE")
DEBIAN = Path("/usr/lib/postgresql")


def _binaries() -> Path | None:
    """The folder of PostgreSQL's programs, the newest of several: Debian's are not on the PATH."""
    found = sorted(DEBIAN.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of an empty database; skipped where PostgreSQL is not installed."""
    if NAMED is not None:
        yield NAMED
        return
    binaries = _binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed, and TALKTUNE_TEST_DATABASE names no database")
    pytest.importorskip("psycopg")
    root = os.geteuid() == 0  # which PostgreSQL refuses to run as
    # Not pytest's folder: only its owner may enter it, and a socket's path must be short.
    with tempfile.TemporaryDirectory(prefix="talktune-pg-") as folder:
        if root:
            shutil.chown(folder, "postgres")

        def run(program: str, *arguments: str) -> None:
            command = [*(["runuser", "-u", "postgres", "--"] if root else []), str(binaries / program), *arguments]
            # Into a file: the server inherits it, and would keep a pipe open.
            with (Path(folder) / f"{program}.out").open("w+") as out:
                done = subprocess.run(command, cwd=folder, stdout=out, stderr=out, check=False)
                out.seek(0)
                assert done.returncode == 0, out.read()

        run("initdb", "-D", f"{folder}/data", "-U", "talktune", "-A", "trust", "-E", "UTF8", "--no-sync")
        options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
        run("pg_ctl", "-D", f"{folder}/data", "-w", "-l", f"{folder}/log", "-o", options, "start")
        try:
            yield f"postgresql://talktune@/postgres?host={folder}"
        finally:
            run("pg_ctl", "-D", f"{folder}/data", "-w", "-m", "immediate", "stop")


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty store, on SQLite and on PostgreSQL."""
    if request.param == "postgresql":
        url = request.getfixturevalue("postgresql")
        made = Store(url)
        with made.engine.begin() as c:
            schema.metadata.drop_all(c)
        made.close()
        made = Store(url)
    else:
        made = Store(tmp_path / "store.db")
    yield made
    made.close()
