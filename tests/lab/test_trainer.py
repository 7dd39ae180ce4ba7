from dataclasses import replace

import pytest

from talktune.config import LabConfig
from talktune.lab import trainer
from talktune.lab.trainer import Job, by_label, run_jobs, train, with_seeds

JOB = Job("judged", seed=100, updates=45)
TWO_SEEDS = LabConfig(seed=100, seeds=2)


@pytest.fixture(scope="module")
def learned() -> trainer.History:
    return train(JOB)


def test_the_reward_of_fresh_samples_rises(learned: trainer.History) -> None:
    _, judged = learned.series("judged")
    assert sum(judged[:5]) / 5 < 0.2
    assert sum(judged[-5:]) / 5 > 0.7
    assert learned.exam["quality"] > 0.7
    assert {"objective", "kl_ref", "quality", "cut", "sampled"} <= learned.rows[0].keys()


def test_shuffled_rewards_teach_nothing() -> None:
    history = train(replace(JOB, shuffle=True))
    assert history.exam["quality"] < 0.3


def test_a_run_depends_on_its_job_only(learned: trainer.History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "FEW_UPDATES", 0)  # other processes, however short the runs
    monkeypatch.setattr(trainer, "_cores", lambda: 2)
    monkeypatch.setattr(trainer, "MOST_PROCESSES", 1)  # one that does both jobs, the second after the first
    short = replace(JOB, updates=3)
    here = [train(job) for job in with_seeds(TWO_SEEDS, [short])]
    elsewhere = run_jobs(with_seeds(TWO_SEEDS, [short]), lambda what: None)
    for a, b in zip(here, elsewhere, strict=True):
        assert a.exam == b.exam
        assert [_timeless(row) for row in a.rows] == [_timeless(row) for row in b.rows]
    assert here[0].exam != here[1].exam
    assert [_timeless(row)["judged"] for row in here[0].rows] == learned.series("judged")[1][:3]


def _timeless(row: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in row.items() if name not in ("seconds", "tokens_per_second")}


def test_a_run_ends_early_once_it_has_arrived() -> None:
    history = train(replace(JOB, stop_at=-0.9))
    assert len(history.rows) == trainer.STOP_WINDOW
    assert history.first_at(-0.9) == trainer.STOP_WINDOW
    assert history.first_at(2.0) is None


def test_fresh_samples_once_per_passes_and_a_quality_for_each_kind() -> None:
    history = train(replace(JOB, updates=5, passes=2, kinds=("plain", "exact", "list"), asked=3))
    assert history.series("judged")[0] == [1, 3, 5]
    last = history.rows[-1]
    assert last["quality"] == pytest.approx(sum(last[f"quality {kind}"] for kind in ("plain", "exact", "list")) / 3)
    assert by_label([history]) == {"judged": [history]}
