"""The prompt that a model would have been asked, had the user's reaction or wish been known.

Open it to see what the teacher of `--distill` reads.
"""

from collections.abc import Sequence
from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from talktune.errors import UserError
from talktune.policy.tokens import render_prompt
from talktune.rl.packing import common_length
from talktune.types import Message, Turn


def with_reaction(prompt: Sequence[Message], reaction: str) -> tuple[Message, ...] | None:
    """The prompt with the reaction placed in its last user message, before the question; None where there is no
    reaction.

    Small models are helped most by the bare words, and by a question that comes last.
    """
    last = next((i for i in reversed(range(len(prompt))) if prompt[i].role == "user"), None)
    if last is None or not reaction.strip():
        return None
    told = replace(prompt[last], content=f"{reaction.strip()}\n\n{prompt[last].content}", words=None)
    return (*prompt[:last], told, *prompt[last + 1 :])


def reaction_of(turn: Turn) -> str | None:
    """What the user said after an answer that was judged bad; None for liked answers, tool results and silence.

    Where they said what it should have been, that: it tells more than what they said of it.
    """
    if turn.verdict is None or turn.verdict.reward is None or turn.verdict.reward >= 0:
        return None
    if turn.wanted is not None and turn.wanted.strip():
        return turn.wanted
    if not turn.next_state or any(message.role != "user" for message in turn.next_state):
        return None
    return "\n".join(message.content.strip() for message in turn.next_state)


def teacher_prompt(turn: Turn, prompt_ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...] | None:
    """The token ids of a disliked turn's prompt with the reaction in it; None where there is nothing to teach.

    All before the message that is answered stays as it was sampled from, token by token; what follows must be what
    the chat template makes of it, or the gap would tell of two templates and not of the reaction: else None, too.
    """
    reaction = reaction_of(turn)
    told = None if reaction is None else with_reaction(turn.prompt, reaction)
    if told is None:
        return None
    try:
        plain, guided = (render_prompt(tokenizer, messages, turn.tools) for messages in (turn.prompt, told))
    except UserError:
        return None
    n = max(common_length(plain, guided) - 1, 0)  # and one token of what the two share, to be sure of the border
    rest = len(plain) - n
    if tuple(prompt_ids[-rest:]) != tuple(plain[n:]):
        return None
    return (*prompt_ids[:-rest], *guided[n:])
