"""`talktune turns`: verdicts, the newest first, and `turns fix` that corrects one; in a store or a scored file."""

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from rich.text import Text

from talktune.commands.console import out, plain, warn
from talktune.commands.options import AsJson, Output, Store
from talktune.config import Count
from talktune.errors import UserError
from talktune.store.opening import is_store, open_store
from talktune.terminal import say
from talktune.types import Message, Turn

if TYPE_CHECKING:
    from talktune.conversations.scored import ScoredTurns

File = Annotated[Path | None, Parameter(help="A scored file, or a store's file, instead of --store.")]
Id = Annotated[str, Parameter(help="The turn, as `talktune turns` names it.")]
Right = Annotated[
    Literal["+1", "0", "-1"], Parameter(help="What the verdict should have been.", allow_leading_hyphen=True)
]


def list_turns(
    file: File = None,
    /,
    *,
    store: Store = "talktune.db",
    bad: bool = False,
    unscored: bool = False,
    limit: Count = 20,
    as_json: AsJson = False,
) -> int:
    """Answers with their verdicts, the newest first: of a server's store, or of what `talktune score` wrote.

    Parameters
    ----------
    bad
        Only those with a negative verdict.
    unscored
        Only those without a verdict.
    limit
        How many.
    """
    if file is None or is_store(file):
        rows = _of_store(str(file or store), bad, unscored, limit)
    else:
        rows = _of_file(file, bad, unscored, limit)
    if as_json:
        say(json.dumps(rows))
    elif not rows:
        warn("There is no such turn.")
    else:
        for row in rows:
            _show(row)
    return 0


def fix(
    id: Id,
    verdict: Right,
    file: File = None,
    /,
    *,
    store: Store = "talktune.db",
    output: Output | None = None,
) -> int:
    """Correct the verdict on one turn: it counts instead of the judge's.

    Parameters
    ----------
    output
        With a scored file: the file to write, which may be the same.
    """
    if file is None or is_store(file):
        if output is not None:
            raise UserError("--output: a store is corrected where it is; leave it out.")
        warn(_fix_in_store(str(file or store), id, verdict))
        return 0
    if output is None:
        raise UserError(f"--output is missing: name the file to write, or {file} itself to correct it in place.")
    _fix_in_file(file, id, float(verdict), output)
    warn(f"{id} is {verdict} in {output}")
    return 0


def _of_store(where: str, bad: bool, unscored: bool, limit: int) -> list[dict[str, Any]]:
    from talktune.store.turn_lists import entries

    opened = open_store(where)
    try:
        return [
            {
                "id": one.id,
                "user": one.user,
                "created": one.created,
                "version": one.version,
                "reward": one.reward,
                "votes": [vote.label for vote in one.votes],
                "by_person": one.score is not None,
                "request": one.request,
                "answer": one.answer,
                "reaction": one.reaction,
                "better": one.better,
            }
            for one in entries(opened, None, limit=limit, bad=bad, unscored=unscored)
        ]
    finally:
        opened.close()


def _of_file(file: Path, bad: bool, unscored: bool, limit: int) -> list[dict[str, Any]]:
    rows = [_row(turn) for turn in reversed(_read(file)) if turn.kind == "main"]
    return [
        row
        for row in rows
        if not (bad and (row["reward"] is None or row["reward"] >= 0)) and not (unscored and row["reward"] is not None)
    ][:limit]


def _row(turn: Turn) -> dict[str, Any]:
    reward, votes = (None, ()) if turn.verdict is None else (turn.verdict.reward, turn.verdict.votes)
    return {
        "id": turn.id,
        "reward": reward,
        "votes": [vote.label for vote in votes],
        "request": _text(turn.prompt[-1:]),
        "answer": turn.answer.content,
        "reaction": _text(turn.next_state) if turn.next_state else None,
    }


def _text(messages: Sequence[Message]) -> str:
    return "\n".join(message.content for message in messages)


def _show(row: dict[str, Any]) -> None:
    """Three lines, each cut off where the terminal ends; in a pipe, whole."""
    out.print(Text(plain("  ".join(_facts(row)))), soft_wrap=True)
    for name in ("request", "answer", "reaction", "better"):
        if row.get(name):
            line = Text(plain(f"    {'wanted' if name == 'better' else name:>8}  {' '.join(row[name].split())}"))
            if out.is_terminal:
                line.truncate(out.width, overflow="ellipsis")
            out.print(line, soft_wrap=True, highlight=False)
    out.print()


def _facts(row: dict[str, Any]) -> Iterator[str]:
    yield row["id"]
    yield "unscored" if row["reward"] is None else f"{row['reward']:+g}" if row["reward"] else "0"
    if row.get("by_person"):
        yield "by a person"
    if row["votes"]:
        yield f"(votes {_votes(row['votes'])})"
    if "created" in row:
        yield datetime.fromtimestamp(row["created"]).astimezone().strftime("%m-%d %H:%M:%S")
        yield row["user"]
        yield "the model as it was" if row["version"] is None else f"version {row['version']}"


def _votes(labels: Iterable[int | None]) -> str:
    return " ".join("failed" if label is None else f"{label:+d}" if label else "0" for label in labels)


def _fix_in_store(where: str, id: str, verdict: str) -> str:
    """Feedback of the user whose turn it is; what is to be said of it."""
    from talktune.store.turn_lists import entry

    opened = open_store(where)
    try:
        found = entry(opened, None, id)
        if found is None or not opened.add_feedback(found.user, id, float(verdict), time.time()):
            raise UserError(f"There is no turn {id}; `talktune turns` lists those that there are.")
    finally:
        opened.close()
    if found.updates:
        return f"{id} is {verdict} now; update {found.updates[-1]} learned from it as it was, which stays."
    return f"{id} is {verdict} now: the next update that it is part of learns from that."


def _fix_in_file(file: Path, id: str, reward: float, output: Path) -> None:
    from talktune.conversations.files import read_lines

    known = _read(file)
    try:
        corrected = known.corrected(id, reward)
    except UserError as error:
        raise UserError(f"{file}: {error}; `talktune turns {file}` lists those that there are.") from error
    if output.resolve() == file.resolve() and sum(1 for _ in read_lines(file)) != len(known.conversations):
        raise UserError(
            f"{file}: not every line is a conversation of its own, and the others would be lost; give another --output."
        )
    corrected.save(output)


def _read(file: Path) -> "ScoredTurns":
    from talktune.conversations.scored import ScoredTurns, read_scored

    if not file.is_file():
        raise UserError(f"{file}: there is no such file; name a scored file, or a store with --store.")
    return ScoredTurns(read_scored(file).values())
