from hypothesis import given
from hypothesis import strategies as st

from talktune.conversations.passing import Habits, compared
from talktune.conversations.words import spoken
from talktune.types import Message

words = st.text(alphabet="abcdefgh ", min_size=4, max_size=30).map(str.strip).filter(lambda t: len(t) >= 4)
numbers = st.integers(0, 99)


def user(text: str) -> Message:
    return Message("user", text)


def seen(first: list[Message], shown: list[Message], new: list[Message]) -> list[str]:
    """What counts of new messages, once a history has shown what became of the first ones."""
    habits = Habits()
    known = compared(first, shown, cut=False)
    assert known is not None
    habits.learn(known)
    return [text for m in habits.applied(new) if (text := spoken(m))]


ENVELOPES = (
    "[box {} up] {}",
    "({} jobs run, all quiet) {}",
    "It is now {}:10 on Friday, host up. {}",
    "Load of the machine: {}\nnext line {}\n---\n{}",
    "{2}\n\nThe host has load {0}.\nNever forget {1} things.",
    "{1} [battery {0} %]",
)


@given(st.sampled_from(ENVELOPES), words, words, numbers, numbers)
def test_an_envelope_seen_once_is_known(envelope: str, first: str, later: str, a: int, b: int) -> None:
    def wrapped(text: str, n: int) -> str:
        return envelope.format(n, *([n] if "{2}" in envelope or envelope.count("{") == 3 else []), text)

    assert seen([user(wrapped(first, a))], [user(first)], [user(wrapped(later, b))]) == [later]


@given(words, words, numbers, numbers, st.booleans())
def test_a_passing_message_seen_once_is_known_wherever_it_stands(
    first: str, later: str, a: int, b: int, front: bool
) -> None:
    def sent(text: str, n: int) -> list[Message]:
        context = user(f"STATE OF THE HOST\nload {n} of {n + 1}, all services run")
        return [context, user(text)] if front else [user(text), context]

    assert seen(sent(first, a), [user(first)], sent(later, b)) == [later]


@given(st.lists(words, min_size=1, max_size=3), st.lists(words, min_size=1, max_size=3))
def test_where_nothing_went_nothing_is_taken(first: list[str], later: list[str]) -> None:
    said = [user(text) for text in first]
    assert seen(said, said, [user(text) for text in later]) == later


def test_a_history_that_shows_nothing_teaches_nothing() -> None:
    assert compared([user("hello there")], [], cut=False) is None
    assert compared([user("hello there")], [user("a summary of much that was said")], cut=False) is None
    cut = compared([user("one thing"), user("another")], [user("another")], cut=True)
    assert cut is not None
    assert [m.words for m in cut] == [None, None]


def test_a_block_in_tags_goes_as_a_whole() -> None:
    """Its first tag alone is no envelope: the rest would be taken for the person's words."""
    before, later = ("<note>\nThe file {} was changed.\n</note>\n\n{}", "<note>\nNo list is open.\n</note>\n\n{}")
    told = [user(before.format("a.py", "hello there"))]
    assert seen(told, [user("hello there")], [user(later.format("that is wrong"))]) == ["that is wrong"]
    behind = "{}\n\n<note at=2>\nThe file {} was changed.\n</note>"
    told = [user(behind.format("hello there", "a.py"))]
    assert seen(told, [user("hello there")], [user(behind.format("too long", "b.c"))]) == ["too long"]
