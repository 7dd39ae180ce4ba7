"""Files in: the entries of JSONL, a JSON list or Parquet, gzip or not."""

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from talktune.errors import UserError

GZIP_MAGIC = b"\x1f\x8b"
BOM = b"\xef\xbb\xbf"
HALF_SURROGATE = re.compile(rb"\\ud[89a-f]", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Problem:
    """What was wrong with (or had to be changed in) one line of a file."""

    path: Path
    line: int
    """From 1; in a JSON list or Parquet file, the number of the entry."""
    reason: str

    def __str__(self) -> str:
        """File, line and reason, as a user reads them."""
        return f"{self.path}, line {self.line}: {self.reason}"


def read_records(path: Path) -> Iterator[tuple[int, object] | Problem]:
    """Every entry of a file as (line, JSON value), and a `Problem` for each line that is no JSON.

    Blank lines are no entries. Raises `UserError` for a file that is missing, unreadable or empty.
    """
    if path.suffix == ".parquet":
        _check_readable(path)
        yield from enumerate(_read_parquet(path), start=1)
        return
    seen = False
    for number, line in read_lines(path):
        if isinstance(line, Problem):
            yield line
            return
        if not line.strip():
            continue
        if not seen and line.lstrip().startswith(b"["):
            yield from _read_json_list(path)
            return
        seen = True
        try:
            yield number, parse_json(line.strip())
        except ValueError as error:
            yield Problem(path, number, str(error))
    if not seen:
        raise UserError(f"{path} is empty; give a file with one conversation a line.")


def read_lines(path: Path) -> Iterator[tuple[int, bytes | Problem]]:
    """Numbered lines of a plain or gzipped file; broken gzip data ends it with a `Problem`."""
    _check_readable(path)
    number = 0
    try:
        with open_binary(path) as file:
            for number, line in enumerate(file, start=1):
                yield number, line.removeprefix(BOM) if number == 1 else line
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        yield number + 1, Problem(path, number + 1, f"the gzip data is damaged from here on ({error})")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}); check the file.") from error


def strict_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The same, without blank lines; a `Problem` is a UserError."""
    for number, line in read_lines(path):
        if isinstance(line, Problem):
            raise UserError(f"{line}; correct the file.")
        if line.strip():
            yield number, line


def open_binary(path: Path) -> IO[bytes]:
    """The file for reading, unpacked when its first bytes say gzip, whatever its name."""
    with path.open("rb") as file:
        packed = file.read(2) == GZIP_MAGIC
    return cast(IO[bytes], gzip.open(path, "rb")) if packed else path.open("rb")


def parse_json(line: bytes) -> object:
    """The JSON value of one line; raises ValueError with a reason that reads well after file and line."""
    try:
        value = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant)
        if HALF_SURROGATE.search(line):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        at = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"it is not JSON ({error.msg}, {at})") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 text (byte {error.start + 1})") from None
    except UnicodeEncodeError:
        raise ValueError("it holds half a surrogate pair (\\ud…), which is not text") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value


def json_line(value: Mapping[str, Any]) -> bytes:
    """One JSONL line in UTF-8."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n"


def parquet_module() -> Any:
    """`pyarrow.parquet`, or a `UserError` that says how to get it."""
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise UserError(
            "Parquet needs pyarrow; install it with `pip install talktune[parquet]`, or use a .jsonl file."
        ) from None
    return cast(Any, parquet)


def _read_parquet(path: Path) -> Sequence[object]:
    parquet = parquet_module()
    try:
        rows = cast(list[object], parquet.read_table(path).to_pylist())
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise UserError(f"{path} is not a readable Parquet file ({reason}); check the file.") from error
    if not rows:
        raise UserError(f"{path} is empty; give a file with one conversation a row.")
    return rows


def _read_json_list(path: Path) -> Iterator[tuple[int, object] | Problem]:
    """A file that is one JSON list, as ShareGPT data often is; its entries count as lines."""
    try:
        with open_binary(path) as file:
            entries = parse_json(file.read().removeprefix(BOM))
    except (ValueError, EOFError, OSError, zlib.error) as error:
        yield Problem(path, 1, str(error))
        return
    if not isinstance(entries, list):
        raise UserError(f"{path} is neither JSON lines nor a list of conversations; convert it to JSON lines.")
    if not entries:
        raise UserError(f"{path} is empty; give a file with one conversation a line.")
    yield from enumerate(cast(list[object], entries), start=1)


def _check_readable(path: Path) -> None:
    if path.is_dir():
        raise UserError(f"{path} is a directory; name the files in it.")
    try:
        with path.open("rb"):
            pass
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; check the name of the file.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}); check the file.") from error


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not a JSON number")
