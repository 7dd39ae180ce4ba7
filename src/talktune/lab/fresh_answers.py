"""`fresh-answers`: what a preference model of given skill adds to learning from few verdicts, and where it misleads."""

from collections.abc import Callable, Mapping, Sequence
from math import sqrt

import torch
from matplotlib.axes import Axes
from torch import Tensor

from talktune.config import LabConfig
from talktune.lab.alignment import (
    Setting,
    alignment,
    best_weight,
    full_weight,
    simulate,
    turns_of,
)
from talktune.lab.bandit import FRESH, TURNS, Arm, Curve, Judged, Predictor, World, run
from talktune.lab.experiment import Experiment, Finding
from talktune.lab.picture import finish, mean, mean_and_range
from talktune.report.plots import BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILLION, new_figure
from talktune.rl.logistic import base_rate, fit_weight, probabilities

PROMPTS, ANSWERS = 8, 8
LIKED = 0.9
"""Mean verdict on an answer that the user likes; minus that on the others."""
EASY, HARD = 6, 2
"""Answers liked of ANSWERS, of every other prompt."""
SKILLS = (0.0, 0.3, 0.6, 0.9)
COUNTS = (2, 6, 16)
"""K of the closed form; the runs take FRESH."""
UPDATES = 12
RUNS = 3
"""Runs of each arm for each seed, every one in a world of its own."""

LENGTHS = (-0.8, -0.3, 0.3, 0.9, 0.5, -0.1, -0.6, -0.9)
"""What the user thinks of an answer, the shortest first: the first policy is too curt, and there is too long, too."""
CURT = 0.5
"""Every further length is so much less likely, in nats."""
FIRST = 32
"""Verdicts of the fit that is never made anew."""
TRAP_UPDATES = 24
BETA = 3.0

ALONE, PROMPTS_ONLY, WITHIN = "verdicts alone", "knows prompts, not answers", "the same, trusted within a prompt"
TRAP_ALONE, ONCE = "trap: verdicts alone", "trap: length, fitted once"
HELD, AGAIN = f"trap: length, fitted once, KL {BETA:g}", "trap: length, fitted again"

_SKILL_LOOK = dict(zip(SKILLS, ((GREY, "-"), (ORANGE, "-."), (GREEN, "--"), (BLUE, "-")), strict=True))


def world_of(seed: int) -> World:
    """Prompts with EASY and HARD answers liked in turn: all have the same spread, and the mean verdict is 0."""
    rng = torch.Generator().manual_seed(seed)
    opinions = torch.full((PROMPTS, ANSWERS), -LIKED, dtype=torch.float64)
    for i, row in enumerate(opinions):
        row[torch.randperm(ANSWERS, generator=rng)[: EASY if i % 2 else HARD]] = LIKED
    return World(opinions, torch.zeros_like(opinions))


def setting_of(fresh: int) -> Setting:
    """An update in a `world_of`, with so many fresh answers."""
    share = EASY / ANSWERS
    return Setting(PROMPTS, ANSWERS, TURNS, fresh, noise=1 / (4 * LIKED**2 * share * (1 - share)))


def foretold_with(skill: float, world: World, seed: int) -> Tensor:
    """Predicted rewards (C, A) whose correlation with the opinions is `skill` within every prompt, exactly."""
    rng = torch.Generator().manual_seed(seed)
    wanted = _standard(world.opinions)
    other = _standard(torch.randn(wanted.shape, generator=rng, dtype=torch.float64))
    other = _standard(other - (other * wanted).mean(1, keepdim=True) * wanted)
    return skill * wanted + sqrt(1 - skill**2) * other


def _skill(skill: float) -> str:
    return f"skill {skill:g}"


def _standard(table: Tensor) -> Tensor:
    centred = table - table.mean(1, keepdim=True)
    return centred / centred.square().mean(1, keepdim=True).sqrt()


def skilled(skill: float, world: World, seed: int) -> Predictor:
    """Foretells with that skill, and learns nothing."""
    table = foretold_with(skill, world, seed)
    return lambda judged: table


