from pathlib import Path

from talktune.conversations.prompt_files import read_prompts
from talktune.conversations.readers import read_conversations
from talktune.conversations.turns import skip_reason, turns_of

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_example_conversations_are_whole_and_varied() -> None:
    result = read_conversations([EXAMPLES / "conversations.jsonl"], strict=True)
    conversations = result.conversations
    turns = [turn for c in conversations for turn in turns_of(c)]
    reasons = [skip_reason(turn) for turn in turns]
    assert result.notes == ()
    assert len(conversations) >= 40
    assert all(3 <= len(c.messages) <= 10 for c in conversations)
    assert sum(any(m.tool_calls for m in c.messages) for c in conversations) >= 15
    assert any(len(turn.next_state) > 1 and turn.next_state[0].role == "tool" for turn in turns)
    assert {"side", "no next state", None} == set(reasons)
    assert reasons.count(None) >= 100
    assert len({turn.next_state[0].content for turn in turns if turn.next_state}) >= 100
    assert all(len(turn.answer.content.split()) < 60 for turn in turns)


def test_there_are_twelve_example_prompts() -> None:
    assert len({prompt[-1].content for prompt in read_prompts(EXAMPLES / "prompts.jsonl")}) == 12
