"""Training samples from scored turns: token ids, a reward and a group for each; a turn that is left out has a reason.

Open it to see why a turn was not trained on.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from random import Random

from transformers import PreTrainedTokenizerBase

from talktune.config import Grouping, TrainConfig
from talktune.conversations.turns import skip_reason
from talktune.errors import UserError
from talktune.learner.hindsight import teacher_prompt
from talktune.policy.tokens import render_answer, render_prompt
from talktune.types import Message, Sample, Sampled, Turn

CUT_OFF = "cut off"
"""Why an answer is left out that its engine ended, with `--truncated skip`."""

Sampler = Callable[[Sequence[tuple[int, ...]]], Sequence[Sampled]]
"""Answers prompts, each once."""


@dataclass
class Intake:
    """The result of reading turns: the samples to train on, and how many turns were left out for which reason."""

    samples: list[Sample] = field(default_factory=list[Sample])
    main: int = 0
    side: int = 0
    unscored: int = 0
    skipped: Counter[str] = field(default_factory=Counter[str])
    retokenised: int = 0
    taught: int = 0
    """Samples that have a teacher's prompt."""
    wanted: int = 0
    """Samples whose person said what the answer should have been."""
    agreement: dict[str, float] = field(default_factory=dict[str, float])
    """By sample id, the share of its valid votes that equal its reward."""

    def as_dict(self) -> dict[str, object]:
        """The counts as `summary.json` has them."""
        counts: dict[str, object] = {
            "main": self.main,
            "side": self.side,
            "unscored": self.unscored,
            "skipped": dict(self.skipped),
            "trained": len(self.samples),
            "retokenised": self.retokenised,
        }
        more = {"taught": self.taught, "wanted": self.wanted}
        return counts | {name: number for name, number in more.items() if number}


def samples_from(
    turns: Iterable[Turn],
    tokenizer: PreTrainedTokenizerBase,
    group: Grouping,
    config: TrainConfig,
    *,
    teach: bool = False,
) -> Intake:
    """Turn every scored main turn into a Sample and count the others with their reasons.

    With `teach`, those of disliked turns get a teacher's prompt.
    """
    intake = Intake()
    for turn in turns:
        if turn.kind == "side":
            intake.side += 1
            continue
        intake.main += 1
        if (reason := skip_reason(turn)) is not None:
            intake.skipped[reason] += 1
        elif turn.verdict is None or turn.verdict.reward is None:
            intake.unscored += 1
        elif turn.cut_off and config.truncated == "skip":
            intake.skipped[CUT_OFF] += 1
        else:
            try:
                sample = sample_of(turn, turn.verdict.reward, tokenizer, group)
            except UserError as error:  # a template that cannot say this turn
                intake.skipped[str(error)] += 1
                continue
            if len(sample.prompt_ids) + len(sample.answer_ids) > config.max_tokens:
                intake.skipped[f"longer than {config.max_tokens} tokens"] += 1
                continue
            if teach:
                sample = with_teacher(sample, turn, tokenizer, config.max_tokens)
                intake.taught += sample.teacher_prompt_ids is not None
            sample = with_wanted(sample, turn, tokenizer, config.max_tokens)
            intake.wanted += sample.wanted_ids is not None
            intake.samples.append(sample)
            valid = [vote.label for vote in turn.verdict.votes if vote.label is not None]
            if valid:
                intake.agreement[sample.id] = sum(label == sample.reward for label in valid) / len(valid)
            intake.retokenised += sample.retokenised
    return intake


def sample_of(turn: Turn, reward: float, tokenizer: PreTrainedTokenizerBase, group: Grouping) -> Sample:
    """One turn as a sample, from its captured token ids; only logs that never had ids are tokenised again."""
    sampled = turn.sampled
    if sampled is None:
        prompt = prompt_ids(turn, tokenizer)
        answer = tuple(render_answer(tokenizer, turn.prompt, turn.answer, turn.tools, cut_off=turn.cut_off))
        if not answer:
            raise UserError("empty answer")
        sampled = Sampled(prompt, answer, logprobs=None, temperature=1.0)
    # With `batch`, `running` and `none` nobody reads it.
    name = turn.conversation_id if group == "conversation" else _digest(sampled.prompt_ids)
    made = sample_of_answer(sampled, id=turn.id, reward=reward, group=name)
    return replace(made, retokenised=turn.sampled is None)


def prompt_ids(turn: Turn, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The ids that the answer was sampled from, or else those of the chat template; UserError where that refuses."""
    if turn.sampled is not None:
        return turn.sampled.prompt_ids
    return tuple(render_prompt(tokenizer, turn.prompt, turn.tools))


def with_teacher(sample: Sample, turn: Turn, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> Sample:
    """The sample with its teacher's prompt, where the turn was disliked in words and it fits into `max_tokens`."""
    ids = teacher_prompt(turn, sample.prompt_ids, tokenizer)
    if ids is None or len(ids) + len(sample.answer_ids) > max_tokens:
        return sample
    return replace(sample, teacher_prompt_ids=ids)


def with_wanted(sample: Sample, turn: Turn, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> Sample:
    """The sample with the answer that the person wanted, where they said so and it fits into `max_tokens`."""
    ids = wanted_ids(turn, tokenizer)
    if ids is None or len(sample.prompt_ids) + len(ids) > max_tokens:
        return sample
    return replace(sample, wanted_ids=ids)


def wanted_ids(turn: Turn, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...] | None:
    """The ids of the answer that the person wanted, with its end token; None where the model cannot say it."""
    if turn.wanted is None or not turn.wanted.strip():
        return None
    try:
        return tuple(render_answer(tokenizer, turn.prompt, Message("assistant", turn.wanted.strip()), turn.tools))
    except UserError:
        return None


def sample_of_answer(sampled: Sampled, *, id: str, reward: float, group: str) -> Sample:
    """One sampled answer with its reward; a greedy answer counts as drawn at temperature 1."""
    return Sample(
        id=id,
        prompt_ids=sampled.prompt_ids,
        answer_ids=sampled.answer_ids,
        reward=reward,
        group=group,
        rollout_logprobs=sampled.logprobs,
        temperature=sampled.temperature or 1.0,
        policy_version=sampled.policy_version,
    )


def batches(samples: Sequence[Sample], config: TrainConfig) -> list[list[Sample]]:
    """The samples of each update in turn: shuffled anew by the seed in every epoch, groups kept together.

    The last batch of an epoch may be smaller. `config.updates` cuts the list, or repeats epochs until it is
    long enough.
    """
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.group, []).append(sample)
    result: list[list[Sample]] = []
    epoch = 0
    while epoch < config.epochs if config.updates is None else len(result) < config.updates:
        order = sorted(groups)
        Random(f"{config.seed}/{epoch}").shuffle(order)
        batch: list[Sample] = []
        for name in order:
            batch += groups[name]
            while len(batch) >= config.batch_turns:
                result.append(batch[: config.batch_turns])
                batch = batch[config.batch_turns :]
        if batch:
            result.append(batch)
        epoch += 1
    return result[: config.updates]


def _digest(ids: Sequence[int]) -> str:
    return hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:16]
