"""GGUF files as models: a real one of a few layers made of the shipped one's parts, its places, and broken ones."""

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader, GGUFValueType, GGUFWriter

from talktune.config import ModelConfig
from talktune.errors import UserError
from talktune.policy.gguf import ABANDONED_SECONDS, MODEL_LAYER, gguf_of
from talktune.policy.load import load_policy, shipped_gguf
from talktune.policy.tokens import render_prompt
from talktune.types import Message

WIDTH, HEADS, INNER = 32, 2, 64
SIZES = {"block_count": 1, "embedding_length": WIDTH, "feed_forward_length": INNER}
SIZES |= {"attention.head_count": HEADS, "attention.head_count_kv": HEADS, "rope.dimension_count": WIDTH // HEADS}


def write_tiny(path: Path, **changed: Any) -> Path:
    """A GGUF file with the tokenizer of the shipped one, and one small layer of chance; `changed` are its fields."""
    shipped = GGUFReader(shipped_gguf())
    writer = GGUFWriter(path, "llama")
    sizes = {f"llama.{name}": value for name, value in SIZES.items()} | changed
    vocabulary = 0
    for name, field in shipped.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        value = sizes.get(name, field.contents())
        kind = field.types[0]
        writer.add_key_value(name, value, kind, field.types[-1] if kind == GGUFValueType.ARRAY else None)
        vocabulary = len(value) if name == "tokenizer.ggml.tokens" else vocabulary
    random = np.random.default_rng(0)
    shapes = {"token_embd": (vocabulary, WIDTH), "output_norm": (WIDTH,)}
    layer = {"attn_norm": (WIDTH,), "ffn_norm": (WIDTH,), "ffn_down": (WIDTH, INNER)}
    layer |= dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (WIDTH, WIDTH))
    layer |= dict.fromkeys(("ffn_gate", "ffn_up"), (INNER, WIDTH))
    for name, shape in (shapes | {f"blk.0.{name}": shape for name, shape in layer.items()}).items():
        writer.add_tensor(f"{name}.weight", random.normal(0, 0.1, shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TALKTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def ollama(folder: Path, blob: bytes | Path, *path: str, layers: int = 1) -> None:
    """A model as `ollama pull` leaves it."""
    manifest = folder.joinpath("manifests", *path)
    manifest.parent.mkdir(parents=True, exist_ok=True)
    digest = "sha256:" + "ab" * 32
    told = [{"mediaType": MODEL_LAYER, "digest": digest}] * layers
    manifest.write_text(
        json.dumps({"layers": [{"mediaType": "application/vnd.ollama.image.template"} | {"digest": "x"}, *told]})
    )
    there = folder / "blobs" / digest.replace(":", "-")
    there.parent.mkdir(exist_ok=True)
    if isinstance(blob, Path):
        there.symlink_to(blob)
    else:
        there.write_bytes(blob)


def test_a_file_a_directory_and_ollamas_are_one_model_converted_once(
    tiny: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = load_policy(ModelConfig(str(tiny), device="cpu"))
    assert (policy.name, policy.model.config.hidden_size) == (str(tiny), WIDTH)
    assert {p.dtype for p in policy.model.parameters()} == {torch.float32}
    ids = render_prompt(policy.tokenizer, [Message("user", "Hi")])
    assert policy.tokenizer.decode(ids).endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    embedding = next(t for t in GGUFReader(tiny).tensors if t.name == "token_embd.weight")
    np.testing.assert_array_equal(policy.model.get_input_embeddings().weight.detach().numpy(), embedding.data)
    (made,) = cache.iterdir()
    at = (made / "config.json").stat().st_mtime_ns
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "model.gguf").symlink_to(tiny)
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "models"))
    ollama(tmp_path / "models", tiny, "registry.ollama.ai", "library", "tiny", "latest")
    for name in (str(folder), "ollama:tiny"):
        again = load_policy(ModelConfig(name, device="cpu"))
        assert again.name == name
        assert torch.equal(again.model.get_input_embeddings().weight, policy.model.get_input_embeddings().weight)
    assert [one.name for one in cache.iterdir()] == [made.name], "converted once, and nothing half done is left"
    assert (made / "config.json").stat().st_mtime_ns == at


def test_what_a_killed_conversion_left_goes_and_one_at_work_stays(tiny: Path, cache: Path) -> None:
    for name, age in (("gguf-dead.7.tmp", 2 * ABANDONED_SECONDS), ("gguf-busy.8.tmp", 0.0)):
        file = cache / name / "model.safetensors"
        file.parent.mkdir(parents=True)
        file.write_bytes(b"half")
        for path in (file, file.parent):
            os.utime(path, (then := time.time() - age, then))
    load_policy(ModelConfig(str(tiny), device="cpu"))
    assert [one.name for one in cache.glob("*.tmp")] == ["gguf-busy.8.tmp"]


def test_what_ollama_calls_a_model_is_where_it_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    models = tmp_path / ".ollama" / "models"
    for name, path in {
        "ollama:qwen2.5:0.5b": ("registry.ollama.ai", "library", "qwen2.5", "0.5b"),
        "ollama:ann/own": ("registry.ollama.ai", "ann", "own", "latest"),
        "ollama:hf.co/ann/own:Q4_K_M": ("hf.co", "ann", "own", "Q4_K_M"),
    }.items():
        ollama(models, b"GGUF", *path)
        found = gguf_of(name)
        assert found is not None
        assert found.read_bytes() == b"GGUF"


