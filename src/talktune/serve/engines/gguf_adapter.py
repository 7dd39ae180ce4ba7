"""Writes a LoRA adapter in PEFT's format as the GGUF file that llama.cpp reads, without torch.

Open it when llama.cpp answers otherwise than the policy.

llama.cpp names layers by its own scheme (the `gguf` library has the table), scales an adapter by alpha / rank, or by 1
where alpha is 0, and keeps the rows of q and k of some architectures in another order, because its rotary embedding
pairs neighbours where Hugging Face's pairs halves
(https://github.com/ggml-org/llama.cpp/blob/master/convert_lora_to_gguf.py).
"""

import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from safetensors import deserialize

from talktune.errors import UserError

REORDERED: Mapping[str, bool] = {"llama": True, "smollm3": True, "qwen2": False, "qwen3": False}
"""Architectures that are known here, and whether llama.cpp keeps the rows of q and k in another order."""
_KEY = re.compile(r"base_model\.model\.(?P<layer>.+)\.lora_(?P<side>[AB])\.weight\Z")
_KINDS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_TEXT, _LIST = 8, 9

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Shape:
    """What of a base model its adapters depend on."""

    architecture: str
    layers: int
    heads: int
    kv_heads: int


def write_adapter(adapter: Path, model: Path, target: Path) -> None:
    """Write the adapter in the directory `adapter` for the base model in the GGUF file `model`.

    `target` is there as a whole or not at all. Raises UserError for what cannot be converted.
    """
    import gguf

    shape = read_shape(model)
    if shape.architecture not in REORDERED:
        known = ", ".join(REORDERED)
        raise UserError(f"{model}: adapters of the architecture {shape.architecture} cannot be converted ({known} can)")
    try:
        config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
        pairs = _pairs((adapter / "adapter_model.safetensors").read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{adapter}: is no adapter that can be read ({error})") from error
    arch = next(one for one, name in gguf.MODEL_ARCH_NAMES.items() if name == shape.architecture)
    names = gguf.get_tensor_name_map(arch, shape.layers)
    partial = target.with_name(f".{target.name}.tmp")
    writer = gguf.GGUFWriter(partial, shape.architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, 0.0)  # B is scaled already, each layer by its own factor
    for layer, (a, b) in pairs.items():
        name = names.get_name(layer)
        if name is None:
            raise UserError(f"{adapter}: llama.cpp has no layer for {layer}")
        b = b * scale(config, layer, a.shape[0])
        if REORDERED[shape.architecture] and layer.endswith(("q_proj", "k_proj")):
            b = reordered(b, shape.heads if layer.endswith("q_proj") else shape.kv_heads)
        writer.add_tensor(f"{name}.weight.lora_a", np.ascontiguousarray(a, np.float32))
        writer.add_tensor(f"{name}.weight.lora_b", np.ascontiguousarray(b, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.replace(target)


def scale(config: Mapping[str, Any], layer: str, rank: int) -> float:
    """The factor of B·A in a layer: alpha / rank, or alpha / √rank with `use_rslora`."""
    own: Mapping[str, float] = config.get("alpha_pattern") or {}
    found = (alpha for pattern, alpha in own.items() if re.fullmatch(rf"(?:.*\.)?(?:{pattern})", layer))
    alpha = float(next(found, config.get("lora_alpha") or rank))
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)


def reordered(b: Matrix, heads: int) -> Matrix:
    """The rows of B (out × r) of q or k, from Hugging Face's order (halves of a head) to llama.cpp's (pairs)."""
    out, rank = b.shape
    return b.reshape(heads, 2, out // heads // 2, rank).swapaxes(1, 2).reshape(out, rank)


def _pairs(content: bytes) -> dict[str, tuple[Matrix, Matrix]]:
    """A and B of each layer, from a safetensors file."""
    sides: dict[str, dict[str, Matrix]] = {}
    for key, tensor in deserialize(content):
        found = _KEY.match(key)
        if found is None:
            raise ValueError(f"{key} is no LoRA matrix of a linear layer")
        sides.setdefault(found["layer"], {})[found["side"]] = _matrix(tensor)
    lonely = [layer for layer, both in sides.items() if len(both) < 2]
    if lonely or not sides:
        raise ValueError(f"{lonely[0]} has one matrix of two" if lonely else "it holds no matrices")
    return {layer: (both["A"], both["B"]) for layer, both in sides.items()}


def _matrix(tensor: Mapping[str, Any]) -> Matrix:
    kind, data = tensor["dtype"], bytes(tensor["data"])
    if kind == "BF16":  # the upper half of a float32
        flat = (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
    elif kind in ("F32", "F16"):
        flat = np.frombuffer(data, np.float32 if kind == "F32" else np.float16).astype(np.float32)
    else:
        raise ValueError(f"its numbers are {kind}")
    return flat.reshape(tensor["shape"])


def read_shape(model: Path) -> Shape:
    """The shape of a base model; raises UserError for a file that is none in GGUF.

    The `gguf` library's reader goes through the whole vocabulary first, which takes seconds; what is asked for here
    stands before it (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
    """
    found: dict[str, Any] = {}
    try:
        with model.open("rb") as file:
            magic, _version, _tensors, count = struct.unpack("<4sIQQ", file.read(24))
            if magic != b"GGUF":
                raise UserError(f"{model}: is no GGUF file")
            for _ in range(count):
                key = _text(file)
                found[key] = _value(file, _number(file, "<I"))
                arch = found.get("general.architecture")
                heads = f"{arch}.attention.head_count"
                if arch and {f"{arch}.block_count", heads, f"{heads}_kv"} <= found.keys():
                    return Shape(arch, found[f"{arch}.block_count"], found[heads], found[f"{heads}_kv"])
    except (OSError, struct.error, UnicodeDecodeError, KeyError) as error:
        raise UserError(f"{model}: cannot be read as a GGUF file ({error})") from error
    raise UserError(f"{model}: does not tell its architecture, layers and heads")


def _number(file: IO[bytes], kind: str) -> Any:
    return struct.unpack(kind, file.read(struct.calcsize(kind)))[0]


def _text(file: IO[bytes]) -> str:
    return file.read(_number(file, "<Q")).decode()


def _value(file: IO[bytes], kind: int) -> Any:
    if kind == _TEXT:
        return _text(file)
    if kind == _LIST:
        inner, count = _number(file, "<I"), _number(file, "<Q")
        return [_value(file, inner) for _ in range(count)]
    return _number(file, _KINDS[kind])
