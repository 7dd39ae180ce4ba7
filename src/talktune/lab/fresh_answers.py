"""`fresh-answers`: what a preference model of given skill adds to learning from few verdicts, and where it misleads."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import torch
from matplotlib.axes import Axes
from torch import Tensor

from talktune.config import LabConfig
from talktune.lab.alignment import Setting, alignment, best_weight, full_weight, simulate, turns_of
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
MOST_DRAWS = 1000
"""Simulated updates at the default number of trials."""
UPDATES = 12
RUNS = 2
"""Runs of each arm for each seed, every one in a world of its own."""

LENGTHS = (-0.8, -0.3, 0.3, 0.9, 0.5, -0.1, -0.6, -0.9)
"""What the user thinks of an answer, the shortest first: the first policy is too curt, and there is too long, too."""
CURT = 0.5
"""Every further length is so much less likely, in nats."""
FIRST = 32
"""Verdicts of the fit that is never made anew."""
TRAP_UPDATES = 24
BETA = 2.0

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
    knows = knows_prompts(world, seed)
    return found | {(PROMPTS_ONLY, True): Arm(knows), (WITHIN, True): Arm(knows, within=True)}


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


@dataclass(frozen=True)
class Worth:
    """The verdicts that the fresh answers of one update are worth: as many more would align it as well."""

    exact: float
    simulated: float
    error: float
    """Standard error of what was simulated."""


def measure_worth(config: LabConfig) -> Mapping[tuple[int, float, bool], Worth]:
    """By K, skill, and whether they are believed fully or have the best weight."""
    found: dict[tuple[int, float, bool], Worth] = {}
    draws = max(MOST_DRAWS * config.trials // 20_000, 20)
    world = world_of(config.seed)
    for fresh in COUNTS:
        setting = setting_of(fresh)
        for skill in SKILLS:
            gradients = simulate(world, foretold_with(skill, world, config.seed), setting, draws, config.seed)
            for full in (False, True):
                weight = full_weight(setting) if full else best_weight(setting, skill)
                q, error = gradients.alignment(weight)
                exact, simulated, further = (
                    turns_of(at, setting) - TURNS for at in (alignment(setting, skill, weight), q, q + error)
                )
                found[fresh, skill, full] = Worth(exact, simulated, further - simulated)
    return found


def _draw_worth(axes: Axes, found: Mapping[tuple[int, float, bool], Worth]) -> None:
    skills = [i / 100 for i in range(96)]
    for fresh, colour in zip(COUNTS, (ORANGE, BLUE, GREEN), strict=True):
        for full in (False, True):
            if full and fresh != FRESH:
                continue
            setting = setting_of(fresh)
            weights = [full_weight(setting) if full else best_weight(setting, skill) for skill in skills]
            exact = [turns_of(alignment(setting, s, w), setting) - TURNS for s, w in zip(skills, weights, strict=True)]
            name = f"K = {fresh}, " + ("believed fully" if full else "best weight")
            axes.plot(skills, exact, "--" if full else "-", color=VERMILLION if full else colour, label=name)
            mine = [found[fresh, skill, full] for skill in SKILLS]
            axes.errorbar(
                SKILLS,
                [w.simulated for w in mine],
                yerr=[2 * w.error for w in mine],
                fmt="o",
                markersize=4,
                color=VERMILLION if full else colour,
            )
    axes.axhline(0, color="black", linewidth=0.8)
    y = f"verdicts beside {TURNS}"
    finish(axes, title="Worth of K fresh answers to each prompt", x="skill ρ", y=y, legend="upper left")


def _draw(
    axes: Axes, curves: Sequence[Curve], look: tuple[str, str], label: str, *, metric: str = "opinion", start: int = 0
) -> None:
    lines = [getattr(curve, metric)[start:] for curve in curves]
    columns = list(zip(*lines, strict=True))
    xs = [TURNS * (start + i) for i in range(len(columns))]
    axes.fill_between(xs, [min(c) for c in columns], [max(c) for c in columns], color=look[0], alpha=0.15, linewidth=0)
    axes.plot(xs, [mean(c) for c in columns], look[1], color=look[0], linewidth=1.7, label=label)


def _draw_skills(axes: Axes, runs: Runs, *, trusted: bool) -> None:
    _draw(axes, runs[ALONE, True], ("black", ":"), ALONE)
    for skill, look in _SKILL_LOOK.items():
        _draw(axes, runs[_skill(skill), trusted], look, _skill(skill))
    if trusted:
        _draw(axes, runs[PROMPTS_ONLY, True], (PURPLE, "-"), "knows prompts only")
    axes.set_ylim(-0.15, 1.0)
    title = "Fresh answers weigh by earned trust" if trusted else "Fresh answers are believed fully"
    finish(axes, title=title, x="judged turns", y="mean opinion (−1 … 1)", legend="upper left" if trusted else None)


def _draw_trap(axes: Axes, runs: Runs) -> None:
    first = FIRST // TURNS
    _draw(axes, runs[ONCE, False], (VERMILLION, ":"), "believed: predicted", metric="predicted", start=first)
    _draw(axes, runs[ONCE, False], (VERMILLION, "-"), "believed: opinion")
    _draw(axes, runs[HELD, False], (ORANGE, "-."), f"believed, KL {BETA:g}: opinion")
    _draw(axes, runs[AGAIN, False], (GREY, "--"), "believed, fitted again: opinion")
    _draw(axes, runs[ONCE, True], (BLUE, "-"), "earned trust: opinion")
    axes.set_ylim(-0.6, 1.0)
    title = "The trap: only length is seen"
    finish(axes, title=title, x="judged turns", y="mean opinion (−1 … 1)", legend="lower left")


def _run(config: LabConfig, say: Callable[[str], None]) -> Finding:
    say("fresh-answers: the closed form, simulated")
    worth = measure_worth(config)
    say(f"fresh-answers: {config.seeds} seeds, {RUNS} worlds each")
    runs = learn(config)
    figure = new_figure(width=9.6, height=6.8)
    (exact, believed), (trusted, trap) = figure.subplots(2, 2)
    _draw_worth(exact, worth)
    _draw_skills(believed, runs, trusted=False)
    _draw_skills(trusted, runs, trusted=True)
    _draw_trap(trap, runs)
    names = list(dict.fromkeys(name for name, _ in runs))
    after = {key: [curve.opinion[-1] for curve in curves] for key, curves in runs.items()}
    inside = sum(abs(w.simulated - w.exact) <= 3 * w.error for w in worth.values())
    return Finding(
        columns=[
            "what rewards the fresh answers",
            f"worth of {FRESH}, best weight: exact (simulated) (verdicts)",
            "believed fully (verdicts)",
            "best trust",
            "trust earned: mean",
            "opinion after, believed: mean (range)",
            "by earned trust",
        ],
        rows=[_row(name, worth, runs) for name in names],
        numbers={
            "turns": TURNS,
            "fresh": FRESH,
            "worth": [
                {"fresh": k, "skill": skill, "full": full, "exact": w.exact, "simulated": w.simulated, "error": w.error}
                for (k, skill, full), w in worth.items()
            ],
            "inside_3_errors": inside,
            "runs": [
                {"arm": name, "trusted": trusted, "opinion_after": values, "opinion": _lines(runs[name, trusted])}
                for (name, trusted), values in after.items()
            ],
            "trap": {"highest": _highest(runs), "predicted_after": _predicted(runs)},
        },
        figure=figure,
        conclusion=_conclusion(worth, runs),
    )


def _lines(curves: Sequence[Curve]) -> list[list[float]]:
    return [curve.opinion for curve in curves]


def _highest(runs: Runs) -> list[float]:
    """Opinion at its best in the trap, where the first fit is believed."""
    return [max(curve.opinion) for curve in runs[ONCE, False]]


def _predicted(runs: Runs) -> list[float]:
    """What that fit foretells of the last policy."""
    return [curve.predicted[-1] for curve in runs[ONCE, False]]


def _conclusion(worth: Mapping[tuple[int, float, bool], Worth], runs: Runs) -> str:
    weak, good = (worth[FRESH, skill, False].exact for skill in SKILLS[1:3])
    end = {key: f"{mean([curve.opinion[-1] for curve in curves]):+.2f}" for key, curves in runs.items()}
    none = _skill(0.0)
    return (
        f"Beside {TURNS} verdicts, {FRESH} fresh answers to each prompt are worth {weak:.1f} more at a skill of "
        f"{SKILLS[1]} and {good:.1f} at {SKILLS[2]}; believed without skill they cost "
        f"{-worth[FRESH, 0.0, True].exact:.1f} of the {TURNS}. After {UPDATES * TURNS} turns the opinion is "
        f"{end[ALONE, True]} by verdicts alone; without skill {end[none, False]} where it is believed, and "
        f"{end[none, True]} by earned trust. A model that only knows which prompts please earns trust all the same "
        f"({end[PROMPTS_ONLY, True]}). In the trap the opinion rose to {mean(_highest(runs)):+.2f} and fell to "
        f"{end[ONCE, False]} while the prediction went to {mean(_predicted(runs)):+.2f}; trust earned on new verdicts "
        f"gives {end[ONCE, True]}."
    )


def _row(name: str, worth: Mapping[tuple[int, float, bool], Worth], runs: Runs) -> list[object]:
    cells: list[object] = [name, "", "", ""]
    skill = {_skill(skill): skill for skill in SKILLS}.get(name)
    if skill is not None:
        best, full = (worth[FRESH, skill, full] for full in (False, True))
        setting = setting_of(FRESH)
        trust = best_weight(setting, skill) / full_weight(setting)
        cells[1:] = [*(f"{w.exact:+.1f} ({w.simulated:+.1f})" for w in (best, full)), f"{trust:.2f}"]
    earned = runs.get((name, True))
    cells.append(f"{mean([mean(curve.trust) for curve in earned]):.2f}" if earned else "")
    for trusted in (False, True):
        curves = runs.get((name, trusted))
        cells.append(mean_and_range([curve.opinion[-1] for curve in curves]) if curves else "")
    return cells


EXPERIMENT = Experiment(
    title="More from few verdicts: fresh answers that a model of the user judges",
    idea=(
        "Verdicts are scarce, computing is not: ask the prompts again and let a preference model say what the fresh "
        "answers would earn. More of them take the noise away, never the model's own mistakes: a step along them "
        "points right as far as the model's skill goes, its correlation ρ with the user's opinion on answers to one "
        "prompt. So they must weigh by skill, which is seen where predictions meet verdicts. Two traps: a model that "
        "knows which prompts please orders turns well and answers not at all, and one that sees but a feature of what "
        "is liked is right only where it was fitted."
    ),
    formula=(
        "q = (E ĝ·g)² / (|g|² E|ĝ|²) = (1 + wρ)² / (R + 2wρκ + w²F),  best w = ρ(R − κ) / (F − ρ²κ)\n"
        "R = 1 + (C(A−1)v − (n−2)/n) / (n−1),  κ = 1 + (C−1)/n,  F = κ + C(A−1−(K−2)/K) / (n(K−1))\n"
        "C prompts, A answers, n verdicts of variance v (1 = that of the opinions on one prompt's answers), K fresh "
        "answers to each prompt; worth = n' − n with 1 / R(n') = q.  trust = max(0, D − se²/D)"
    ),
    look_at=(
        "Top left: lines exact, marks simulated (two errors); K hardly counts at low skill, since mistakes stay. Top "
        "right against bottom left: without skill, belief ruins what the verdicts teach, and earned trust costs next "
        "to nothing; but trust is earned, too, by knowing prompts only. Bottom right: the prediction (dotted) goes on "
        "rising while the opinion falls. KL stops the fall low, a new fit comes late, trust goes in time."
    ),
    source=(
        "Overoptimisation of a reward model: https://arxiv.org/abs/2210.10760; predictions beside few labels: "
        "https://arxiv.org/abs/2301.09633; Somers' D: https://doi.org/10.2307/2090408"
    ),
    run=_run,
)
