"""Runs of GRPO-TCR on the small world, through the code that trains real models; several at once.

One run: questions -> sampled answers -> the user's reactions -> votes -> rewards -> updates.
"""

import multiprocessing
import os
import signal
import warnings
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from random import Random

import torch

from talktune.config import AlgorithmConfig, Config, LabConfig, SampleConfig, TrainConfig
from talktune.judge.oracle import OracleJudge
from talktune.judge.panel import Judge, judge_turns
from talktune.lab.policy import fresh_policy
from talktune.lab.task import END_ID, WORDS, Kind, Question, opinion, questions, react, truth
from talktune.learner.samples import sample_of_answer
from talktune.learner.update import Learner
from talktune.policy.sample import sample_answers
from talktune.types import Label, Message, Sample, Sampled, Turn

FEW_UPDATES = 400
"""Runs that together have fewer updates than this are not worth the start of other processes."""
MOST_PROCESSES = 8
EXAM_ANSWERS = 240
"""Fresh answers to each kind of question on which the trained policy is measured."""


@dataclass(frozen=True)
class Job:
    """One run: what is trained on what, and how."""

    label: str
    """Which variant of the experiment this is; the runs of one variant differ in their seed."""
    seed: int = 0
    updates: int = 0
    """At most; 0 takes as many as the experiment does."""
    algorithm: AlgorithmConfig = field(default_factory=lambda: AlgorithmConfig(group="prompt"))
    kinds: tuple[Kind, ...] = ("plain",)
    asked: int = 8
    """Questions of one set of fresh samples."""
    answers: int = 8
    """G, answers sampled to each question."""
    passes: int = 1
    """Updates that are made with one set of fresh samples; from the second one on the ratio is not 1."""
    learning_rate: float = 3e-3
    longest: int = 40
    """Tokens after which an answer is cut off."""
    accuracy: float = 0.9
    """p, how often one vote of the oracle judge is right."""
    votes: int = 5
    """m."""
    shuffle: bool = False
    """Deal the rewards of each group out anew, and with them the advantages: nothing can be learned then."""
    judge: Callable[[Judge], Judge] | None = None
    """Makes another judge out of the oracle (a function of a module, so that processes can share it)."""
    stop_at: float | None = None
    """End early once the mean quality of the last STOP_WINDOW sets of fresh samples reaches this."""


STOP_WINDOW = 5


@dataclass(frozen=True)
class History:
    """What one run recorded: a row for each update, and the exam at its end."""

    job: Job
    rows: list[dict[str, float]]
    """The learner's metrics, `update` and `sampled` (tokens so far); fresh samples add `quality`, the mean
    of what the user really thought (−1 … 1; by kind of question too where there are several), `judged`, the mean
    reward, and `cut`, the share cut off."""
    exam: dict[str, float]
    """Of fresh answers of the trained policy: `quality`, `length`, `cut`, and `quality` by kind of question."""

    def series(self, metric: str, x: str = "update") -> tuple[list[float], list[float]]:
        """The values of `x` and of a metric at the updates that have it."""
        rows = [row for row in self.rows if metric in row]
        return [row[x] for row in rows], [row[metric] for row in rows]

    def first_at(self, level: float, metric: str = "quality", window: int = STOP_WINDOW) -> int | None:
        """The first update at which the mean of a metric over the last `window` sets of fresh samples is >= level."""
        xs, ys = self.series(metric)
        for i in range(window, len(ys) + 1):
            if sum(ys[i - window : i]) / window >= level:
                return int(xs[i - 1])
        return None


def run_jobs(jobs: Sequence[Job], say: Callable[[str], None]) -> list[History]:
    """Run every job, on all cores where it is worth it; the results are in the order of the jobs.

    A run depends on its job only: not on the number of processes, nor on what ran before.
    """
    found: dict[int, History] = {}
    if sum(job.updates for job in jobs) < FEW_UPDATES or _cores() == 1:
        for i, job in enumerate(jobs):
            say(f"{job.label}, seed {job.seed} ({i + 1} of {len(jobs)})")
            found[i] = train(job)
    else:
        pool = _pool()
        waiting = {pool.submit(train, job): i for i, job in enumerate(jobs)}
        try:
            for done in as_completed(waiting):
                found[waiting[done]] = done.result()
                say(f"{len(found)} of {len(jobs)} runs")
        finally:
            for future in waiting:
                future.cancel()
    return [found[i] for i in range(len(jobs))]


def train(job: Job) -> History:
    """One run. Everything random comes from the job's seed."""
    with one_thread():
        model = fresh_policy(job.seed)
        config = Config(
            algorithm=job.algorithm,
            train=TrainConfig(learning_rate=job.learning_rate, microbatch_tokens=512, seed=job.seed),
            sample=SampleConfig(temperature=1.0, max_new_tokens=job.longest),
        )
        learner = Learner(model, config, job.updates)
        oracle = OracleJudge(truth, job.accuracy, job.seed)
        judge = job.judge(oracle) if job.judge else oracle
        rows: list[dict[str, float]] = []
        recent: list[float] = []
        sampled = 0.0
        samples: list[Sample] = []
        for update in range(1, job.updates + 1):
            row: dict[str, float] = {"update": update}
            if (update - 1) % job.passes == 0:
                samples, measures = _fresh_samples(model, job, config.sample, judge, update)
                row |= measures
                recent = [*recent, measures["quality"]][-STOP_WINDOW:]
                sampled += sum(len(s.answer_ids) for s in samples)
            rows.append(learner.step(samples) | row | {"sampled": sampled})
            if job.stop_at is not None and len(recent) == STOP_WINDOW and sum(recent) / STOP_WINDOW >= job.stop_at:
                break
        return History(job, rows, _exam(model, job, config.sample))


