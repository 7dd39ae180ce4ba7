"""The demo on a tiny model: who is told what, and that a run can be killed and controlled."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from talktune.config import AlgorithmConfig, Config, DemoConfig, ModelConfig, SampleConfig, TrainConfig
from talktune.demo.loop import Demo, Exam, first_exam, write_results
from talktune.demo.user import User
from talktune.judge.panel import Ask
from talktune.types import Label, Sampled, Turn, Vote

CONFIG = Config(
    model=ModelConfig(lora_rank=2),
    algorithm=AlgorithmConfig(group="prompt"),
    train=TrainConfig(updates=2),
    sample=SampleConfig(max_new_tokens=8),
    demo=DemoConfig(questions=3, answers=4),
)
SPLIT = {question.text: split for split, questions in User().questions.items() for question in questions}


class Listener:
    """A judge that keeps what it is asked, and votes by turns so that groups have variance."""

    name = "listener"

    def __init__(self) -> None:
        self.heard: list[Turn] = []

    def vote(self, asks: Sequence[Ask]) -> list[Vote]:
        labels: tuple[Label, ...] = (-1, 0, 1)
        self.heard += [turn for turn, _ in asks]
        return [Vote(labels[len(turn.answer.content) % 3], judge=self.name) for turn, _ in asks]


@pytest.fixture(scope="module")
def make(tiny_model: Path) -> Callable[[Config], Demo]:
    from talktune.policy.adapter import attach_adapter
    from talktune.policy.load import load_policy

    policy = load_policy(ModelConfig(str(tiny_model)))
    policy.model = attach_adapter(policy.model, CONFIG.model, seed=0)

    def made(config: Config) -> Demo:
        demo = Demo(policy, config)
        demo.judge = Listener()
        return demo

    return made


def test_the_judge_is_given_words_only(make: Callable[[Config], Demo]) -> None:
    demo = make(CONFIG)
    samples, metrics = demo.samples(1)
    assert isinstance(demo.judge, Listener)
    turns = {turn.conversation_id: turn for turn in demo.judge.heard}
    assert len(turns) == len(samples) == 12
    for name, turn in turns.items():
        [reaction] = turn.next_state
        assert reaction.role == "user"
        assert reaction.content.strip()
        assert reaction.content != turn.answer.content
        assert turn.verdict is None
        assert turn.kind == "main"
        number = int(name.rpartition("-")[2])
        assert name == f"update-1-question-{number // 4}-answer-{number}"  # says nothing of the label
        assert isinstance(turn.sampled, Sampled)
        assert [m.role for m in turn.prompt] == ["user"]
    assert 0 <= metrics["satisfaction"] <= 1
    assert 0 <= metrics["judge_right"] <= 1


def test_questions_are_held_in_and_dealt_out_evenly(make: Callable[[Config], Demo]) -> None:
    demo = make(CONFIG)
    pool = [text for text, split in SPLIT.items() if split == "train"]
    rounds = -(-len(pool) // 3)
    asked = [q.text for update in range(1, rounds + 1) for q in demo._questions_of(update)]
    assert {SPLIT[text] for text in asked} == {"train"}
    assert set(asked[: len(pool)]) == set(pool)
    samples, _ = demo.samples(5)
    assert [*Counter(s.group for s in samples)] == [q.text for q in demo._questions_of(5)]
    assert set(Counter(s.group for s in samples).values()) == {4}


def test_samples_are_what_was_sampled_and_the_same_again(make: Callable[[Config], Demo]) -> None:
    first, _ = make(CONFIG).samples(3)
    again, _ = make(CONFIG).samples(3)
    assert first == again
    for sample in first:
        assert 1 <= len(sample.answer_ids) <= 8
        assert sample.rollout_logprobs is not None
        assert len(sample.rollout_logprobs) == len(sample.answer_ids)
        assert (sample.temperature, sample.policy_version, sample.retokenised) == (0.8, 2, False)
    other, _ = make(replace(CONFIG, train=replace(CONFIG.train, seed=1))).samples(3)
    assert [s.answer_ids for s in other] != [s.answer_ids for s in first]


def test_shuffling_deals_the_rewards_out_anew(make: Callable[[Config], Demo]) -> None:
    assert CONFIG.demo is not None
    plain, _ = make(CONFIG).samples(2)
    shuffled, _ = make(replace(CONFIG, demo=replace(CONFIG.demo, shuffle_rewards=True))).samples(2)
    assert [s.answer_ids for s in plain] == [s.answer_ids for s in shuffled]
    was, now = [s.reward for s in plain], [s.reward for s in shuffled]
    assert len(set(was)) > 1
    assert was != now
    assert Counter(was) == Counter(now)


def test_the_exam_asks_held_out_questions_and_facts(make: Callable[[Config], Demo], tmp_path: Path) -> None:
    demo = make(CONFIG)
    demo.questions = {split: questions[:4] for split, questions in demo.questions.items()}
    exam = first_exam(demo, tmp_path)
    assert len(exam.answers) == len(exam.satisfied) == len(exam.facts) == 4
    demo.policy = replace(demo.policy, model=None)  # a resumed run does not ask again
    assert first_exam(demo, tmp_path) == exam
    summary = write_results(demo, tmp_path, exam, exam, {"seed": 0})
    lines = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert [line["split"] for line in lines] == ["held-out"] * 4 + ["fact"] * 4
    assert json.loads((tmp_path / "summary.json").read_text()) == summary


def test_facts_kept_are_those_known_before() -> None:
    before = Exam(("a", "b"), (True, False), (2, 4), ("x",) * 4, (True, True, False, False))
    after = Exam(("a", "a"), (True, True), (3, 3), ("x",) * 4, (True, False, True, True))
    figures = after.figures(before)
    assert figures["facts_kept"] == 0.5
    assert figures["facts_right"] == 3
    assert figures["satisfaction"] == 1
    assert figures["answer_tokens"] == 3
    assert figures["distinct_answers"] == 0.5
    assert figures["most_repeated_answer"] == 2


def test_no_held_out_question_is_trained_on() -> None:
    texts: dict[str, Any] = {split: [q.text for q in questions] for split, questions in User().questions.items()}
    assert len(SPLIT) == sum(map(len, texts.values()))
    assert set(texts) == {"train", "held-out", "fact"}
