"""`talktune train` in one process: what a run directory holds, and that it is true."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

OPTIONS = ("--judge", "oracle", "--lora-rank", "4", "--updates", "2", "--batch-turns", "5", "--max-tokens", "200")


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of tensorboard's own libraries


@pytest.fixture(scope="module")
def run(talktune: Any, talks: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One finished run."""
    output = tmp_path_factory.mktemp("train") / "run"
    options = (*OPTIONS, "--learning-rate", "0.05", "--track", "tensorboard")
    said = talktune("train", talks, "--model", tiny_model, "--output", output, *options)
    assert said.code == 0, said.err
    assert "longer than 200 tokens" in said.out
    assert str(output / "report.html") in said.err
    return output


def test_the_run_directory_is_complete(run: Path) -> None:
    names = {p.name for p in run.iterdir() if p.suffix != ".png"}
    assert names == {
        *("config.toml", "metrics.jsonl", "summary.json", "scored.jsonl", "report.html", "adapter", "checkpoints"),
        "tensorboard",
    }
    assert {p.name for p in (run / "adapter").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["update"] for line in lines] == [1, 2]
    assert "track" not in (run / "config.toml").read_text(), "it decides no result"
    assert "<html" in (run / "report.html").read_text(encoding="utf-8").lower()


@pytest.mark.filterwarnings("ignore")  # of tensorboard's own libraries
def test_tensorboard_is_told_every_update(run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    told = EventAccumulator(str(run / "tensorboard"))
    told.Reload()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for name in ("loss", "reward_mean", "kl_ref"):
        assert [(event.step, event.value) for event in told.Scalars(name)] == [
            (line["update"], pytest.approx(line[name])) for line in lines
        ]


def test_the_summary_counts_every_turn_once(run: Path) -> None:
    turns = json.loads((run / "summary.json").read_text())["turns"]
    assert turns == {
        "main": 13,
        "side": 1,
        "unscored": 1,
        "skipped": {"no next state": 1, "image": 1, "longer than 200 tokens": 1},
        "trained": 9,
        "retokenised": 9,
    }
    assert turns["main"] == turns["trained"] + turns["unscored"] + sum(turns["skipped"].values())


def test_the_adapter_loads_without_talktune_and_changes_the_outputs(run: Path, tiny_model: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        before = AutoModelForCausalLM.from_pretrained(tiny_model)(ids).logits
        tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), str(run / "adapter"))
        after = tuned(ids).logits
    assert not torch.allclose(before, after, atol=1e-3)


