"""The demo: answer, hear a reaction in words, judge the words, learn; ask held-out questions before and after."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from talktune.config import Config, DemoConfig, SampleConfig
from talktune.demo.user import Question, User, is_right
from talktune.files import whole_file
from talktune.judge.panel import Judge, judge_turns
from talktune.learner.samples import sample_of_answer, with_teacher
from talktune.policy.load import Policy
from talktune.policy.sample import sample_answers
from talktune.policy.tokens import decode_answer, end_ids, render_prompt
from talktune.types import Label, Message, Sample, Sampled, Turn, Verdict

SHORTLY = " Answer in one short sentence."
"""How fact questions are asked, so that the base model gets them right too."""


@dataclass(frozen=True)
class Exam:
    """What the policy answered to the held-out and the fact questions, greedily."""

    answers: tuple[str, ...]
    satisfied: tuple[bool, ...]
    tokens: tuple[int, ...]
    facts: tuple[str, ...]
    facts_right: tuple[bool, ...]

    def figures(self, before: "Exam") -> dict[str, float]:
        """The figures of the table; facts kept are those that the policy got right `before` and still does."""
        known = [i for i, right in enumerate(before.facts_right) if right]
        return {
            "satisfaction": sum(self.satisfied) / len(self.satisfied),
            "answer_tokens": sum(self.tokens) / len(self.tokens),
            "facts_kept": sum(self.facts_right[i] for i in known) / max(len(known), 1),
            "facts_right": float(sum(self.facts_right)),
            "distinct_answers": len(set(self.answers)) / len(self.answers),
            "most_repeated_answer": float(max(Counter(self.answers).values())),
        }


class Demo:
    """The conversation partners of one demo: the policy, the scripted user and the judge."""

    def __init__(self, policy: Policy, config: Config, on_progress: Callable[[str], None] | None = None) -> None:
        """`policy.model` carries the adapter in training; `on_progress` hears what is being done."""
        self.policy = policy
        self.config = config
        self.rollout = config.demo or DemoConfig()
        self.user = User()
        self.questions = self.user.questions
        self.ends = end_ids(policy.tokenizer, policy.model.generation_config)
        self.say = on_progress or (lambda _: None)
        self.judge: Judge | None = None
        self.truth: dict[str, Label] = {}
        """What the user really thought, by turn: for the oracle judge and to measure the judge, never told."""
        self.turns: dict[str, Turn] = {}
        """The judged turns of the last update, by the ids of its samples."""
        self.learned: list[Sample] = []

    def samples(self, update: int) -> tuple[Sequence[Sample], dict[str, float]]:
        """The samples of one update: questions, G answers each, reactions in words, verdicts on those words."""
        seed = self.config.train.seed
        asked = self._questions_of(update)
        self.say("answering")
        sampled = self._answer(
            [q.text for q in asked], self.config.sample, seed * 100_003 + update, self.rollout.answers, update - 1
        )
        rng = Random(f"{seed}/reactions/{update}")
        turns: list[Turn] = []
        for i, answer in enumerate(sampled):
            question = asked[i // self.rollout.answers]
            text, finished = self._text(answer)
            opinion = self.user.judge(question, text, finished)
            turn = Turn(
                conversation_id=f"update-{update}-question-{i // self.rollout.answers}-answer-{i}",
                index=1,
                prompt=(Message("user", question.text),),
                answer=Message("assistant", text),
                next_state=(Message("user", self.user.react(opinion, question, rng)),),
                sampled=answer,
            )
            self.truth[turn.conversation_id] = opinion.label
            turns.append(turn)
        self.say("judging")
        assert self.judge is not None
        j = self.config.judge
        verdicts = judge_turns(self.judge, turns, j.votes, exact=j.exact)
        self.say("learning")
        self.turns = {}
        samples: list[Sample] = []
        for answer, turn, verdict in zip(sampled, turns, verdicts, strict=True):
            if verdict.reward is None:
                continue
            group = turn.prompt[-1].content
            sample = sample_of_answer(answer, id=turn.conversation_id, reward=verdict.reward, group=group)
            judged = self.turns[turn.conversation_id] = replace(turn, verdict=verdict)
            if self.config.algorithm.distills and not self.rollout.shuffle_rewards:
                sample = with_teacher(sample, judged, self.policy.tokenizer, self.config.train.max_tokens)
            samples.append(sample)
        if self.rollout.shuffle_rewards:
            order = list(range(len(samples)))
            Random(f"{seed}/shuffle/{update}").shuffle(order)
            samples = [replace(s, reward=samples[k].reward) for s, k in zip(samples, order, strict=True)]
        self.learned = samples
        return samples, self._measures(turns, verdicts)

    def exam(self) -> Exam:
        """Ask the held-out questions plainly and the fact questions shortly; the answers are greedy."""
        greedy = replace(self.config.sample, temperature=0.0)
        held_out, facts = self.questions["held-out"], self.questions["fact"]
        sampled = self._answer([q.text for q in held_out], greedy, 0, 1, None)
        told = self._answer([q.text + SHORTLY for q in facts], replace(greedy, max_new_tokens=32), 0, 1, None)
        texts = [self._text(s) for s in sampled]
        fact_texts = [self._text(s)[0] for s in told]
        return Exam(
            answers=tuple(text for text, _ in texts),
            satisfied=tuple(
                self.user.judge(q, text, finished).label == 1
                for q, (text, finished) in zip(held_out, texts, strict=True)
            ),
            tokens=tuple(len(s.answer_ids) for s in sampled),
            facts=tuple(fact_texts),
            facts_right=tuple(is_right(q, text) for q, text in zip(facts, fact_texts, strict=True)),
        )

    def _questions_of(self, update: int) -> list[Question]:
        """Held-in questions of this update: the list is dealt out whole, in an order of its own each round."""
        pool, n = self.questions["train"], self.rollout.questions
        first = (update - 1) * n
        dealt: list[Question] = []
        for position in range(first, first + n):
            turn, place = divmod(position, len(pool))
            order = Random(f"{self.config.train.seed}/questions/{turn}").sample(range(len(pool)), len(pool))
            dealt.append(pool[order[place]])
        return dealt

    def _answer(
        self, texts: Sequence[str], config: SampleConfig, seed: int, copies: int, version: int | None
    ) -> list[Sampled]:
        prompts = [render_prompt(self.policy.tokenizer, [Message("user", text)], ()) for text in texts]
        return sample_answers(
            self.policy.model,
            prompts,
            config,
            end_ids=self.ends,
            seed=seed,
            copies=copies,
            policy_version=version,
        )

    def _text(self, answer: Sampled) -> tuple[str, bool]:
        finished = answer.answer_ids[-1] in self.ends
        return decode_answer(self.policy.tokenizer, list(answer.answer_ids)).strip(), finished

    def _measures(self, turns: Sequence[Turn], verdicts: Sequence[Verdict]) -> dict[str, float]:
        scored = [(t, v) for t, v in zip(turns, verdicts, strict=True) if v.reward is not None]
        votes = [vote.label == v.reward for _, v in scored for vote in v.votes if vote.label is not None]
        right = [self.truth[t.conversation_id] == v.reward for t, v in scored]
        liked = [self.truth[t.conversation_id] == 1 for t in turns]
        return {
            "votes_agreement": sum(votes) / max(len(votes), 1),
            "judge_right": sum(right) / max(len(right), 1),
            "satisfaction": sum(liked) / len(liked),
        }


def first_exam(demo: Demo, run: Path) -> Exam:
    """The exam before training: taken once and kept in the run directory, so that a resumed run has it."""
    kept = run / "before.json"
    if kept.exists():
        return Exam(**{name: tuple(value) for name, value in json.loads(kept.read_text("utf-8")).items()})
    exam = demo.exam()
    with whole_file(kept) as file:
        file.write(json.dumps(asdict(exam)).encode())
    return exam


def write_results(demo: Demo, run: Path, before: Exam, after: Exam, other: dict[str, Any]) -> dict[str, Any]:
    """Write `summary.json` and `samples.jsonl` (every held-out and fact answer, before and after)."""
    summary = {"before": before.figures(before), "after": after.figures(before), **other}
    with whole_file(run / "summary.json") as file:
        file.write(json.dumps(summary, indent=2).encode())
    lines: list[dict[str, Any]] = []
    for split, asked, old, new, was, now in (
        ("held-out", demo.questions["held-out"], before.answers, after.answers, before.satisfied, after.satisfied),
        ("fact", demo.questions["fact"], before.facts, after.facts, before.facts_right, after.facts_right),
    ):
        lines += [
            {
                "split": split,
                "prompt": q.text,
                "before": old[i],
                "after": new[i],
                "satisfied_before": was[i],
                "satisfied_after": now[i],
            }
            for i, q in enumerate(asked)
        ]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    with whole_file(run / "samples.jsonl") as file:
        file.write(text.encode())
    return summary
