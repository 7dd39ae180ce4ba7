"""A learner made to fail on purpose, on the shipped model: what is worse on the probes never serves, and says why."""

import statistics
from collections.abc import Callable, Sequence
from math import sqrt
from pathlib import Path

import pytest

from talktune.commands.policies import list_versions
from talktune.config import Config, GateConfig, LiveConfig, LiveTrainConfig, ModelConfig, SampleConfig
from talktune.demo.user import User
from talktune.learner.gate import Probe, read_probes
from talktune.learner.texts import says
from talktune.live.engine_answers import answers
from talktune.live.exam import FACT_TOKENS
from talktune.policy.tokens import decode_answer, render_prompt
from talktune.store.policies import Version
from talktune.types import Label, Sampled, Turn

from .conftest import World

UPDATES = 6
USERS = [f"user{i}" for i in range(10)]
HOSTILE = USERS[:3]
TOKENS = 64
SEED = 1_000_000
"""Of answers that the gate has not seen."""
CHARACTER = User("plain")
QUESTIONS = {question.text: question for question in CHARACTER.questions["train"]}
LIKED, DISLIKED = "Perfect, thank you!", "No, that is not what I wanted."


def reads_words(turn: Turn) -> Label:
    """Believes what people say."""
    return 1 if turn.next_state[0].content == LIKED else -1


def loves_length() -> Callable[[Turn], Label]:
    """Likes what is longer than most of what it has seen, whatever people say."""
    seen: list[int] = []

    def judge(turn: Turn) -> Label:
        seen.append(len(turn.answer.content))
        return 1 if seen[-1] > statistics.median(seen) else -1

    return judge


def honest(user: str, question: str, answer: str) -> str:
    return LIKED if CHARACTER.judge(QUESTIONS[question], answer, True).label == 1 else DISLIKED


def some_hostile(user: str, question: str, answer: str) -> str:
    """Three of ten praise what is bad, and nothing else."""
    words = honest(user, question, answer)
    return words if user not in HOSTILE else LIKED if words == DISLIKED else DISLIKED


def ask(w: World, version: Version | None, probes: Sequence[Probe], sample: SampleConfig, copies: int) -> list[Sampled]:
    ids = [render_prompt(w.host.policy.tokenizer, probe.prompt) for probe in probes]
    lora = None if version is None else w.learner.lora(version)
    seeds = range(SEED, SEED + len(ids))
    return answers(w.host.engine, ids, sample, end_ids=w.host.end_ids, seeds=seeds, lora=lora, copies=copies)


def measured(w: World, version: Version | None) -> tuple[list[bool], list[bool]]:
    """The probes, asked anew: which facts are right, which answers end by themselves."""
    probes = read_probes(None)
    facts = [probe for probe in probes if probe.accepted]
    told = ask(w, version, facts, SampleConfig(temperature=0.0, max_new_tokens=FACT_TOKENS), 1)
    said = [decode_answer(w.host.policy.tokenizer, list(one.answer_ids)) for one in told]
    opened = [probe for probe in probes if not probe.accepted]
    drawn = ask(w, version, opened, SampleConfig(temperature=0.8, max_new_tokens=TOKENS), 2)
    return (
        [says(text, probe.accepted) for text, probe in zip(said, facts, strict=True)],
        [one.answer_ids[-1] in w.host.end_ids for one in told + drawn],
    )


def worse(now: Sequence[bool], before: Sequence[bool], errors: float) -> bool:
    """Whether more were lost than gained, by so many standard errors of a sign test."""
    lost = sum(b and not n for n, b in zip(now, before, strict=True))
    gained = sum(n and not b for n, b in zip(now, before, strict=True))
    return lost - gained > errors * sqrt(lost + gained)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("fault", ["learning rate × 1000", "judge that loves length", "hostile users"])
def test_what_is_worse_never_serves(fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faster = 1000 if fault == "learning rate × 1000" else 1
    config = Config(
        model=ModelConfig(model="smollm2", device="cpu"),
        train=LiveTrainConfig(learning_rate=LiveTrainConfig().learning_rate * faster),
        live=LiveConfig(policies=tmp_path / "policies"),
        gate=GateConfig(),
    )
    w = World(config, tmp_path / "store.db", loves_length() if fault == "judge that loves length" else reads_words)
    w.temperature = 0.8
    asked = list(QUESTIONS)
    while len(w.learner.policies.versions()) < UPDATES and not w.learner.policies.lineages().get("", (None, ""))[1]:
        react = some_hostile if fault == "hostile users" else honest
        w.talk(20, *USERS, question=lambda i: asked[i % len(asked)], reaction=react, tokens=TOKENS)
        w.judge()
        while w.learn():
            pass

    versions = w.learner.policies.versions()
    rejected = [version for version in versions if version.state == "rejected"]
    assert list_versions(store=str(tmp_path / "store.db"), as_json=True) == 0
    listed = capsys.readouterr().out
    assert all(version.reason and version.reason in listed for version in rejected)
    if faster > 1:
        assert rejected, "steps a thousand times too long made no bad model"
    first = before = measured(w, None)
    for version in [version for version in versions if version.state == "published"]:
        now = measured(w, version)
        with capsys.disabled():
            print(fault, version.name, [f"{sum(b)} -> {sum(n)} of {len(n)}" for b, n in zip(before, now, strict=True)])
        assert not worse(now[0], before[0], 2.0), f"{version.name} lost facts"
        assert not worse(now[1], before[1], 3.0), f"{version.name} no longer ends its answers"
        assert sum(map(min, now[0], first[0])) >= 0.8 * sum(first[0]), f"{version.name} knows too little"
        assert not worse(now[1], first[1], 3.0), f"little by little, {version.name} no longer ends its answers"
        before = now
    w.close()
