"""`group-size`: few questions with many answers each, or many with few, at equal sampled tokens."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from talktune.config import AlgorithmConfig, Config, LabConfig, SampleConfig, TrainConfig
from talktune.lab.experiment import Experiment, Finding
from talktune.lab.picture import draw_band, draw_runs, finish, mean_and_range
from talktune.lab.policy import fresh_policy
from talktune.lab.task import END_ID, WORDS, Question, opinion
from talktune.lab.trainer import Job, by_label, exams, one_thread, run_jobs, with_seeds
from talktune.learner.samples import sample_of_answer
from talktune.learner.update import Learner
from talktune.policy.sample import sample_answers
from talktune.report.plots import BLUE, GREEN, GREY, ORANGE, VERMILLION, new_figure
from talktune.types import Sample

SIZES = (2, 4, 8, 16)
ANSWERS = 64
"""Answers of one update, whatever the size of a group."""
MOST_UPDATES = 100
GRADIENTS = 160
"""Gradients whose scatter is the variance, at most one for each update that a run may have."""
_LOOK = dict(zip(SIZES, ((VERMILLION, ":"), (ORANGE, "-."), (GREEN, "--"), (BLUE, "-")), strict=True))


def jobs(config: LabConfig) -> list[Job]:
    """Each size with every seed, at ANSWERS answers an update."""
    sizes = [Job(str(size), updates=MOST_UPDATES, asked=ANSWERS // size, answers=size) for size in SIZES]
    return with_seeds(config, sizes)


def gradient_variance(config: LabConfig, pool: int = GRADIENTS) -> dict[int, float]:
    """Total variance of the policy gradient for each size, from the same `pool` batches of ANSWERS answers.

    Every batch is cut into groups of each size: the tokens are equal, and so is the question, so that only the
    baseline differs. A = r − mean of the others (leave-one-out), without division by the spread: unbiased for
    every size. Σ over parameters of the variance over batches.
    """
    model = fresh_policy(config.seed)
    question = Question("plain", 0)
    sample = SampleConfig(temperature=1.0, max_new_tokens=40)
    learners = {size: _unscaled(model) for size in SIZES}
    gradients: dict[int, list[NDArray[np.float64]]] = {size: [] for size in SIZES}
    for number in range(pool):
        seed = config.seed * 100_003 + number
        answers = sample_answers(model, [question.ids()], sample, end_ids=[END_ID], seed=seed, copies=ANSWERS)
        rewards = [float(opinion(question, [WORDS[t] for t in answer.answer_ids])) for answer in answers]
        for size, learner in learners.items():
            samples = [
                sample_of_answer(answer, id=str(i), reward=reward, group=str(i // size))
                for i, (answer, reward) in enumerate(zip(answers, rewards, strict=True))
            ]
            learner.gradient(samples)
            flat = torch.cat([p.grad.flatten() for p in learner.trained.values() if p.grad is not None])
            # The loss divides by the tokens of groups with variance; here every token counts, as in the formula.
            kept = sum(len(s.answer_ids) for s in samples if _varies(samples, s.group))
            total = sum(len(s.answer_ids) for s in samples)
            gradients[size].append((flat * (kept / total)).double().numpy())
            learner.optimizer.zero_grad(set_to_none=True)
    return {size: float(np.var(np.stack(rows), axis=0, ddof=1).sum()) for size, rows in gradients.items()}


def expected_variance(size: int) -> float:
    """G / (G − 1): variance of the leave-one-out gradient over that of a baseline known exactly.

    Var(r_i − mean of the G − 1 others) = σ²(1 + 1/(G − 1)), when rewards and ∇ log π are independent.
    """
    return size / (size - 1)


def _unscaled(model: object) -> Learner:
    algorithm = AlgorithmConfig(group="prompt", beta=0.0, scale="none", baseline="leave-one-out")
    return Learner(model, Config(algorithm=algorithm, train=TrainConfig(microbatch_tokens=1024)), 1)


def _varies(samples: list[Sample], group: str) -> bool:
    return len({s.reward for s in samples if s.group == group}) > 1


def _run(config: LabConfig, say: Callable[[str], None]) -> Finding:
    found = by_label(run_jobs(jobs(config), say))
    pool = min(GRADIENTS, config.updates)
    say(f"group-size: {pool} gradients of each size")
    with one_thread():
        variance = gradient_variance(config, pool)
    known = variance[SIZES[-1]] / expected_variance(SIZES[-1])
    relative = {size: variance[size] / known for size in SIZES}
    figure = new_figure(width=9.6)
    quality, flat, noise = figure.subplots(1, 3)
    rows: list[list[object]] = []
    numbers: dict[str, Mapping[str, object]] = {}
    for size in SIZES:
        histories = found[str(size)]
        colour, style = _LOOK[size]
        xs = [value / 1000 for value in histories[0].series("quality", "sampled")[0]]
        lines = [history.series("quality")[1] for history in histories]
        draw_band(quality, xs, lines, colour=colour, label=f"G = {size}", style=style)
        draw_runs(flat, histories, "skipped_groups", _LOOK[size], f"G = {size}", factor=100 * size / ANSWERS)
        after = exams(histories, "quality")
        way = [sum(history.series("quality")[1]) / len(history.rows) for history in histories]
        tokens = [history.rows[-1]["sampled"] for history in histories]
        numbers[str(size)] = {
            "quality_after": after,
            "quality_on_the_way": way,
            "tokens_sampled": tokens,
            "gradient_variance": variance[size],
            "relative_variance": relative[size],
            "expected": expected_variance(size),
        }
        cells = [mean_and_range(after), mean_and_range(way), mean_and_range([t / 1000 for t in tokens], 1)]
        rows.append([size, *cells, f"{relative[size]:.2f}", f"{expected_variance(size):.2f}"])
    x, y = "sampled tokens (thousand)", "mean opinion (−1 … 1)"
    finish(quality, title="Quality at equal tokens", x=x, y=y, legend="lower right")
    finish(flat, title="Groups that teach nothing", x="update", y="groups without variance (%)")
    places = range(len(SIZES))
    noise.plot(places, [expected_variance(size) for size in SIZES], "-", color=GREY, label="G / (G − 1)")
    noise.plot(places, [relative[size] for size in SIZES], "o", color=BLUE, label="measured")
    noise.set_xticks(places, [str(size) for size in SIZES])
    noise.set_ylim(bottom=0)
    y = "relative to an exact baseline (1)"
    finish(noise, title="Variance of the gradient", x="group size G", y=y, legend="lower left")
    ends = [mean_and_range(exams(found[str(size)], "quality")) for size in SIZES]
    return Finding(
        columns=[
            "G",
            "quality after: mean (range)",
            "quality on the way",
            "tokens (thousand)",
            "gradient variance, relative",
            "G / (G − 1)",
        ],
        rows=rows,
        numbers={"sizes": numbers, "answers": ANSWERS, "gradients": pool},
        figure=figure,
        conclusion=(
            f"At {ANSWERS} answers an update, pairs end at a quality of {ends[0]}, groups of 16 at "
            f"{ends[-1]}. At equal tokens the gradient of pairs varies "
            f"{relative[2] / relative[16]:.2f} times as much as that of groups of 16; the formula says "
            f"{expected_variance(2) / expected_variance(16):.2f}."
        ),
    )


EXPERIMENT = Experiment(
    title="How many answers to one question",
    idea=(
        "The group's mean is the baseline. From two answers it is noisy, from sixteen it is good; but at an equal "
        "number of sampled tokens large groups mean fewer questions. The measured variance takes the same answers to "
        "one question and only cuts them into groups differently."
    ),
    formula="A_i = r_i − mean of the others:  Var = σ²(1 + 1/(G − 1)) = σ²·G/(G − 1), with r independent of ∇ log π",
    look_at=(
        "Left: the curves over sampled tokens. Middle: small groups more often have equal rewards and are skipped. "
        "Right: most of the variance is gone at G = 8; twice as many answers buy little more."
    ),
    source="RLOO: https://arxiv.org/abs/2402.14740; GRPO: https://arxiv.org/abs/2402.03300",
    run=_run,
)
