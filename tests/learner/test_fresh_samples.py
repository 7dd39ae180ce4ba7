"""Fresh answers with the tiny model: who is asked, what is kept, and that nothing is asked without trust."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from talktune.config import ModelConfig, SampleConfig
from talktune.learner.fresh_samples import Ask, answer_of, fresh_prompts, fresh_samples
from talktune.learner.preference import Answer, Preference, experts, learn_preference, read_answers
from talktune.policy.load import Policy, load_policy
from talktune.policy.sample import sample_answers
from talktune.policy.tokens import end_ids, render_prompt
from talktune.types import Message, Sampled, Turn, Verdict


@pytest.fixture(scope="module")
def policy(tiny_model: Path) -> Policy:
    return load_policy(ModelConfig(model=str(tiny_model), device="cpu"))


def drawn(policy: Policy, prompts: Sequence[tuple[int, ...]]) -> list[Sampled]:
    config = SampleConfig(max_new_tokens=6)
    return sample_answers(policy.model, prompts, config, end_ids=end_ids(policy.tokenizer), seed=3)


def turns(policy: Policy, rewards: Sequence[float]) -> list[Turn]:
    prompts = [(Message("user", f"Question {i}?"),) for i in range(len(rewards))]
    answers = drawn(policy, [tuple(render_prompt(policy.tokenizer, prompt)) for prompt in prompts])
    return [
        Turn(
            f"c{i}", 1, prompt, Message("assistant", "?"), (Message("user", "Too long!"),),
            sampled=answer, verdict=Verdict((), reward),
        )
        for i, (prompt, answer, reward) in enumerate(zip(prompts, answers, rewards, strict=True))
    ]  # fmt: skip


def preference(policy: Policy, judged: Sequence[Turn]) -> Preference:
    ends = end_ids(policy.tokenizer)
    answers = [answer_of(t, t.sampled, policy.tokenizer, ends) for t in judged if t.sampled]
    readings = read_answers(policy.model, answers)
    made = learn_preference(readings, [t.verdict.reward or 0 for t in judged if t.verdict])
    return replace(made, weights=torch.tensor([0.1] * (experts() - 1) + [0.0], dtype=torch.float64))


def test_only_a_complaint_guides(policy: Policy):
    bad, good = turns(policy, [-1, 1])
    asked = fresh_prompts([bad, good], policy.tokenizer, 3, 2)
    assert [(ask.place, ask.guided) for ask in asked] == [(0, False), (0, True), (0, True), *[(1, False)] * 3]
    assert asked[0].prompt_ids == (bad.sampled and bad.sampled.prompt_ids)
    told = render_prompt(policy.tokenizer, [Message("user", "Too long!\n\nQuestion 0?")])
    assert asked[1].prompt_ids == tuple(told)
    tool = replace(bad, next_state=(Message("tool", "Error"),))
    assert not any(ask.guided for ask in fresh_prompts([tool], policy.tokenizer, 3, 2))


def test_what_cannot_be_asked_again_is_not(policy: Policy):
    bad, good = turns(policy, [-1, 1])
    assert bad.sampled
    long = len(bad.sampled.prompt_ids)
    assert not any(ask.guided for ask in fresh_prompts([bad, good], policy.tokenizer, 3, 2, longest=long))
    assert fresh_prompts([bad, good], policy.tokenizer, 3, 2, longest=long - 1) == []
    strict = copy.deepcopy(policy.tokenizer)
    strict.chat_template = "{% if messages[0].role == 'system' %}{{ raise_exception('none') }}{% endif %}a"
    refused = replace(good, sampled=None, prompt=(Message("system", "Be brief."), *good.prompt))
    assert [ask.place for ask in fresh_prompts([refused, replace(bad, sampled=None)], strict, 2, 0)] == [1, 1]


def test_nothing_is_sampled_without_trust(policy: Policy):
    judged = turns(policy, [-1, 1, 0, -1])

    def never(_asked: object) -> list[Sampled]:
        raise AssertionError

    assert fresh_samples(judged, 0.0, never, lambda _: [], policy.tokenizer, (), count=3) == []


def test_the_half_that_stands_out_is_learned_from(policy: Policy):
    judged = turns(policy, [-1, 1, 0, -1])
    ends = end_ids(policy.tokenizer)

    model = preference(policy, judged)

    def ask(asked: Sequence[Ask]) -> list[Sampled]:
        return drawn(policy, [one.prompt_ids for one in asked])

    def score(answers: Sequence[Answer]) -> list[float]:
        return model.rewards(read_answers(policy.model, answers))

    def made(trust: float, learned: float):
        return fresh_samples(
            judged, trust, ask, score, policy.tokenizer, ends, count=4, guided=2, learned=learned,
        )  # fmt: skip

    everything, half = made(0.5, 1.0), made(0.5, 0.5)
    assert len(everything) == 16
    assert len(half) == 8
    kept = {s.id: s.reward for s in everything}
    # Half as many answers, whose mean is taken, weigh half as much.
    assert [s.reward for s in half] == pytest.approx([kept[s.id] / 2 for s in half])
    assert sorted(map(abs, kept.values()))[8] == min(abs(kept[s.id]) for s in half)
    by_group: dict[str, float] = {}
    for sample in everything:
        by_group[sample.group] = by_group.get(sample.group, 0.0) + sample.reward
        # A guided one is learned as an answer to the plain prompt, and no log-prob of another prompt is kept.
        assert sample.prompt_ids in {t.sampled.prompt_ids for t in judged if t.sampled}
    assert by_group == pytest.approx(dict.fromkeys(by_group, 0.0), abs=1e-9)
    assert sum(s.rollout_logprobs is None for s in everything) == 4
    doubled = made(1.0, 0.5)
    assert [s.reward for s in doubled] == pytest.approx([2 * s.reward for s in half])
