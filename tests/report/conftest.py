"""A run directory as the trainer leaves one, made of plausible numbers."""

import json
import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest

CONFIG = """\
[model]
model = "smollm2"
lora_rank = 16

[judge]
judge = "local"
votes = 5

[algorithm]
eps_low = 0.2
eps_high = 0.28
"""


def metric_rows(updates: int) -> list[dict[str, float | int | None]]:
    """Rows of a run whose reward rises, noisily, while its answers get shorter."""
    rng = random.Random(0)
    rows: list[dict[str, float | int | None]] = []
    for i in range(1, updates + 1):
        done = 1 / (1 + math.exp(-8 * (i / updates - 0.45)))
        objective = rng.gauss(0.02, 0.03)
        rows.append(
            {
                "update": i,
                "loss": -objective,
                "objective": objective,
                "reward_mean": max(-1.0, min(1.0, -0.8 + 1.5 * done + rng.gauss(0, 0.15))),
                "reward_std": 0.35 + 0.4 * done * (1 - done) + rng.uniform(0, 0.1),
                "votes_agreement": min(1.0, 0.85 + rng.gauss(0, 0.04)),
                "advantage_mean": rng.gauss(0, 0.02),
                "length_penalty_mean": -0.25 * (1 - done) - rng.uniform(0, 0.03),
                "ratio_mean": 1 + rng.gauss(0, 0.004),
                "ratio_max": 1.3 + rng.expovariate(3),
                "clipped_low": max(0.0, 0.012 + rng.gauss(0, 0.004)),
                "clipped_high": max(0.0, 0.018 + rng.gauss(0, 0.005)),
                "kl_ref": 0.35 * done + abs(rng.gauss(0, 0.02)) if i > 1 else 0.0,
                "entropy": 1.4 - 0.5 * done + rng.gauss(0, 0.06),
                "response_length": 44 - 24 * done + rng.gauss(0, 2),
                "tokens": 900 + rng.randrange(300),
                "tokens_per_second": 160 + rng.gauss(0, 8),
                "grad_norm": 0.6 + rng.expovariate(3),
                "learning_rate": 4e-4 * min(1.0, i / 3),
                "eps_high": 0.28,
                "skipped_groups": rng.choice([0, 0, 0, 1]),
                "staleness": 0.0,
                "seconds": 24.0 + rng.gauss(0, 2),
            }
        )
    return rows


def summary() -> dict[str, object]:
    return {
        "seed": 0,
        "seconds": 684.2,
        "before": {
            "satisfaction": 0.1,
            "answer_tokens": 41.0,
            "facts_kept": 0.9,
            "distinct_answers": 1.0,
            "kl": 0.0,
        },
        "after": {
            "satisfaction": 0.8333,
            "answer_tokens": 18.4,
            "facts_kept": 0.85,
            "distinct_answers": 0.975,
            "kl": 0.3412,
        },
        "turns": {
            "main": 896,
            "side": 12,
            "unscored": 3,
            "skipped": {"longer than max_tokens": 2, "has an image": 1},
        },
    }


def sample_rows() -> list[dict[str, object]]:
    topics = ["a prime number", "photosynthesis", "inflation", "a black hole", "a sonnet", "DNS", "yeast"]
    rows: list[dict[str, object]] = [
        {
            "prompt": f"What is {topic}?",
            "before": f"{topic.capitalize()} is a fascinating subject that has been studied for a long time. " * 3,
            "after": f"{topic.capitalize()} is something that one can explain in one line.",
            "satisfied_before": i == 2,
            "satisfied_after": i != 4,
            "split": "held-out",
        }
        for i, topic in enumerate(topics)
    ]
    fact = {"prompt": "Capital of France?", "before": "Paris.", "after": "Paris.", "split": "fact"}
    return [*rows, fact]


MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Return a function that writes a run directory: `make_run(updates=28, live=False)`."""

    def make(updates: int = 28, *, live: bool = False) -> Path:
        run = tmp_path / "demo-run"
        run.mkdir()
        lines = [json.dumps(row) for row in metric_rows(updates)]
        (run / "metrics.jsonl").write_text("".join(line + "\n" for line in lines))
        (run / "config.toml").write_text(CONFIG)
        if not live:
            (run / "summary.json").write_text(json.dumps(summary()))
            lines = [json.dumps(row) for row in sample_rows()]
            (run / "samples.jsonl").write_text("".join(line + "\n" for line in lines))
        return run

    return make