@pytest.mark.parametrize("name", ["ollama:", "ollama:../../etc", "ollama:a//b", "ollama:a:b:c", "ollama:a/..:x"])
def test_names_that_ollama_does_not_have_lead_nowhere(name: str) -> None:
    with pytest.raises(UserError, match="write it like ollama:"):
        gguf_of(name)


def test_what_ollama_lacks_or_has_in_another_form_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path))
    with pytest.raises(UserError, match=r"`ollama pull nothing:1b`, or .*--upstream http://127.0.0.1:11434"):
        load_policy(ModelConfig("ollama:nothing:1b"))
    home = ("registry.ollama.ai", "library")
    ollama(tmp_path, b"safetensors", *home, "other", "latest")
    ollama(tmp_path, b"GGUF", *home, "parts", "latest", layers=2)
    for blob in (tmp_path / "blobs").iterdir():
        blob.write_bytes(b"safetensors")
    for name in ("other", "parts"):
        with pytest.raises(UserError, match=r"not one GGUF file; let Ollama serve it .*--upstream"):
            load_policy(ModelConfig(f"ollama:{name}"))
    (tmp_path.joinpath("manifests", *home) / "other" / "latest").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        load_policy(ModelConfig("ollama:other"))


def test_files_that_cannot_be_read_are_a_sentence_and_leave_nothing(tiny: Path, tmp_path: Path, cache: Path) -> None:
    whole = tiny.read_bytes()
    for name, content, words in (
        ("no.gguf", b"PK\x03\x04" + whole[4:1000], "is no GGUF file"),
        ("empty.gguf", b"", "is no GGUF file"),
        ("short.gguf", whole[:1000], "transformers cannot read this GGUF file .*--upstream URL"),
        ("torn.gguf", whole[: len(whole) // 2], "transformers cannot read this GGUF file"),
        ("big-00001-of-00003.gguf", whole[:1000], "one part of several"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=words) as error:
            load_policy(ModelConfig(str(tmp_path / name)))
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"5 GGUF files .*name one of them"):
        load_policy(ModelConfig(str(tmp_path)))
    with pytest.raises(UserError, match="no such file"):
        load_policy(ModelConfig(str(tmp_path / "missing.gguf")))
    assert not cache.exists() or list(cache.iterdir()) == []


def test_what_another_user_keeps_to_themselves_is_passed_over_or_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ollama as a service has models that only it may read; tests run as root, whom no mode stops."""
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    closed = ["/usr/share/ollama"]
    stat, open_file = Path.stat, Path.open

    def refuse(path: Path) -> None:
        if any(str(path).startswith(one) for one in closed):
            raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "stat", lambda self, **more: refuse(self) or stat(self, **more))
    monkeypatch.setattr(Path, "open", lambda self, *a, **more: refuse(self) or open_file(self, *a, **more))
    ollama(tmp_path / ".ollama" / "models", b"GGUF", "registry.ollama.ai", "library", "mine", "latest")
    found = gguf_of("ollama:mine")
    assert found is not None
    assert found.is_relative_to(tmp_path)
    with pytest.raises(UserError, match="has not pulled it"):
        gguf_of("ollama:theirs")
    (tmp_path / "secret.gguf").write_bytes(b"GGUF")
    closed.append(str(tmp_path / "secret"))
    with pytest.raises(UserError, match=r"secret.gguf cannot be read \(Permission denied\)"):
        load_policy(ModelConfig(str(tmp_path / "secret.gguf")))


def test_no_code_that_lies_beside_the_file_is_run(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "odd.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass Odd: ...\n")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["odd.Odd", None]}}))
    (tmp_path / "model.gguf").symlink_to(tiny)
    monkeypatch.setattr("builtins.input", lambda _: "y")  # nobody is asked either
    with contextlib.suppress(UserError):
        load_policy(ModelConfig(str(tmp_path / "model.gguf"), device="cpu"))
    assert not (tmp_path / "ran").exists()


def test_an_architecture_that_transformers_does_not_know_is_named(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "odd.gguf", "abacus")
    writer.add_context_length(8)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(UserError, match="abacus"):
        load_policy(ModelConfig(str(tmp_path / "odd.gguf")))


@pytest.mark.slow
def test_the_shipped_file_by_its_path_is_the_shipped_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = tmp_path / "mine.gguf"
    link.symlink_to(shipped_gguf())
    mine = load_policy(ModelConfig(str(link), device="cpu"))
    monkeypatch.delenv("TALKTUNE_CACHE")
    if kept := os.environ.get("TALKTUNE_TEST_CACHE"):
        monkeypatch.setenv("TALKTUNE_CACHE", kept)
    shipped = load_policy(ModelConfig("smollm2", device="cpu"))
    for ours, theirs in zip(mine.model.parameters(), shipped.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert mine.tokenizer.chat_template == shipped.tokenizer.chat_template
