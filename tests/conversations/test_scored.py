import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from talktune.conversations.readers import read_conversations
from talktune.conversations.scored import ScoredTurns, ScoredWriter, is_complete, read_scored, with_verdicts_of
from talktune.errors import UserError
from talktune.types import Conversation, Message, Sampled, Verdict, Vote

GOOD = Verdict((Vote(1, 0.9, "oracle"), Vote(None, None, "oracle", "timed out")), 1.0)
FAILED = Verdict((Vote(None, None, "endpoint", "refused"),), None)


def talk(name: str, *replies: str) -> Conversation:
    messages = [Message("user", f"Question of {name}")]
    for reply in replies:
        messages += [Message("assistant", "An answer."), Message("user", reply)]
    return Conversation(name, tuple(messages))


def scored(conversation: Conversation, *indices: int) -> Conversation:
    return replace(conversation, verdicts=dict.fromkeys(indices, GOOD))


def interrupted(path: Path, *conversations: Conversation) -> None:
    """A run that writes these and is stopped by Ctrl-C."""

    def stopped() -> Iterator[Conversation]:
        yield from conversations
        raise KeyboardInterrupt

    with suppress(KeyboardInterrupt), ScoredWriter(path) as writer:
        for conversation in stopped():
            writer.write(conversation)


def test_complete_means_that_every_turn_that_can_be_scored_is() -> None:
    conversation = talk("a", "thanks", "hm")
    assert not is_complete(conversation)
    assert not is_complete(scored(conversation, 1))
    assert is_complete(scored(conversation, 1, 3))
    assert is_complete(scored(replace(conversation, kinds={1: "side"}), 3))
    assert not is_complete(replace(conversation, verdicts={1: GOOD, 3: FAILED}))
    assert is_complete(replace(conversation, messages=conversation.messages[:2]))


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "scored.jsonl"
    sampled = Sampled((1, 2), (3,), (-0.25,), 0.7, 4)
    conversations = [
        scored(talk("a", "thanks"), 1),
        replace(scored(talk("b", "no", "ok"), 3), sampled={1: sampled}),
    ]
    with ScoredWriter(path) as writer:
        for conversation in conversations:
            writer.write(conversation)
    assert list(read_conversations([path]).conversations) == conversations


def test_a_line_is_on_disk_as_soon_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "scored.jsonl"
    with ScoredWriter(path) as writer:
        writer.write(scored(talk("a", "thanks"), 1))
        assert list(read_scored(path)) == ["a"]


def test_an_interrupted_run_is_resumed_without_asking_again(tmp_path: Path) -> None:
    path = tmp_path / "scored.jsonl"
    conversations = [talk(name, "thanks") for name in "abc"]
    interrupted(path, scored(conversations[0], 1), replace(conversations[1], verdicts={1: FAILED}))
    with path.open("ab") as file:
        file.write(b'{"id": "c", "mess')  # killed in the middle of a line
    asked: list[str] = []
    with ScoredWriter(path) as writer:
        for conversation in map(writer.resume, conversations):
            if not is_complete(conversation):
                asked.append(conversation.id)
            writer.write(conversation if is_complete(conversation) else scored(conversation, 1))
    assert asked == ["b", "c"]
    assert list(read_conversations([path], strict=True).conversations) == [scored(c, 1) for c in conversations]
    assert read_conversations([path]).notes == ()


def test_the_torn_line_of_a_killed_run_does_not_swallow_the_next(tmp_path: Path) -> None:
    path = tmp_path / "scored.jsonl"
    path.write_bytes(b'{"id": "a", "messages": [{"role": "user", "content": "x"}, {"role": "assistant"}]}\n{"id"')
    interrupted(path, scored(talk("b", "thanks"), 1))
    assert list(read_scored(path)) == ["a", "b"]


def test_lines_of_other_inputs_stay(tmp_path: Path) -> None:
    path = tmp_path / "scored.jsonl"
    for name in "ab":
        with ScoredWriter(path) as writer:
            writer.write(scored(talk(name, "thanks"), 1))
    assert list(read_scored(path)) == ["a", "b"]


def test_a_second_run_with_nothing_to_do_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "scored.jsonl"
    conversation = scored(talk("a", "thanks"), 1)
    with ScoredWriter(path) as writer:
        writer.write(conversation)
    before = path.read_bytes()
    with ScoredWriter(path) as writer:
        writer.write(writer.resume(talk("a", "thanks")))
    assert path.read_bytes() == before


def test_a_conversation_that_grew_keeps_the_verdicts_that_still_fit() -> None:
    known = replace(talk("a", "thanks", "hm"), verdicts={1: GOOD, 3: GOOD})
    grown = talk("a", "thanks", "hm", "bye")
    edited = talk("a", "thanks", "what?")
    assert with_verdicts_of(grown, known).verdicts == {1: GOOD, 3: GOOD}
    assert with_verdicts_of(edited, known).verdicts == {1: GOOD}
    other_tools = replace(talk("a", "thanks"), tools=({"type": "function"},))
    assert with_verdicts_of(other_tools, known).verdicts == {}
    own = replace(talk("a", "thanks"), verdicts={1: Verdict((), -1.0)})
    assert with_verdicts_of(own, known).verdicts == {1: Verdict((), -1.0)}


def test_the_newest_line_of_a_changed_conversation_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "scored.jsonl"
    for replies in (["thanks"], ["thanks", "bye"]):
        with ScoredWriter(path) as writer:
            writer.write(scored(talk("a", *replies), 1))
    assert len(path.read_text().splitlines()) == 1
    assert len(read_scored(path)["a"].messages) == 5


def test_an_output_that_cannot_be_written_is_said_at_once(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing" / "scored.jsonl"):
        with pytest.raises(UserError, match=r"cannot be written .*; choose another output file"):
            ScoredWriter(path)


def test_a_foreign_file_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("my notes\n")
    with pytest.raises(UserError, match="is not a scored file"):
        ScoredWriter(path)
    assert path.read_text() == "my notes\n"


def test_an_output_that_is_no_plain_file_is_only_appended_to(tmp_path: Path) -> None:
    link = tmp_path / "link.jsonl"
    link.symlink_to(tmp_path / "real.jsonl")
    with ScoredWriter(link) as writer:
        writer.write(scored(talk("a", "thanks"), 1))
    assert link.is_symlink()
    assert json.loads(link.read_text())["id"] == "a"
    null = Path("/dev/null")
    with ScoredWriter(null) as writer:
        writer.write(scored(talk("a", "thanks"), 1))
    assert null.is_char_device()


@pytest.mark.parametrize("reward", [5, -1.5, float("nan")])
def test_a_correction_is_a_reward(reward: float) -> None:
    with pytest.raises(UserError, match="from -1 to 1"):
        ScoredTurns([talk("a", "ok")]).corrected("a:1", reward)
