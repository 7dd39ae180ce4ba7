"""The scored file: a line a conversation with the votes and rewards of its turns; `score` can be interrupted.

A line is written and flushed when its conversation is done. A second run on the same file takes over every
verdict that still fits, asks only for the rest, and at its end the file is rewritten at once, with the newest
line of each conversation in place of older ones.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import IO, Self, overload

from talktune.conversations.files import Problem, json_line
from talktune.conversations.readers import parse_file
from talktune.conversations.records import conversation_to_dict
from talktune.conversations.turns import skip_reason, turns_of
from talktune.errors import UserError
from talktune.files import unwritable, whole_file
from talktune.types import Conversation, Turn, Verdict


class ScoredTurns(Sequence[Turn]):
    """All turns of some conversations with what was judged of them, in order; a correction makes another one.

    A turn that nobody reacted to is among them, with `verdict` None.

    >>> turns = ScoredTurns(load_conversations("examples/conversations.jsonl"))
    >>> turns = turns.corrected("boiled-eggs:1", 1)
    >>> turns[0].verdict.reward, len(turns.waiting()) < len(turns)
    (1.0, True)
    """

    def __init__(self, conversations: Iterable[Conversation]) -> None:
        """The turns of these conversations, whose ids differ."""
        self.conversations = tuple(conversations)
        self._turns = [turn for conversation in self.conversations for turn in turns_of(conversation)]

    @overload
    def __getitem__(self, index: int) -> Turn: ...

    @overload
    def __getitem__(self, index: slice) -> list[Turn]: ...

    def __getitem__(self, index: int | slice) -> Turn | list[Turn]:
        return self._turns[index]

    def __len__(self) -> int:
        return len(self._turns)

    def __repr__(self) -> str:
        return f"<{len(self)} turns of {len(self.conversations)} conversations, {len(self.waiting())} to be scored>"

    def waiting(self) -> list[Turn]:
        """Those that can be scored and are not yet."""
        return [t for t in self if skip_reason(t) is None and (t.verdict is None or t.verdict.reward is None)]

    def corrected(self, turn: Turn | str, reward: float) -> "ScoredTurns":
        """The same with another reward for one turn, named by itself or by its id; the judge's votes stay.

        Raises `UserError` when the turn is none of these, and for a reward that is not from -1 to 1.
        """
        if not -1 <= reward <= 1:
            raise UserError(f"the reward is {reward}: it must be from -1 to 1")
        wanted = turn if isinstance(turn, str) else turn.id
        found = next((one for one in self if one.id == wanted), None)
        if found is None:
            raise UserError(f"there is no turn {wanted}")
        verdict = Verdict(found.verdict.votes if found.verdict else (), float(reward))
        return ScoredTurns(
            replace(c, verdicts={**c.verdicts, found.index: verdict}) if c.id == found.conversation_id else c
            for c in self.conversations
        )

    def save(self, path: Path | str) -> None:
        """Write a scored file, which commands and `load_conversations` read; it is replaced as a whole."""
        with whole_file(Path(path)) as file:
            file.writelines(json_line(conversation_to_dict(conversation)) for conversation in self.conversations)


def is_complete(conversation: Conversation) -> bool:
    """True when every turn that can be scored has a reward."""
    return all(
        turn.verdict is not None and turn.verdict.reward is not None
        for turn in turns_of(conversation)
        if skip_reason(turn) is None
    )


def read_scored(path: Path) -> dict[str, Conversation]:
    """The newest line of each conversation in a scored file, by id; {} for a new or empty file.

    Torn or foreign lines are passed over; a file of nothing else raises `UserError`: it was not ours.
    """
    if not path.is_file() or path.stat().st_size == 0:
        return {}
    found: dict[str, Conversation] = {}
    problem: Problem | None = None
    for item in parse_file(path):
        if isinstance(item, Problem):
            problem = problem or item
        else:
            found[item[0].id] = item[0]
    if problem is not None and not found:
        raise UserError(f"{path} exists and is not a scored file (line {problem.line}); choose another output file.")
    return found


def with_verdicts_of(conversation: Conversation, known: Conversation) -> Conversation:
    """`conversation` with the verdicts of `known` for every turn that is the same in both.

    The same means: prompt, answer, next state and tools are equal. So a session that grew keeps its old
    verdicts, and a turn that was edited is asked about again. Verdicts that `conversation` has stay.
    """
    old = {turn.index: turn for turn in turns_of(known)}
    verdicts: dict[int, Verdict] = dict(conversation.verdicts)
    for turn in turns_of(conversation):
        before = old.get(turn.index)
        if before is None or before.verdict is None or (turn.verdict and turn.verdict.reward is not None):
            continue
        here = (turn.prompt, turn.answer, turn.next_state, turn.tools)
        if here == (before.prompt, before.answer, before.next_state, before.tools):
            verdicts[turn.index] = before.verdict
    return replace(conversation, verdicts=verdicts)


class ScoredWriter:
    """Writes a scored file line by line and resumes one that is there.

        with ScoredWriter(path) as writer:
            for conversation in map(writer.resume, conversations):
                writer.write(conversation if is_complete(conversation) else judged(conversation))

    Leaving the block without an exception rewrites the file with one line a conversation; leaving it with one
    (Ctrl-C) keeps what was written. Lines of conversations that are not in this run's input stay.
    """

    def __init__(self, path: Path) -> None:
        """Opens `path` for appending; raises `UserError` when it cannot be written or is no scored file."""
        self.path = path
        self._known = read_scored(path)
        try:
            self._file: IO[bytes] = path.open("ab+")
            self._end_torn_line()
        except OSError as error:
            raise unwritable(path, error) from error

    @property
    def known(self) -> Mapping[str, Conversation]:
        """What the file holds by now, by conversation id."""
        return self._known

    def resume(self, conversation: Conversation) -> Conversation:
        """The conversation with every verdict that the file already has for it."""
        known = self._known.get(conversation.id)
        return conversation if known is None else with_verdicts_of(conversation, known)

    def write(self, conversation: Conversation) -> None:
        """Appends the conversation's line and flushes it; nothing is written when the file has just that."""
        if self._known.get(conversation.id) == conversation:
            return
        try:
            self._file.write(json_line(conversation_to_dict(conversation)))
            self._file.flush()
        except OSError as error:
            raise unwritable(self.path, error) from error
        self._known[conversation.id] = conversation

    def __enter__(self) -> Self:
        """The writer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the file; without an exception, rewrites it without stale lines."""
        try:
            self._file.close()
        except OSError as closing:  # what could not be written is tried once more
            if kind is None:
                raise unwritable(self.path, closing) from closing
        if kind is None and self.path.is_file():
            ScoredTurns(self._known.values()).save(self.path)

    def _end_torn_line(self) -> None:
        """A line that a killed run left half written must not swallow the next one."""
        if not self.path.is_file() or self._file.seek(0, os.SEEK_END) == 0:
            return
        self._file.seek(-1, os.SEEK_END)
        if self._file.read(1) != b"\n":
            self._file.write(b"\n")
            self._file.flush()
