"""A store in which a tiny model has talked, and what a judge made of it."""

import threading
from collections.abc import Callable, Generator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from talktune.config import (
    Config,
    GateConfig,
    LiveConfig,
    LiveTrainConfig,
    ModelConfig,
    SampleConfig,
)
from talktune.host.process import load_host
from talktune.judge.function import CallJudge
from talktune.judge.worker import JudgeWorker
from talktune.live.engine_answers import answers
from talktune.live.learn import LiveLearner
from talktune.policy.tokens import decode_answer, render_prompt
from talktune.store.rows import NewTurn
from talktune.store.store import Store
from talktune.types import Label, Message, Turn

WIDE = GateConfig(
    real_probes=2,
    probe_tokens=8,
    gate_facts=0.0,
    gate_ended=0.0,
    gate_kl=100.0,
    gate_length_low=0.0,
    gate_length_high=100.0,
    gate_repetition=1.0,
    gate_distinct=0.0,
    gate_empty=1.0,
)
"""Limits that a random model can hold."""
WIDE_OPTIONS = [
    part
    for limit in fields(GateConfig)
    if (value := getattr(WIDE, limit.name)) != limit.default
    for part in (f"--{limit.name.replace('_', '-')}", str(value))
]
"""The same on the command line."""


def tiny_config(model: Path, folder: Path, **live: Any) -> Config:
    return Config(
        model=ModelConfig(model=str(model), device="cpu", lora_rank=4),
        train=LiveTrainConfig(batch_turns=4, learning_rate=1e-3),
        live=LiveConfig(policies=folder, **{"holdout": 0.0} | live),
        gate=WIDE,
    )


def even(turn: Turn) -> Label:
    """Likes answers that begin with an even character."""
    return 1 if turn.answer.content and ord(turn.answer.content[0]) % 2 == 0 else -1


class World:
    """A host, a store and a learner; `talk` makes turns, `judge` verdicts, `learn` one step."""

    def __init__(self, config: Config, store: Path, likes: Callable[[Turn], Label] = even) -> None:
        self.config = config
        self.host = load_host(config.model)
        self.sampling = threading.Thread(target=self.host.engine.run, name="engine", daemon=True)
        self.sampling.start()
        self.store = Store(store)
        judge = CallJudge(likes)
        self.learner = LiveLearner(
            self.store, self.host.policy, self.host.engine, self.host.end_ids, config, judge=judge
        )
        self.worker = JudgeWorker(self.store, judge, 3)
        self.clock = 1000.0
        self.said = 0
        self.temperature = 1.0

    def talk(
        self,
        count: int,
        *users: str,
        question: Callable[[int], str] = "question {}".format,
        reaction: Callable[[str, str, str], str] = lambda user, question, answer: "I see.",
        tokens: int = 6,
    ) -> list[str]:
        """`count` conversations of one turn and a reaction, of ann or these users in turn; returns the turns' ids."""
        users = users or ("ann",)
        live = self.learner.policies.live(users[0] if self.learner.live.per_user else "")
        tokenizer = self.host.policy.tokenizer
        said = [Message("user", question(self.said + i)) for i in range(count)]
        sampled = answers(
            self.host.engine,
            [render_prompt(tokenizer, [message]) for message in said],
            SampleConfig(temperature=self.temperature, max_new_tokens=tokens),
            end_ids=self.host.end_ids,
            seeds=range(self.said, self.said + count),
            lora=None if live is None else self.learner.lora(live),
            policy_version=None if live is None else live.number,
        )
        ids: list[str] = []
        for message, one in zip(said, sampled, strict=True):
            self.said += 1
            self.clock += 1
            user = users[self.said % len(users)]
            answer = Message("assistant", decode_answer(tokenizer, list(one.answer_ids)))
            first = NewTurn(
                id=f"t{self.said:05d}",
                user=user,
                conversation=f"c{self.said:05d}",
                parent=None,
                hash=f"h{self.said}".encode(),
                messages=(message,),
                answer=answer,
                engine="host",
                created=self.clock,
                sampled=one,
            )
            reply = replace(
                first,
                id=f"r{self.said:05d}",
                parent=first.id,
                hash=f"i{self.said}".encode(),
                messages=(Message("user", reaction(user, message.content, answer.content)),),
                sampled=None,
            )
            self.store.add_turns([first, reply])
            ids.append(first.id)
        return ids

    def judge(self) -> None:
        while self.worker.step():
            pass

    def learn(self) -> bool:
        return self.learner.step()

    def close(self) -> None:
        self.host.engine.stop()
        self.sampling.join()
        self.store.close()


@pytest.fixture
def world(tiny_model: Path, tmp_path: Path) -> Generator[Callable[..., World]]:
    """Makes a world; options are those of LiveConfig."""
    made: list[World] = []

    def make(config: Callable[[Config], Config] = lambda c: c, **live: Any) -> World:
        folder = tmp_path / str(len(made))
        made.append(World(config(tiny_config(tiny_model, folder / "policies", **live)), folder / "store.db"))
        return made[-1]

    yield make
    for one in made:
        one.close()
