"""`talktune demo` on a tiny model, through the command."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

SIZES = ("--updates", "2", "--questions", "4", "--fresh-answers", "2", "--max-new-tokens", "8", "--lora-rank", "2")
# A random model never satisfies the user: a judge that errs gives the groups their variance.
JUDGE = ("--judge", "oracle", "--judge-accuracy", "0.3")
WEIGHTS = Path("adapter/adapter_model.safetensors")
CLOCK = {"seconds", "tokens_per_second"}
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of tensorboard's own libraries


def metrics(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in CLOCK} for line in lines]


@pytest.fixture(scope="module")
def run(talktune: Any, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("demo") / "run"
    said = talktune("demo", "--model", tiny_model, *JUDGE, "--output", output, *SIZES, "--track", "tensorboard")
    assert said.code == 0, said.err
    assert "held-out questions that satisfy the user" in said.out
    assert str(output / "report.html") in said.out.replace("\n", "")
    return output


def test_everything_is_there(run: Path) -> None:
    names = {p.name for p in run.iterdir()}
    assert {"config.toml", "metrics.jsonl", "summary.json", "samples.jsonl", "before.json", "report.html"} <= names
    assert {"adapter", "checkpoints"} <= names
    assert list((run / "tensorboard").glob("events.out.tfevents.*"))
    assert [line["update"] for line in metrics(run)] == [1, 2]
    assert all(0 <= line["satisfaction"] <= 1 for line in metrics(run))
    assert any(line.get("grad_norm", 0) > 0 for line in metrics(run))
    assert all("trust" in line for line in metrics(run))
    assert len(list((run / "readings").iterdir())) == 2
    summary = json.loads((run / "summary.json").read_text())
    assert set(summary) >= {"before", "after", "updates", "kl", "judge_right", "seed", "seconds"}
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    assert sum(line["split"] == "held-out" for line in samples) >= 40
    assert sum(line["split"] == "fact" for line in samples) >= 20


def test_a_resumed_demo_ends_the_same(run: Path, talktune: Any, tiny_model: Path, tmp_path: Path) -> None:
    """What a kill within update 2 leaves: one checkpoint, a line that was cut off."""
    cut = tmp_path / "cut"
    shutil.copytree(run, cut)
    shutil.rmtree(cut / "adapter")
    shutil.rmtree(cut / "checkpoints" / "update-000002")
    for name in ("summary.json", "samples.jsonl"):
        (cut / name).unlink()
    lines = (cut / "metrics.jsonl").read_text().splitlines()
    (cut / "metrics.jsonl").write_text(f"{lines[0]}\n{lines[1][:20]}")
    arguments = ("demo", "--model", tiny_model, *JUDGE, "--output", cut, *SIZES)
    assert "--resume" in talktune(*arguments).sentence
    said = talktune(*arguments, "--resume")
    assert said.code == 0, said.err
    assert (cut / WEIGHTS).read_bytes() == (run / WEIGHTS).read_bytes()
    assert metrics(cut) == metrics(run)
    assert (cut / "samples.jsonl").read_text() == (run / "samples.jsonl").read_text()


def test_a_demo_starts_from_its_own_config(run: Path, talktune: Any, tmp_path: Path) -> None:
    output = tmp_path / "again"
    said = talktune("demo", "--config", run / "config.toml", "--output", output, "--shuffle-rewards")
    assert said.code == 0, said.err
    was, now = ((p / "config.toml").read_text().splitlines() for p in (run, output))
    assert [line for line in now if line not in was] == ["shuffle_rewards = true"]
    assert metrics(output)[0]["reward_mean"] == metrics(run)[0]["reward_mean"]