def _fresh_samples(
    model: object, job: Job, config: SampleConfig, judge: Judge, update: int
) -> tuple[list[Sample], dict[str, float]]:
    """Judged answers sampled from the policy as it is now, and what they tell."""
    rng = Random(f"{job.seed}/{update}")
    asked = questions(job.kinds, job.asked, rng)
    answers = sample_answers(
        model,
        [question.ids() for question in asked],
        config,
        end_ids=[END_ID],
        seed=job.seed * 100_003 + update,
        copies=job.answers,
        policy_version=update - 1,
    )
    turns: list[Turn] = []
    opinions: list[Label] = []
    for i, answer in enumerate(answers):
        question = asked[i // job.answers]
        words = _words(answer)
        opinions.append(opinion(question, words))
        turns.append(
            Turn(
                conversation_id=f"{update}-{i}",
                index=1,
                prompt=(Message("user", " ".join(question.words()[1:-1])),),
                answer=Message("assistant", " ".join(words)),
                next_state=(Message("user", react(opinions[-1], rng)),),
                sampled=answer,
            )
        )
    verdicts = judge_turns(judge, turns, job.votes)
    rewards = [verdict.reward or 0.0 for verdict in verdicts]  # an oracle's votes never fail
    measures = {
        "quality": sum(opinions) / len(opinions),
        "judged": sum(rewards) / len(rewards),
        "cut": sum(answer.answer_ids[-1] != END_ID for answer in answers) / len(answers),
    }
    if len(job.kinds) > 1:
        for kind in job.kinds:
            mine = [o for i, o in enumerate(opinions) if asked[i // job.answers].kind == kind]
            measures[f"quality {kind}"] = sum(mine) / len(mine)
    if job.shuffle:
        rewards = [
            reward
            for at in range(0, len(rewards), job.answers)
            for reward in rng.sample(rewards[at : at + job.answers], job.answers)
        ]
    samples = [
        sample_of_answer(answer, id=f"{update}-{i}", reward=reward, group=str(i // job.answers))
        for i, (answer, reward) in enumerate(zip(answers, rewards, strict=True))
    ]
    return samples, measures


def _exam(model: object, job: Job, config: SampleConfig) -> dict[str, float]:
    """Measure the policy on EXAM_ANSWERS fresh answers to each kind of question, by what the user thinks."""
    rng = Random(f"{job.seed}/exam")
    found: dict[str, float] = {}
    lengths: list[int] = []
    cut: list[bool] = []
    for kind in job.kinds:
        asked: list[Question] = questions([kind], EXAM_ANSWERS, rng)
        answers = sample_answers(
            model, [q.ids() for q in asked], config, end_ids=[END_ID], seed=job.seed * 100_003, copies=1
        )
        liked = [opinion(q, _words(answer)) for q, answer in zip(asked, answers, strict=True)]
        found[f"quality {kind}"] = sum(liked) / len(liked)
        lengths += [len(answer.answer_ids) for answer in answers]
        cut += [answer.answer_ids[-1] != END_ID for answer in answers]
    found["quality"] = sum(found.values()) / len(found)
    return found | {"length": sum(lengths) / len(lengths), "cut": sum(cut) / len(cut)}


def _words(answer: Sampled) -> list[str]:
    return [WORDS[i] for i in answer.answer_ids]


def with_seeds(config: LabConfig, jobs: Iterable[Job]) -> list[Job]:
    """Each job with every seed of the experiment, and no more updates than it may have."""
    return [
        replace(job, seed=config.seed + i, updates=min(config.updates, job.updates or config.updates))
        for job in jobs
        for i in range(config.seeds)
    ]


def exams(histories: Iterable[History], measure: str) -> list[float]:
    """A measure of the exam that each run ended with."""
    return [history.exam[measure] for history in histories]


def by_label(histories: Sequence[History]) -> dict[str, list[History]]:
    """The runs of each variant, in the order in which the variants came."""
    found: dict[str, list[History]] = {}
    for history in histories:
        found.setdefault(history.job.label, []).append(history)
    return found


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _pool() -> ProcessPoolExecutor:
    """Processes for the runs of all experiments: each has loaded torch and fitted the base model once.

    `spawn`, since a forked torch with threads may hang.
    """
    return ProcessPoolExecutor(
        min(_cores(), MOST_PROCESSES),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_silence,
    )


def _silence() -> None:
    """In a process of the pool: what there is to say the parent says, of Ctrl-C too, which ends it at once."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    warnings.filterwarnings("ignore", category=FutureWarning)


@contextmanager
def one_thread() -> Generator[None]:
    """Inside, torch uses one thread: the matrices are small, and the sums then do not depend on the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
