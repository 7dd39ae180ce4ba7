"""Every turn becomes a sample or is counted with its reason; batches hold every sample as often as asked."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from talktune.config import TrainConfig
from talktune.learner.samples import batches, sample_of, samples_from
from talktune.types import Message, Sample, Sampled, Turn, Verdict, Vote

CONFIG = TrainConfig(max_tokens=120)
TURN = Turn(
    conversation_id="c",
    index=1,
    prompt=(Message("user", "Why?"),),
    answer=Message("assistant", "So."),
    next_state=(Message("user", "thanks"),),
    verdict=Verdict((Vote(1), Vote(1), Vote(0)), 1.0),
)


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(tiny_model)


def test_sampled_ids_are_trained_on_as_they_are(tokenizer: PreTrainedTokenizerBase) -> None:
    sampled = Sampled((4, 5), (6, 7, 2), (-1.0, -2.0, -0.5), 0.7, 3)
    sample = sample_of(replace(TURN, sampled=sampled), -1.0, tokenizer, "batch")
    assert (sample.prompt_ids, sample.answer_ids) == ((4, 5), (6, 7, 2))
    assert sample.rollout_logprobs == (-1.0, -2.0, -0.5)
    assert (sample.temperature, sample.policy_version, sample.retokenised) == (0.7, 3, False)
    assert (sample.reward, sample.id) == (-1.0, "c:1")


def test_a_greedy_turn_counts_as_temperature_one(tokenizer: PreTrainedTokenizerBase) -> None:
    sampled = Sampled((4, 5), (6, 2), (-1.0, -2.0), 0.0)
    assert sample_of(replace(TURN, sampled=sampled), 1.0, tokenizer, "batch").temperature == 1.0


def test_a_log_without_ids_is_rendered_and_marked(tokenizer: PreTrainedTokenizerBase) -> None:
    sample = sample_of(TURN, 1.0, tokenizer, "batch")
    assert tokenizer.decode(sample.prompt_ids) == "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(sample.answer_ids) == "So.<|im_end|>"
    assert sample.retokenised
    assert sample.rollout_logprobs is None
    assert sample.temperature == 1.0


def test_what_a_group_is(tokenizer: PreTrainedTokenizerBase) -> None:
    other_prompt = replace(TURN, index=3, prompt=(Message("user", "How?"),))
    other_talk = replace(TURN, conversation_id="d")
    a, b, c = (sample_of(turn, 1.0, tokenizer, "prompt").group for turn in (TURN, other_prompt, other_talk))
    assert a == c != b
    a, b, c = (sample_of(turn, 1.0, tokenizer, "conversation").group for turn in (TURN, other_prompt, other_talk))
    assert a == b != c


def test_every_turn_is_counted_once_with_its_reason(tokenizer: PreTrainedTokenizerBase) -> None:
    turns = [
        TURN,
        replace(TURN, verdict=Verdict((Vote(-1), Vote(-1), Vote(None)), -1.0)),
        replace(TURN, kind="side"),
        replace(TURN, verdict=None),
        replace(TURN, verdict=Verdict((Vote(None),), None)),
        replace(TURN, verdict=None, next_state=()),
        replace(TURN, answer=Message("assistant", "x" * 200)),
        replace(TURN, answer=Message("assistant", "half<|im_end|>")),
        replace(TURN, prompt=(Message("user", "?", has_image=True),)),
    ]
    intake = samples_from(turns, tokenizer, "batch", CONFIG)
    found = intake.as_dict()
    assert found["main"] == 8
    assert found["side"] == 1
    assert found["unscored"] == 2
    assert found["trained"] == found["retokenised"] == 2
    assert intake.skipped.total() == 4
    assert {"no next state": 1, "image": 1, "longer than 120 tokens": 1}.items() <= intake.skipped.items()
    assert any("ends a turn" in reason for reason in intake.skipped)
    assert intake.main == intake.unscored + intake.skipped.total() + len(intake.samples)
    assert [s.reward for s in intake.samples] == [1.0, -1.0]


def some(groups: list[int]) -> list[Sample]:
    return [Sample(str(i), (1,), (2,), 0.0, str(group)) for i, group in enumerate(groups)]


@given(
    groups=st.lists(st.integers(0, 5), min_size=1, max_size=30),
    size=st.integers(1, 8),
    epochs=st.integers(1, 3),
    seed=st.integers(0, 5),
)
def test_an_epoch_holds_every_sample_once(groups: list[int], size: int, epochs: int, seed: int) -> None:
    samples = some(groups)
    plan = batches(samples, TrainConfig(batch_turns=size, epochs=epochs, seed=seed))
    assert all(0 < len(batch) <= size for batch in plan)
    per_epoch = -(-len(samples) // size)
    assert len(plan) == epochs * per_epoch
    for epoch in range(epochs):
        part = [s.id for batch in plan[epoch * per_epoch : (epoch + 1) * per_epoch] for s in batch]
        assert Counter(part) == Counter(s.id for s in samples)
        in_order = [samples[int(i)].group for i in part]
        changes = sum(a != b for a, b in pairwise(in_order))
        assert changes == len(set(groups)) - 1  # a group stays together


@given(groups=st.lists(st.integers(0, 5), min_size=1, max_size=20), updates=st.integers(1, 30))
def test_updates_cut_or_repeat(groups: list[int], updates: int) -> None:
    config = TrainConfig(batch_turns=4, updates=updates)
    plan = batches(some(groups), config)
    assert len(plan) == updates
    assert plan == batches(some(groups), config)
    assert plan[: updates // 2 or 1] == batches(some(groups), replace(config, updates=updates // 2 or 1))


def test_the_seed_shuffles() -> None:
    samples = some([*range(12)])
    plans = [[s.id for b in batches(samples, TrainConfig(batch_turns=3, seed=seed)) for s in b] for seed in (0, 1)]
    assert plans[0] != plans[1]
    two = batches(samples, TrainConfig(batch_turns=12, epochs=2))
    assert [s.id for s in two[0]] != [s.id for s in two[1]]


@pytest.mark.parametrize("finish", ["length", "content_filter"])
def test_an_answer_that_was_cut_off_has_no_end_or_is_left_out(tokenizer: PreTrainedTokenizerBase, finish: str) -> None:
    turn = replace(TURN, finish=finish)
    whole, cut = (sample_of(one, 1.0, tokenizer, "batch").answer_ids for one in (TURN, turn))
    assert cut == whole[:-1]
    assert tokenizer.decode(cut) == "So."
    sampled = Sampled((4, 5), (6, 7), None, 1.0)
    assert sample_of(replace(turn, sampled=sampled), 1.0, tokenizer, "batch").answer_ids == (6, 7)
    assert len(samples_from([turn, TURN], tokenizer, "batch", CONFIG).samples) == 2
    intake = samples_from([turn, TURN], tokenizer, "batch", replace(CONFIG, truncated="skip"))
    assert (len(intake.samples), dict(intake.skipped)) == (1, {"cut off": 1})


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_one_log_prob_that_is_no_number_means_that_the_turn_has_none(
    tokenizer: PreTrainedTokenizerBase, bad: float
) -> None:
    sampled = Sampled((4, 5), (6, 7), (-1.0, bad), 1.0)
    assert sampled.logprobs is None
    assert sample_of(replace(TURN, sampled=sampled), 1.0, tokenizer, "batch").rollout_logprobs is None
