"""The same prompts to a policy without its adapter and with it, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from talktune.config import GreedySampleConfig, SampleConfig, check_config
from talktune.conversations.prompt_files import read_prompts
from talktune.errors import UserError
from talktune.policy.adapter import adapter_off
from talktune.policy.load import Policy
from talktune.types import Message


@dataclass(frozen=True, slots=True)
class Compared:
    """One prompt, its two answers, and how long they are in tokens."""

    prompt: str
    before: str
    after: str
    tokens_before: int
    tokens_after: int


def evaluate(
    policy: Policy,
    prompts: Path | str | Sequence[str | Sequence[Message]],
    *,
    sample: SampleConfig = GreedySampleConfig(),
    seed: int = 0,
) -> list[Compared]:
    """Ask the same prompts of a policy before and after training: without its adapter, and with it.

    `prompts` are questions, or lists of messages, or the path of a file: text, one prompt a line, or JSONL of
    {"prompt": …} or {"messages": […]}. Answers are greedy by default. Raises UserError for a file that cannot be used,
    for no prompt, and for a policy without an adapter, which has nothing to be compared with.

    >>> policy = Policy.load(tiny_model, "run")
    >>> [one] = evaluate(policy, ["Why does bread rise?"], sample=SampleConfig(max_new_tokens=4))
    >>> one.prompt, one.tokens_before, one.tokens_after
    ('Why does bread rise?', 4, 4)
    """
    check_config(sample)
    if not policy.adapted:
        raise UserError(f"{policy.name}: it has no adapter that its answers could be compared with.")
    if isinstance(prompts, Path | str):
        asked: Sequence[Sequence[Message]] = read_prompts(prompts)
    else:
        asked = [(Message("user", one),) if isinstance(one, str) else one for one in prompts]
    if not asked:
        raise UserError("there is no prompt to ask.")
    with adapter_off(policy.model):
        before = policy.sample(asked, sample, seed=seed)
    after = policy.sample(asked, sample, seed=seed)
    return [
        Compared(prompt[-1].content, policy.text(old), policy.text(new), len(old.answer_ids), len(new.answer_ids))
        for prompt, old, new in zip(asked, before, after, strict=True)
    ]
