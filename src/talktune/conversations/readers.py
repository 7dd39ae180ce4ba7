"""Files into conversations: bad lines are reported, the rest is used, nothing is dropped silently."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from talktune.conversations.files import Problem, read_records
from talktune.conversations.messages import BadConversation
from talktune.conversations.records import conversation_from_dict
from talktune.errors import UserError
from talktune.types import Conversation


@dataclass(frozen=True, slots=True)
class ReadResult:
    """What a set of files holds; `str()` of a problem or a note names file, line and reason."""

    conversations: tuple[Conversation, ...]
    problems: tuple[Problem, ...] = ()
    """Lines that could not be used."""
    notes: tuple[Problem, ...] = ()
    """Lines that were used, but not as they stand: a taken id was changed, or two lines became one."""


def read_conversations(
    paths: Sequence[Path | str], *, strict: bool = False, known: Sequence[Conversation] = ()
) -> ReadResult:
    """All conversations of the files, in order, behind those that are `known` already (from stores).

    Two lines with one given id and the same messages are one conversation: what the later line knows of a
    turn stands, as `score` appends a line again when it knows more. Any other line with a taken id gets a
    new one (`id#2`), with a note when the id was given.

    Raises `UserError` for a file that is missing, unreadable or empty, when no line at all can be used, and,
    with `strict`, at the first line that cannot.
    """
    found: dict[str, Conversation] = {conversation.id: conversation for conversation in known}
    lines: dict[str, Problem] = {}
    problems: list[Problem] = []
    notes: list[Problem] = []
    for item in (item for path in paths for item in parse_file(Path(path))):
        if isinstance(item, Problem):
            if strict:
                raise UserError(f"{item}; correct that line, or leave out --strict to use the others.")
            problems.append(item)
            continue
        conversation, given, at = item
        taken = found.get(conversation.id)
        if taken is not None and given and taken.messages == conversation.messages:
            before = lines.get(taken.id)
            same = "one of a store" if before is None else f"line {before.line} of {before.path}"
            reason = f"it is the same conversation as {same}"
            notes.append(replace(at, reason=f"{reason}; the two became one"))
            conversation = _joined(taken, conversation)
        elif taken is not None:
            fresh = _free_id(conversation.id, found)
            if given:
                reason = f"the id {conversation.id!r} is taken; this conversation is called {fresh!r}"
                notes.append(replace(at, reason=reason))
            conversation = replace(conversation, id=fresh)
        found[conversation.id] = conversation
        lines[conversation.id] = at
    if not lines:
        names = ", ".join(str(path) for path in paths)
        first = f"; the first problem is in {problems[0]}" if problems else "; name at least one file"
        raise UserError(f"There is no conversation that can be read{f' in {names}' if names else ''}{first}.")
    return ReadResult(tuple(found.values()), tuple(problems), tuple(notes))


def parse_file(path: Path) -> Iterator[tuple[Conversation, bool, Problem] | Problem]:
    """Each line of one file: (conversation, whether its id was given, its place), or the problem with it."""
    for record in read_records(path):
        if isinstance(record, Problem):
            yield record
            continue
        number, raw = record
        try:
            conversation = conversation_from_dict(raw)
        except BadConversation as reason:
            yield Problem(path, number, str(reason))
            continue
        except RecursionError:
            yield Problem(path, number, "it is nested too deeply")
            continue
        given = isinstance(raw, dict) and raw.get("id") not in (None, "")
        yield conversation, given, Problem(path, number, "")


def _joined(old: Conversation, new: Conversation) -> Conversation:
    return replace(
        new,
        kinds={**old.kinds, **new.kinds},
        sampled={**old.sampled, **new.sampled},
        verdicts={**old.verdicts, **new.verdicts},
        finishes={**old.finishes, **new.finishes},
        wanted={**old.wanted, **new.wanted},
    )


def _free_id(taken: str, found: dict[str, Conversation]) -> str:
    number = 2
    while f"{taken}#{number}" in found:
        number += 1
    return f"{taken}#{number}"
