"""The policy: a causal language model that is loaded, asked and exported.

Open it to see which model names are understood.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import torch
from huggingface_hub import model_info
from peft import PeftModel
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from talktune.config import ModelConfig, SampleConfig
from talktune.errors import UserError
from talktune.files import whole_folder
from talktune.policy.adapter import load_adapter, merged_weights
from talktune.policy.gguf import convert, converted, gguf_of
from talktune.policy.memory import keep_freed_memory
from talktune.policy.sample import sample_answers
from talktune.policy.shipped import SHIPPED, shipped_gguf
from talktune.policy.tokens import decode_answer, end_ids, render_prompt
from talktune.types import Message, Sampled

HUB_TIMEOUT = 10.0
"""Seconds to wait for the hub's answer before only the local cache is used."""


@dataclass
class Policy:
    """A language model in memory with its tokenizer; `model` may be wrapped in a LoRA adapter (PEFT).

    >>> policy = Policy.load(tiny_model)
    >>> policy.answer("Why does bread rise?", sample=SampleConfig(max_new_tokens=3)) == ""
    False
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    name: str

    @classmethod
    def load(cls, model: str = SHIPPED, adapter: Path | str | None = None, *, device: str = "auto") -> "Policy":
        """Load a model, and add a LoRA adapter to it, which may be that of a run directory.

        `model` is a Hugging Face id, a directory, or `smollm2`. Raises UserError when either cannot be found or read.
        """
        policy = load_policy(ModelConfig(model=model, device=device))
        if adapter is not None:
            policy.model = load_adapter(policy.model, Path(adapter))
        return policy

    def answer(self, said: str | Sequence[Message], *, sample: SampleConfig | None = None, seed: int = 0) -> str:
        """The text of one answer to a question, or to messages of which the last is not the policy's own."""
        messages = [Message("user", said)] if isinstance(said, str) else said
        return self.text(self.sample([messages], sample or SampleConfig(), seed=seed)[0])

    def sample(self, prompts: Sequence[Sequence[Message]], config: SampleConfig, *, seed: int = 0) -> list[Sampled]:
        """Sample an answer to each prompt, with its token ids and log-probs; `seed` and the prompts decide it all."""
        ids = [render_prompt(self.tokenizer, prompt, ()) for prompt in prompts]
        return sample_answers(self.model, ids, config, end_ids=self.end_ids, seed=seed)

    def text(self, answer: Sampled) -> str:
        """The text of a sampled answer."""
        return decode_answer(self.tokenizer, list(answer.answer_ids))

    @property
    def adapted(self) -> bool:
        """Whether the model has an adapter."""
        return isinstance(self.model, PeftModel)

    @property
    def end_ids(self) -> frozenset[int]:
        """The tokens that end an answer."""
        return end_ids(self.tokenizer, self.model.generation_config)

    def export(self, path: Path | str) -> None:
        """Write the whole model, its adapter merged into the weights, as a directory for transformers, vLLM and others.

        The adapter alone, in PEFT's format, is in the run directory. The policy stays as it is. Raises UserError where
        the path is taken or cannot be written.
        """
        path = Path(path)
        if path.exists():
            raise UserError(f"{path}: already exists; give a new directory.")
        with whole_folder(path) as partial, merged_weights(self.model) as (bare, weights):
            bare.save_pretrained(partial, state_dict=weights)
            self.tokenizer.save_pretrained(partial)


def load_policy(config: ModelConfig, *, spread: bool = False) -> Policy:
    """Load the bare model of `config` (adapters: `talktune.policy.adapter`), in eval mode.

    fp32 on a CPU and where all weights are trained, else bf16; one that is to be `spread` over several waits in the
    CPU's memory. Weights come from safetensors or GGUF only, and no code from a model's repository is run. Raises
    UserError when the model cannot be found or read.
    """
    device = pick_device(config.device)
    # All weights in training: what an update adds is mostly less than bf16 can tell.
    exact = device.type == "cpu" or config.lora_rank == 0
    dtype = torch.float32 if exact else torch.bfloat16
    if device.type == "cpu":
        keep_freed_memory()
    source = _source(config.model)
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
    if not spread:
        model.to(device)
    model.eval()
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
    convert(shipped_gguf(), target)
    return target


def _source(name: str) -> str:
    """What transformers loads a model from: an id on the hub, or a directory."""
    if name == SHIPPED:
        return str(shipped_model())
    try:
        gguf = gguf_of(name)
        return name if gguf is None else str(converted(gguf, name, cache_dir()))
    except OSError as error:
        raise UserError(f"model {name}: {error.filename or name} cannot be read ({error.strerror}).") from error


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
