"""Answers for other work come from the same engine, each as it was asked for."""

from pathlib import Path

from talktune.config import ModelConfig, SampleConfig
from talktune.host.engine import Engine
from talktune.live.asking import answers
from talktune.policy.load import load_policy
from talktune.types import Sampled

PROMPTS = [[5, 6, 7, 8], [9, 10, 11]]
GREEDY = [SampleConfig(temperature=0.0, max_new_tokens=n) for n in (8, 12)]


def _ask(engine: Engine, **more: object) -> list[Sampled]:
    def pieces() -> object:
        found = yield from answers(engine, PROMPTS, GREEDY, end_ids=[], seed=0, lora=None, **more)
        return found

    work = pieces()
    while True:  # driven from the engine's thread, which here is this one
        try:
            next(work)
        except StopIteration as end:
            return end.value
        engine.step()


def test_each_prompt_is_answered_as_it_was_asked_for(tiny_model: Path) -> None:
    policy = load_policy(ModelConfig(model=str(tiny_model), device="cpu"))
    engine = Engine(policy.model, context=64, budget=4096)
    whole = _ask(engine)
    assert [len(answer.answer_ids) for answer in whole] == [8, 12]
    assert [answer.prompt_ids for answer in whole] == [tuple(prompt) for prompt in PROMPTS]
    asked: list[tuple[int, int]] = []

    def enough(prompt: int, ids: list[int]) -> bool:
        asked.append((prompt, len(ids)))
        return prompt == 1 and len(ids) == 3

    early = _ask(engine, enough=enough)
    assert early[0] == whole[0]
    assert early[1].answer_ids == whole[1].answer_ids[:3]
    assert early[1].logprobs == whole[1].logprobs[:3]
    assert max(n for prompt, n in asked if prompt == 1) == 3
    assert engine.load() == (0, 0)