def test_the_config_of_a_run_makes_the_same_run(
    run: Path, talktune: Any, talks: Path, tiny_model: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    said = talktune("train", talks, "--config", run / "config.toml", "--output", again)
    assert said.code == 0, said.err
    assert (again / "config.toml").read_bytes() == (run / "config.toml").read_bytes()
    weights = Path("adapter/adapter_model.safetensors")
    assert (again / weights).read_bytes() == (run / weights).read_bytes()
    config = tomllib.loads((again / "config.toml").read_text())
    assert config["train"]["learning_rate"] == 0.05
    assert config["model"]["model"] == str(tiny_model)


def test_the_command_line_wins_over_the_file(run: Path, talktune: Any, talks: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    said = talktune("--config", run / "config.toml", "train", talks, "--updates", "1", "-o", output)
    assert said.code == 0, said.err
    assert json.loads((output / "summary.json").read_text())["updates"] == 1


def test_the_scored_file_trains_without_a_judge(run: Path, talktune: Any, tiny_model: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    scored = run / "scored.jsonl"
    said = talktune("train", scored, "--model", tiny_model, "-o", output, *OPTIONS, "--learning-rate", "0.05")
    assert said.code == 0, said.err
    weights = Path("adapter/adapter_model.safetensors")
    assert (output / weights).read_bytes() == (run / weights).read_bytes()


def test_training_goes_on_from_an_adapter(
    run: Path, talktune: Any, talks: Path, tiny_model: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    said = talktune("train", talks, "--model", tiny_model, "--adapter", run, "-o", output, *OPTIONS)
    assert said.code == 0, said.err
    first = json.loads((output / "metrics.jsonl").read_text().splitlines()[0])
    assert first["kl_ref"] > 0  # the reference is the bare model


def test_all_weights_can_be_trained(talktune: Any, talks: Path, tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    output = tmp_path / "run"
    options = ("--judge", "oracle", "--updates", "1", "--lora-rank", "0", "--learning-rate", "0.01")
    said = talktune("train", talks, "--model", tiny_model, "-o", output, *options, "--beta", "0")
    assert said.code == 0, said.err
    was, now = (AutoModelForCausalLM.from_pretrained(p).state_dict() for p in (tiny_model, output / "adapter"))
    assert was.keys() == now.keys()
    assert any(not (was[name] == now[name]).all() for name in was)
    sentence = talktune("train", talks, "--model", tiny_model, "-o", tmp_path / "other", *options).sentence
    assert "--beta 0" in sentence


def test_a_directory_in_which_nothing_was_made_can_be_used_again(
    talktune: Any, talks: Path, tiny_model: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    assert "no-model" in talktune("train", talks, "--model", tmp_path / "no-model", "-o", output).sentence
    said = talktune("train", talks, "--model", tiny_model, "-o", output, *OPTIONS)
    assert said.code == 0, said.err


def test_a_line_that_cannot_be_read_is_named_and_the_rest_is_used(
    talktune: Any, talks: Path, tiny_model: Path, tmp_path: Path
) -> None:
    lines = talks.read_text().splitlines()
    lines[6] = '{"messages": [{"role": "user"'
    broken = tmp_path / "broken.jsonl"
    broken.write_text("\n".join(lines))
    said = talktune("train", broken, "--model", tiny_model, "-o", tmp_path / "run", *OPTIONS)
    assert said.code == 0
    assert f"{broken}, line 7: " in said.err
    assert "1 line(s) could not be used" in said.err
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["turns"]["main"] == 11
    sentence = talktune("train", broken, "--strict", "--model", tiny_model, "-o", tmp_path / "other").sentence
    assert f"{broken}, line 7: " in sentence
    assert not (tmp_path / "other").exists()


def test_complaints_are_learned_from(
    talktune: Any, talks: Path, run: Path, tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = ("train", talks, "--model", tiny_model, "-o")
    output = tmp_path / "run"
    said = talktune(*options, output, *OPTIONS, "--learning-rate", "0.05", "--distill", "0.5")
    assert said.code == 0, said.err
    assert "a complaint to learn from" in said.out
    assert json.loads((output / "summary.json").read_text())["turns"]["taught"] > 0
    assert tomllib.loads((output / "config.toml").read_text())["algorithm"]["distill"] == 0.5
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert sum(line.get("distill_tokens", 0) for line in lines) > 0
    file = "adapter/adapter_model.safetensors"
    assert (output / file).read_bytes() != (run / file).read_bytes()
    auto = talktune(*options, tmp_path / "auto", *OPTIONS, "--learning-rate", "0.05", "--distill", "auto")
    assert auto.code == 0, auto.err
    lines = [json.loads(line) for line in (tmp_path / "auto" / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        assert ("distill_tokens" in line) == (line["complaints_help"] == 1.0)
    talktune(*options, tmp_path / "off", *OPTIONS, "--distill", "auto", "--fresh-answers", "0")
    assert "--distill auto is off" in caplog.text


def test_a_wrong_weight_of_complaints_is_named(talktune: Any, talks: Path, tiny_model: Path, tmp_path: Path) -> None:
    options = ("train", talks, "--model", tiny_model, "-o", tmp_path / "run", "--judge", "oracle", "--distill")
    assert "--distill" in talktune(*options, "on").sentence
    assert "0 or more" in talktune(*options, "-1").sentence
    assert "nothing to be compared with" in talktune(*options[:-1], "--fresh-answers", "1").sentence
    rank = ("--lora-rank", "0", "--beta", "0")
    assert "--distill: rank 0" in talktune(*options, "0.1", *rank).sentence
