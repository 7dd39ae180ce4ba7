"""Files and folders that appear as a whole or not at all: written under a temporary name, synced, then renamed."""

import errno
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from talktune.errors import UserError

OUTSIDE = frozenset(
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EIO", "EACCES", "EPERM", "ENOENT", "ENOTDIR", "EISDIR")
)
"""Codes of an OSError that are a disk's or a folder's, and no fault of the program."""
_ROOM = 1 << 20


@contextmanager
def whole_file(path: Path) -> Generator[IO[bytes]]:
    """Write into the file that this gives; it becomes `path` in one step, and an exception leaves all as it was.

    What is not a plain file (`/dev/stdout`) is written directly. UserError when `path` cannot be written.
    """
    path = path.resolve()
    whole = not path.exists() or path.is_file()
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp") if whole else path
    try:
        with partial.open("wb") as file:
            yield file
            if whole:
                file.flush()
                os.fsync(file.fileno())
        if whole:
            if path.exists():
                shutil.copymode(path, partial)
            partial.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        if whole:
            with suppress(OSError):  # the error that is under way says more
                partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(target: Path) -> Generator[Path]:
    """Write into the folder that this gives; on exit it is synced and becomes `target` in one step.

    An exception leaves all as it was. UserError when it cannot be written, also where the folder around it is gone.
    """
    partial = target.with_name(f".{target.name}.tmp")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.parent.mkdir(exist_ok=True)
        partial.mkdir()
        yield partial
        for path in (*partial.iterdir(), partial):
            _sync(path)
        _move(partial, target)
    except OSError as error:
        raise unwritable(target, error) from error
    except Exception as error:
        if (reason := _no_room(partial)) is None:
            raise
        raise unwritable(target, reason) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def put_in_place(made: Path, target: Path) -> None:
    """Let a folder that is on the disk become `target` in one step; what was there goes. UserError when it cannot."""
    try:
        target.parent.mkdir(exist_ok=True)
        _move(made, target)
    except OSError as error:
        raise unwritable(target, error) from error


def _move(made: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    made.rename(target)
    _sync(target.parent)


def _no_room(folder: Path) -> OSError | None:
    """Why nothing can be written there: torch and safetensors have errors of their own for a full disk."""
    try:
        with (folder / "room").open("wb") as file:
            file.write(bytes(_ROOM))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error
    return None


def unwritable(path: Path, error: OSError) -> UserError:
    """The sentence for a file that cannot be written."""
    reason = error.strerror or error
    return UserError(f"{path} cannot be written ({reason}); choose another output file, or mend what is in its way.")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
