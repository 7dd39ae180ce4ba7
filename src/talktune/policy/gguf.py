"""GGUF files as models: found by path, in a directory or among Ollama's, and converted once to safetensors.

Open it when a GGUF file is not found or not converted.
"""

import hashlib
import json
import os
import re
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from talktune.errors import UserError

OLLAMA = "ollama:"
ABANDONED_SECONDS = 3600.0
"""A conversion that has written nothing for so long was killed."""
MODEL_LAYER = "application/vnd.ollama.image.model"
_MAGIC = b"GGUF"
_SPLIT = re.compile(r"-\d{5}-of-\d{5}\.gguf\Z")
_NAME = re.compile(r"(?!\.)[\w.-]+\Z")


def gguf_of(name: str) -> Path | None:
    """The GGUF file that a model's name stands for; None for a name that stands for something else.

    A path that ends in .gguf, a directory with no config.json and one such file in it, or `ollama:NAME`. UserError
    where there is none, or several.
    """
    if name.startswith(OLLAMA):
        return _of_ollama(name)
    path = Path(name).expanduser()
    if path.suffix.lower() == ".gguf":
        if not path.is_file():
            raise UserError(f"model {name}: no such file.")
        return path
    if not path.is_dir() or (path / "config.json").exists():
        return None
    found = sorted(one for one in path.iterdir() if one.suffix.lower() == ".gguf" and one.is_file())
    if len(found) > 1:
        names = ", ".join(one.name for one in found[:4]) + (", …" if len(found) > 4 else "")
        raise UserError(f"model {name}: the directory has {len(found)} GGUF files ({names}); name one of them.")
    return found[0] if found else None


def converted(gguf: Path, name: str, cache: Path) -> Path:
    """The directory of a GGUF file's model as fp32 safetensors in `cache`, made there once for each state of the file.

    `name` is what messages call it. UserError, in a sentence, where transformers cannot read it.
    """
    about = gguf.stat()
    state = f"{gguf.resolve()}\n{about.st_size}\n{about.st_mtime_ns}"
    target = cache / f"gguf-{hashlib.sha256(state.encode()).hexdigest()[:16]}"
    if (target / "config.json").exists():
        return target
    with gguf.open("rb") as file:
        if file.read(4) != _MAGIC:
            raise UserError(f"model {name}: is no GGUF file, whatever it is called.")
    if _SPLIT.search(gguf.name):
        raise UserError(f"model {name}: is one part of several; put them together with `llama-gguf-split --merge`.")
    try:
        convert(gguf, target)
    except Exception as error:  # whatever is wrong in the middle of a foreign file
        why = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise UserError(
            f"model {name}: transformers cannot read this GGUF file ({why.rstrip('.')}); let llama.cpp or Ollama serve "
            "it and put talktune in front of that: `talktune serve --upstream URL`."
        ) from error
    return target


def convert(gguf: Path, target: Path) -> None:
    """Write a GGUF file's model as fp32 safetensors, with its tokenizer: all of it or nothing.

    What conversions have left behind that were killed goes first.
    """
    for old in target.parent.glob("gguf-*.tmp"):
        if _newest(old) < time.time() - ABANDONED_SECONDS:
            shutil.rmtree(old, ignore_errors=True)
    partial = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    partial.mkdir(parents=True, exist_ok=True)
    transformers_logging.disable_progress_bar()
    try:
        where: dict[str, Any] = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
        where["trust_remote_code"] = False  # what lies beside the file; by default, transformers asks on the terminal
        AutoTokenizer.from_pretrained(**where).save_pretrained(partial)
        model: Any = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
        # The weights are plain fp32 now; transformers would refuse to save a model that calls itself quantised.
        model.hf_quantizer = None
        model.is_quantized = False
        for name in ("quantization_config", "_pre_quantization_dtype"):
            if hasattr(model.config, name):
                delattr(model.config, name)
        model.save_pretrained(partial)
        partial.rename(target)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        # Another process may have been faster.
        if not isinstance(error, OSError) or not (target / "config.json").exists():
            raise


def _newest(folder: Path) -> float:
    """When something in a folder was last written, as far as it is still there."""
    times = [0.0]
    for path in (folder, *folder.glob("*")):
        with suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(times)


def _of_ollama(name: str) -> Path:
    """The weights of a model that Ollama has pulled."""
    wanted = name.removeprefix(OLLAMA)
    path, _, tag = wanted.partition(":")
    parts = path.split("/")
    if not all(_NAME.match(part) for part in (*parts, tag or "latest")):
        raise UserError(f"model {name}: write it like ollama:qwen2.5:0.5b, as `ollama list` names it.")
    host = ["registry.ollama.ai"] if len(parts) < 3 else []
    manifest = Path("manifests", *host, *(["library"] if len(parts) == 1 else []), *parts, tag or "latest")
    folders = [folder for folder in _ollama_folders() if _is_there(folder / manifest)]
    serve = "or let Ollama serve it and put talktune in front: `talktune serve --upstream http://127.0.0.1:11434`"
    if not folders:
        where = " or ".join(map(str, _ollama_folders()))
        raise UserError(f"model {name}: Ollama has not pulled it to {where}; `ollama pull {wanted}`, {serve}.")
    try:
        layers = json.loads((folders[0] / manifest).read_text(encoding="utf-8"))["layers"]
        digests = [str(layer["digest"]) for layer in layers if layer["mediaType"] == MODEL_LAYER]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"model {name}: {folders[0] / manifest} cannot be read ({type(error).__name__}).") from error
    blobs = [
        folders[0] / "blobs" / digest.replace(":", "-") for digest in digests if _NAME.match(digest.replace(":", "-"))
    ]
    if len(blobs) != 1 or not blobs[0].is_file() or not _is_gguf(blobs[0]):
        raise UserError(f"model {name}: its weights are not one GGUF file; {serve.removeprefix('or ')}.")
    return blobs[0]


def _ollama_folders() -> list[Path]:
    """Where Ollama keeps models: where it was told to, else the user's own, and a service's."""
    told = os.environ.get("OLLAMA_MODELS")
    own = [Path.home() / ".ollama" / "models", Path("/usr/share/ollama/.ollama/models")]
    return [Path(told).expanduser()] if told else own


def _is_there(path: Path) -> bool:
    """Whether there is such a file, as far as this user may look: a service's models may be nobody else's."""
    try:
        return path.is_file()
    except PermissionError:
        return False


def _is_gguf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == _MAGIC
