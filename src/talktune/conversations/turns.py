"""A conversation into turns: every answer with its prompt and its next state.

What counts as the next state of an assistant message:

- All results of the tool calls that it made, wherever they stand, and only those.
- Otherwise the user's reply: all user messages up to the next assistant message, tool results of other
  messages and system messages passed over. Blank ones say nothing and do not count, nor do messages that a
  client added in passing; of the others the words of the person count, without the envelope of time and host.
- A client's retry is no reply: a user message with the very text (and no image) of the last user message of
  the prompt. It asks again and adds nothing, so the answer before it stays without feedback, even where a
  person meant it as a complaint.
- The last assistant message has none; the first of two assistant messages in a row has none.
"""

from collections.abc import Sequence
from dataclasses import replace

from talktune.conversations.messages import caller_of
from talktune.conversations.words import spoken
from talktune.types import Conversation, Message, Turn


def turns_of(conversation: Conversation) -> list[Turn]:
    """Every assistant message as a `Turn`, in order, with what is known of it (kind, ids, verdict)."""
    messages = conversation.messages
    return [
        Turn(
            conversation_id=conversation.id,
            index=i,
            prompt=conversation.prompts.get(i, messages[:i]),
            answer=message,
            next_state=next_state_of(messages, i),
            tools=conversation.tools,
            kind=conversation.kinds.get(i, "main"),
            sampled=conversation.sampled.get(i),
            verdict=conversation.verdicts.get(i),
            before=messages[:i] if i in conversation.prompts else None,
            finish=conversation.finishes.get(i),
            wanted=conversation.wanted.get(i),
        )
        for i, message in enumerate(messages)
        if message.role == "assistant"
    ]


def next_state_of(messages: Sequence[Message], index: int) -> tuple[Message, ...]:
    """The messages that say how the assistant message at `index` went (rules above); or none."""
    later = range(index + 1, len(messages))
    if messages[index].tool_calls:
        results = [messages[j] for j in later if messages[j].role == "tool" and caller_of(messages, j) == index]
        if results:
            return tuple(_as_spoken(result) for result in results)
    asked = next((m for m in reversed(messages[:index]) if m.role == "user" and not _is_blank(m)), None)
    reply: list[Message] = []
    for j in later:
        message = messages[j]
        if message.role == "assistant":
            if message.words == "":
                continue
            break
        if message.role == "user" and not _is_blank(message) and not _is_retry(message, asked):
            reply.append(_as_spoken(message))
    return tuple(reply)


def skip_reason(turn: Turn) -> str | None:
    """Why a turn is neither scored nor trained, in words for the summary; None when it can be.

    A turn that has a reward needs no next state here: a thumb, or a file that kept the reward only, said it.
    """
    if turn.kind == "side":
        return "side"
    if any(m.has_image for m in (*turn.prompt, turn.answer, *turn.next_state)):
        return "image"
    if all(m.role != "user" for m in turn.prompt):
        return "no prompt"
    if not turn.answer.content.strip() and not turn.answer.tool_calls and turn.sampled is None:
        return "empty answer"
    has_reward = turn.verdict is not None and turn.verdict.reward is not None
    if not turn.next_state and not has_reward:
        return "no next state"
    return None


def _as_spoken(message: Message) -> Message:
    words = spoken(message)
    return message if words == message.content else replace(message, content=words, words=None)


def _is_blank(message: Message) -> bool:
    return not spoken(message).strip() and (not message.has_image or message.words == "")


def _is_retry(message: Message, asked: Message | None) -> bool:
    if asked is None or message.has_image:
        return False
    return spoken(message).strip() == spoken(asked).strip()
