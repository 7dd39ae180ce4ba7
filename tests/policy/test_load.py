"""Loading a model: from a directory, in fp32 on a CPU, and a sentence for whatever is wrong."""

import shutil
from pathlib import Path

import pytest
import torch

from talktune.config import ModelConfig
from talktune.errors import UserError
from talktune.policy.load import cache_dir, load_policy, pick_device
from talktune.policy.shipped import SHIPPED, shipped_gguf


def test_a_directory(tiny_model: Path) -> None:
    policy = load_policy(ModelConfig(str(tiny_model), device="cpu"))
    assert policy.name == str(tiny_model)
    assert policy.device == torch.device("cpu")
    assert not policy.model.training
    assert {p.dtype for p in policy.model.parameters()} == {torch.float32}
    assert policy.tokenizer.pad_token_id is not None


def test_a_missing_pad_token_is_the_end_token(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    copy = tmp_path / "model"
    shutil.copytree(tiny_model, copy)
    tokenizer = AutoTokenizer.from_pretrained(copy)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(copy)
    assert load_policy(ModelConfig(str(copy))).tokenizer.pad_token == "<|im_end|>"


def test_pickled_weights_are_not_loaded(tiny_model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(tiny_model, copy)
    (copy / "model.safetensors").unlink()
    torch.save({}, copy / "pytorch_model.bin")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_policy(ModelConfig(str(copy)))


def test_a_model_without_chat_template(tiny_model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(tiny_model, copy)
    (copy / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="no chat template"):
        load_policy(ModelConfig(str(copy)))


@pytest.mark.parametrize("damage", ["model.safetensors", "tokenizer.json", "config.json"])
def test_damaged_files_are_one_sentence(tiny_model: Path, tmp_path: Path, damage: str) -> None:
    copy = tmp_path / "model"
    shutil.copytree(tiny_model, copy)
    (copy / damage).write_text("{")
    with pytest.raises(UserError, match=str(copy)) as error:
        load_policy(ModelConfig(str(copy)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "words"), [("./missing", "no such directory"), ("a/b/c", "check the id")])
def test_names_that_are_no_model(name: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=words):
        load_policy(ModelConfig(name))


def test_devices() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type in ("cpu", "cuda")
    with pytest.raises(UserError, match="--device abacus"):
        pick_device("abacus")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="no CUDA GPU"):
            pick_device("cuda:1")


def test_the_cache_can_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALKTUNE_CACHE", str(tmp_path / "a"))
    assert cache_dir() == tmp_path / "a"
    monkeypatch.delenv("TALKTUNE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert cache_dir() == tmp_path / "b" / "talktune"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_dir() == Path.home() / ".cache" / "talktune"


def test_the_shipped_model_needs_its_wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TALKTUNE_CACHE", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(UserError, match="pip install"):
        shipped_gguf()
    with pytest.raises(UserError, match=f"model {SHIPPED}"):
        load_policy(ModelConfig(SHIPPED))
