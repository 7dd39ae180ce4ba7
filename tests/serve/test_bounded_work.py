"""Texts of megabytes that are made to be slow: patterns see no more of them than their ends."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from talktune.conversations import marks, passing, words
from talktune.serve.capture import find_turn
from talktune.serve.capture.history_hash import history_hash
from talktune.serve.side import clients, likeness, telling, turn_kind
from talktune.types import Message

SIZE = 6_000_000
PIECES = [
    *("[", "]", "(", "[]", "<", ">", "{", "\n", " ", "\t", "7", "7.", "7:", "a ", "*", "#", "`", "|"),
    *("[12:30]\n", "[2026-01-01 10:00] ", "(2026-01-01) ", "Time: 12:30\n", "System: [x]\n", "<think>", "</think>"),
    *("<think></think>", "<time>", "<time>x</time>", "<task></task>", "</task>", "<<<EXTERNAL_X>>>", "\n\n# "),
    *("\nUntrusted context (x):", "(system):\n{\n", "user:\n", "title of the chat. ", "[x](", "http://x"),
]


class Counted:
    """A pattern that counts the characters in which it may look."""

    def __init__(self, pattern: re.Pattern[str], seen: list[int]) -> None:
        self._pattern = pattern
        self._seen = seen

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            text, *bounds = given[1:2] if name == "sub" else given
            start, stop = (*bounds, *(0, len(text))[len(bounds) :])
            self._seen.append(max(0, min(stop, len(text)) - start))
            found = getattr(self._pattern, name)(*given)
            if isinstance(found, re.Match):
                self._seen[-1] = found.end() - start
            return found

        return call


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    counts: list[int] = []

    def counted(value: Any) -> Any:
        if isinstance(value, re.Pattern):
            return Counted(value, counts)
        if type(value) is tuple:
            return tuple(map(counted, value))
        return value

    for module in (words, passing, marks, clients, turn_kind, telling, likeness, find_turn):
        for name, value in list(vars(module).items()):
            monkeypatch.setattr(module, name, counted(value))
    yield counts
    assert counts


@pytest.mark.parametrize("piece", PIECES)
def test_of_a_long_text_little_is_looked_at(seen: list[int], piece: str) -> None:
    text = piece * (SIZE // len(piece))
    framed = f"<task>[12:30] {text}\n[12:30]</task>"
    habits = passing.Habits([text, "[now 12:30] all is well"], [("[12:30] ", "\n[12:30]"), (text, text)], {})
    works: list[Callable[[], object]] = [
        lambda: words.words_of(text),
        lambda: words.words_of(framed),
        lambda: words.spoken(Message("tool", text)),
        lambda: marks.skeleton(text),
        lambda: marks.bare(text),
        lambda: marks.lines_of(Message("user", text)),
        lambda: history_hash([Message("user", text), Message("assistant", text)]),
        lambda: turn_kind.kind_of([Message("system", text), Message("user", text), Message("user", framed)]),
        lambda: habits.applied([Message("user", framed), Message("user", text)]),
        lambda: passing.compared([Message("user", framed)], [Message("user", text)], cut=False),
        lambda: passing.compared([Message("user", text)], [Message("user", piece * 50 + "x")], cut=False),
    ]
    for number, work in enumerate(works):
        seen.clear()
        work()
        assert sum(seen) < SIZE, number


def test_words_are_found_whatever_white_space_is_between_them() -> None:
    said = Message("user", "[now] tell me\n\n all\tabout owls [/now]")
    (found,) = passing.compared([said], [Message("user", "tell me all about owls")], cut=False) or ()
    assert found.words == "tell me\n\n all\tabout owls"
