"""`talktune chat`: talk to a policy in the terminal; what is said can be kept for training."""

import json
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from talktune.commands.console import err, out, warn
from talktune.commands.options import Seed
from talktune.config import ModelConfig, SampleConfig
from talktune.errors import UserError
from talktune.types import Conversation, Message, Sampled


def chat(
    *,
    model: ModelConfig = ModelConfig(),
    sample: SampleConfig = SampleConfig(),
    seed: Seed = 0,
    save: Path | None = None,
) -> int:
    """Talk to a policy in the terminal.

    Parameters
    ----------
    save
        Append the talk to this JSONL file, with the sampled tokens, for `talktune train`.
    """
    from talktune.conversations.records import conversation_to_dict
    from talktune.policy.adapter import load_adapter
    from talktune.policy.load import load_policy
    from talktune.policy.sample import sample_answers
    from talktune.policy.tokens import decode_answer, end_ids, render_prompt

    if save is not None:
        _append(save, "")  # rather now than after the talk
    policy = load_policy(replace(model, adapter=None))
    speaker = policy.model if model.adapter is None else load_adapter(policy.model, model.adapter)
    ends = end_ids(policy.tokenizer, policy.model.generation_config)
    messages: list[Message] = []
    sampled: dict[int, Sampled] = {}
    warn("Say something; an empty line or Ctrl-D ends the talk.")
    try:
        while (said := _ask()) is not None:
            messages.append(Message("user", said))
            prompt = render_prompt(policy.tokenizer, messages, ())
            show = _Printer(lambda ids: decode_answer(policy.tokenizer, ids))
            turn = seed + len(messages)
            [answer] = sample_answers(speaker, [prompt], sample, end_ids=ends, seed=turn, on_tokens=show)
            out.print()
            sampled[len(messages)] = answer
            messages.append(Message("assistant", decode_answer(policy.tokenizer, list(answer.answer_ids))))
    finally:  # Ctrl-C is a way to end a talk, too
        if save is not None and sampled:
            talk = Conversation(f"chat-{uuid.uuid4().hex[:12]}", tuple(messages), sampled=sampled)
            _append(save, json.dumps(conversation_to_dict(talk), ensure_ascii=False) + "\n")
            warn(f"The talk is in {save}")
    return 0


class _Printer:
    """Prints what one row's new tokens add to its text."""

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self.decode = decode
        self.ids: list[int] = []
        self.shown = ""

    def __call__(self, rows: list[int], tokens: list[int]) -> None:
        self.ids += tokens
        text = self.decode(self.ids)
        if not text.endswith("\ufffd"):  # half of a character: wait for the rest
            out.print(text[len(self.shown) :], end="", markup=False, highlight=False, soft_wrap=True)
            self.shown = text


def _ask() -> str | None:
    try:
        said = err.input("you: ").strip()
    except EOFError:
        return None
    return said or None


def _append(path: Path, text: str) -> None:
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UserError(f"--save {path}: cannot be written ({error.strerror}).") from error
