"""Who asks: how much is sampled side by side, and what odd turns are to a preference model."""

from pathlib import Path

import pytest
import torch

from talktune.config import Config, FreshConfig, ModelConfig
from talktune.learner.asker import ALL_TOKENS, ROWS, Asker, Logged, make_asker
from talktune.learner.fresh_samples import answer_of
from talktune.learner.preference import Answer, Preference, Reading, learn_preference, read_answers
from talktune.learner.probe import probe
from talktune.learner.samples import Sampler
from talktune.policy.adapter import attach_adapter
from talktune.policy.load import load_policy
from talktune.policy.tokens import render_prompt
from talktune.types import Message, Sample, Sampled, Turn

from .test_probe import disliked, length


@pytest.fixture(scope="module")
def asker(tiny_model: Path) -> Asker:
    policy = load_policy(ModelConfig(str(tiny_model), device="cpu"))
    policy.model = attach_adapter(policy.model, ModelConfig(lora_rank=2), seed=0)
    made = make_asker(policy.model, policy.tokenizer, [0], Config(fresh=FreshConfig(4)))
    assert made is not None
    return made


def test_copies_of_one_prompt_are_cut_where_memory_ends(asker: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, int]] = []
    from talktune.learner import asker as asking

    real = asking.sample_answers

    def watched(model: object, prompts: list[tuple[int, ...]], config: object, **more: object):
        sizes.append((len(prompts) * int(str(more["copies"])), max(map(len, prompts))))
        return real(model, prompts, config, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(asking, "sample_answers", watched)
    common, other = tuple(range(1, 200)), (5, 6, 7)
    asked = [common, other] * 50
    most = 2
    found = asker._sample(asked, [0.8] * len(asked), most, "seed")
    assert [one.prompt_ids for one in found] == asked
    assert all(rows <= ROWS and rows * (length + most) <= ALL_TOKENS for rows, length in sizes)
    again = asker._sample(asked, [0.8] * len(asked), most, "seed")
    assert [one.answer_ids for one in again] == [one.answer_ids for one in found]


def test_an_empty_answer_is_read_without_nan(tiny_model: Path) -> None:
    policy = load_policy(ModelConfig(str(tiny_model), device="cpu"))
    prompt = (Message("user", "Hi"),)
    ids = tuple(render_prompt(policy.tokenizer, prompt))
    turn = Turn("c", 1, prompt, Message("assistant", ""), ())
    empty = answer_of(turn, Sampled(ids, (), None, 1.0), policy.tokenizer, [0])
    assert empty == Answer(ids, (), "Hi", "", ended=False)
    (reading,) = read_answers(policy.model, [empty])
    assert bool(reading.states.isfinite().all())


def test_rewards_of_any_size_count_as_one_of_three(tiny_model: Path) -> None:
    policy = load_policy(ModelConfig(str(tiny_model), device="cpu"))
    answers = [Answer((1, 2, i), (3, i), "?", f"word {i}", ended=True) for i in range(4)]
    readings = read_answers(policy.model, answers)
    assert learn_preference(readings, [-7.0, 0.2, 3.5, 1.0]).classes.tolist() == [0, 1, 2, 2]


def test_the_bare_model_answers_and_the_seed_decides(tiny_model: Path) -> None:
    policy = load_policy(ModelConfig(str(tiny_model), device="cpu"))
    tuned = attach_adapter(policy.model, ModelConfig(lora_rank=4), seed=1)
    asker = make_asker(tuned, policy.tokenizer, [2], Config(fresh=FreshConfig(4)))
    assert asker is not None

    def sampler(seed: str) -> Sampler:
        return lambda prompts: asker._sample(prompts, [0.8] * len(prompts), 6, seed, bare=True)

    bare, prompts = sampler("5"), [(4, 5, 6), (7, 8)] * 10
    was = bare(prompts)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.5)
    assert [a.answer_ids for a in bare(prompts)] == [a.answer_ids for a in was]
    turns = disliked(3)
    assert probe(turns, policy.tokenizer, bare, length, seed=0) == probe(turns, policy.tokenizer, bare, length, seed=0)
    assert [a.answer_ids for a in sampler("6")(prompts)] != [a.answer_ids for a in was]


def test_a_run_keeps_the_last_readings_and_a_resumed_one_reads_them_alike(
    asker: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    from talktune.learner import asker as asking

    monkeypatch.setattr(asking, "WINDOW", 6)
    plan = [[a_sample(f"{update}-{i}") for i in range(4)] for update in range(4)]
    plan.append([*plan[3][:2], *plan[0][:2]])  # a second time
    turns = {s.id: Turn(s.id, 1, (Message("user", s.id),), Message("assistant", "x"), ()) for b in plan for s in b}
    learned: list[tuple[list[Reading], list[float]]] = []

    def learn(readings: list[Reading], labels: list[float], _wanted: object) -> Preference:
        learned.append((readings, labels))
        return learn_preference([], [])

    monkeypatch.setattr(asker, "learn", learn)
    whole = Logged(asker, plan, turns, 0)
    for update in range(1, 6):
        whole(update)
    assert [len(readings) for readings, _ in learned] == [4, 6, 6, 6, 6]
    for update in (2, 4, 5):
        Logged(asker, plan, turns, 0)(update)
        (ours, labels), (theirs, wanted) = learned[-1], learned[update - 1]
        assert labels == wanted
        assert all(torch.equal(a.states, b.states) for a, b in zip(ours, theirs, strict=True))


def a_sample(name: str) -> Sample:
    ids = tuple(3 + ord(c) % 40 for c in name)
    return Sample(name, ids, ids[::-1], 1.0, name)