def knows_prompts(world: World, seed: int) -> Predictor:
    """Knows how easy a prompt is, and nothing of the answers to it."""
    table = world.opinions.mean(1, keepdim=True) + 0.05 * foretold_with(0.0, world, seed)
    return lambda judged: table


def arms_of(world: World, seed: int) -> Mapping[tuple[str, bool], Arm]:
    """Each way to learn in a `world_of`: by what rewards the fresh answers, and whether they weigh by earned trust."""
    found = {(ALONE, True): Arm()}
    for skill in SKILLS:
        for trusted in (False, True):
            found[_skill(skill), trusted] = Arm(skilled(skill, world, seed), trusted)
    for trusted in (False, True):
        found[PROMPTS_ONLY, trusted] = Arm(knows_prompts(world, seed), trusted)
    return found | {(WITHIN, True): Arm(knows_prompts(world, seed), within=True)}


def trap_world() -> World:
    """Two prompts whose answers differ in their length only."""
    start = -CURT * torch.arange(len(LENGTHS), dtype=torch.float64)
    return World(torch.tensor([LENGTHS] * 2, dtype=torch.float64), start.expand(2, -1).clone())


def likes_length(judged: Judged, world: World, first: int | None = None) -> Tensor | None:
    """p(+1) − p(−1) of every answer by its length alone, fitted to the `first` verdicts or to all; None before."""
    known = len(judged.verdicts) if first is None else first
    if known == 0 or len(judged.verdicts) < known:
        return None
    share = world.start[0].softmax(0)
    lengths = torch.arange(len(share), dtype=torch.float64)
    centred = lengths - share @ lengths
    features = (centred / (share @ centred.square()).sqrt())[:, None]
    classes = judged.verdicts[:known].long() + 1
    base = base_rate(classes)
    p = probabilities(features, fit_weight(features[judged.answers[:known]], classes, base, 2.0), base)
    return (p[:, 2] - p[:, 0]).expand_as(world.opinions)


def trap_arms(world: World) -> Mapping[tuple[str, bool], Arm]:
    """As `arms_of`, in the `trap_world`."""

    def once(judged: Judged) -> Tensor | None:
        return likes_length(judged, world, FIRST)

    def again(judged: Judged) -> Tensor | None:
        return likes_length(judged, world)

    return {
        (TRAP_ALONE, True): Arm(),
        (ONCE, False): Arm(once, trusted=False),
        (ONCE, True): Arm(once),
        (HELD, False): Arm(once, trusted=False, beta=BETA),
        (HELD, True): Arm(once, beta=BETA),
        (AGAIN, False): Arm(again, trusted=False),
        (AGAIN, True): Arm(again),
    }


Runs = Mapping[tuple[str, bool], Sequence[Curve]]
"""By arm: the mean curve of each seed."""


def learn(config: LabConfig) -> Runs:
    """Every arm in RUNS worlds for each seed, and in the trap as often."""
    found: dict[tuple[str, bool], list[Curve]] = {}
    trap = trap_world()
    for seed in range(config.seed, config.seed + config.seeds):
        curves: dict[tuple[str, bool], list[Curve]] = {}
        for number in range(seed * RUNS, (seed + 1) * RUNS):
            world = world_of(number)
            jobs = [(world, UPDATES, arms_of(world, number)), (trap, TRAP_UPDATES, trap_arms(trap))]
            for place, most, arms in jobs:
                for key, arm in arms.items():
                    curves.setdefault(key, []).append(run(place, arm, min(config.updates, most), number))
        for key, some in curves.items():
            found.setdefault(key, []).append(_average(some))
    return found


def _average(curves: Sequence[Curve]) -> Curve:
    def means(lines: Sequence[Sequence[float]]) -> list[float]:
        return [mean(column) for column in zip(*lines, strict=True)]

    return Curve(*(means([getattr(c, name) for c in curves]) for name in ("opinion", "predicted", "trust")))
