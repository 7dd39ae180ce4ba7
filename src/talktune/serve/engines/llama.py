"""`python -m talktune.serve.engines.llama`: llama.cpp's server as a child of talktune's, its adapters fixed at start.

The first line of its stdin is JSON: `model`, a GGUF file; `loras`, paths of adapters; `key`, without which it answers
nobody. It says where it listens, and ends when its stdin closes.
"""

import importlib
import json
import os
import signal
import sys
from types import FrameType
from typing import Any

from talktune.terminal import say

PARALLEL = 4
"""Requests that it answers at once; they share the context."""


def main() -> None:
    """Run it until stdin closes or SIGTERM comes."""
    try:
        xllamacpp: Any = importlib.import_module("xllamacpp")
    except ImportError:
        sys.stderr.write("talktune: --engine llama.cpp needs the package xllamacpp: pip install 'talktune[llama]'.\n")
        sys.exit(2)
    asked = json.loads(sys.stdin.buffer.readline())
    params = xllamacpp.CommonParams()
    params.model.path = asked["model"]
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, 1.0) for path in asked["loras"]]
    params.port, params.use_jinja = 0, True
    params.n_parallel, params.kv_unified, params.n_ctx = PARALLEL, True, 0  # the model's own context
    params.api_keys, params.ui, params.warmup, params.verbosity = [asked["key"]], False, False, 0
    params.cache_ram_mib = 0  # no request uses a kept prompt: see `versions.with_version`
    server = xllamacpp.Server(params)

    def end(_number: int, _frame: FrameType | None) -> None:
        os._exit(0)  # what it answers has ended by then, and its threads wait for nothing

    signal.signal(signal.SIGTERM, end)
    say(f"ready {server.listening_address}")
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
