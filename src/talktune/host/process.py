"""The host as a process: it loads the model, runs the engine in a thread, serves HTTP and ends cleanly.

Open it to see how the host starts and stops.

Prints one line `ready http://ADDRESS:PORT` on stdout once it serves. SIGTERM, or the end of stdin where that
is a pipe (the parent has died), stops new requests and gives running answers a grace time.
"""

import argparse
import os
import signal
import socket
import stat
import sys
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import uvicorn

from talktune.config import ModelConfig
from talktune.errors import UserError
from talktune.host.change import Change
from talktune.host.engine import Engine
from talktune.host.lora import linear_layers
from talktune.host.web import Host, make_app
from talktune.policy.linear import prepack, prepacked_bytes
from talktune.policy.load import load_policy
from talktune.policy.tokens import end_ids
from talktune.serve.keys import KEY_ENV, Keys, is_loopback, load_keys
from talktune.serve.listen import listen, shown
from talktune.terminal import complain, log_to_stderr, say

GRACE_SECONDS = 20
"""How long running answers may go on after SIGTERM."""
CACHE_SHARE = {"cpu": 0.25, "cuda": 0.5}
"""Share of the memory that is free after loading which keys and values may take."""
PREPACK_SHARE = 0.5
"""Share of that memory, at most, which a second copy of the weights may take, laid out for decoding on a CPU."""
PREPACK_ROWS = 8
"""Answers sampled at once for which it is laid out; it serves other numbers too."""
UNKNOWN_FREE = 8 << 30
"""Bytes of memory taken as free where the system does not say."""


def load_host(model: ModelConfig, dtype: str = "auto") -> Host:
    """Load the model, with its adapter under the name of its directory, and make an engine that is not started yet.

    `dtype` auto is fp32 on a CPU and bf16 on a GPU.
    """
    policy = load_policy(ModelConfig(model=model.model, device=model.device))
    if getattr(policy.tokenizer, "backend_tokenizer", None) is None:
        raise UserError(f"model {model.model}: the host needs a fast tokenizer (tokenizer.json), and it has none.")
    policy.model.requires_grad_(False)
    if dtype != "auto":
        policy.model.to(getattr(torch, dtype))
    text = policy.model.config.get_text_config(decoder=True)
    context = int(getattr(text, "max_position_embeddings", 1 << 15))
    layers = list(linear_layers(policy.model).values())
    if prepacked_bytes(layers) < PREPACK_SHARE * _free_bytes(policy.device):
        prepack(layers, PREPACK_ROWS)
    budget = _free_bytes(policy.device) // _bytes_per_token(text, policy.model.dtype)
    engine = Engine(policy.model, context=context, budget=max(budget, 1))
    ends = end_ids(policy.tokenizer, policy.model.generation_config)
    host = Host(policy, engine, ends, Change(policy.model, engine.turnstile))
    if model.adapter is not None:
        host.add_lora(Path(model.adapter).resolve().name, Path(model.adapter))
    return host


def serve(host: Host, address: str, port: int, keys: Keys) -> None:
    """Serve owners of `keys` until a signal or the end of stdin; UserError where the address cannot be used."""
    listener = listen(address, port)
    server = _Server(
        uvicorn.Config(
            make_app(host, keys),
            log_level="warning",
            lifespan="off",
            timeout_graceful_shutdown=GRACE_SECONDS,
            access_log=False,
        ),
        f"ready {shown(listener)}",
    )
    thread = threading.Thread(target=host.engine.run, name="engine", daemon=True)
    thread.start()
    _watch_stdin(server)
    # uvicorn raises the signal again when it is done; ending was all that it asked for.
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, lambda *_: None)
    try:
        server.run(sockets=[listener])
    finally:
        host.engine.stop()
        thread.join(timeout=GRACE_SECONDS)


class _Server(uvicorn.Server):
    """uvicorn that says when it serves."""

    def __init__(self, config: uvicorn.Config, ready: str) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        say(self._ready)


def _watch_stdin(server: uvicorn.Server) -> None:
    """End with the parent: its end of the pipe closes, however it died. A terminal or /dev/null says nothing."""
    try:
        mode = os.fstat(0).st_mode
    except OSError:
        return
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        return

    def watch() -> None:
        while os.read(0, 4096):
            pass
        server.should_exit = True

    threading.Thread(target=watch, name="stdin", daemon=True).start()


def _bytes_per_token(text: Any, dtype: torch.dtype) -> int:
    """Keys and values of one token in all layers."""
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2 * text.num_hidden_layers * heads * dim * dtype.itemsize


def _free_bytes(device: torch.device) -> int:
    """What keys and values may take of the device's memory."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * CACHE_SHARE["cuda"])
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        free = UNKNOWN_FREE
    return int(free * CACHE_SHARE["cpu"])


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m talktune.host`."""
    parser = argparse.ArgumentParser(prog="python -m talktune.host", description="Serve one model to talktune.")
    parser.add_argument(
        "--model", default="smollm2", help="Hugging Face id, a directory, a GGUF file, ollama:NAME, or smollm2"
    )
    parser.add_argument("--adapter", type=Path, help="LoRA adapter to load at start, named like its directory")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, …")
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"], help="of the weights")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    args = parser.parse_args(arguments)
    warnings.filterwarnings("ignore", category=FutureWarning)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    log_to_stderr()
    try:
        model = ModelConfig(model=args.model, adapter=args.adapter, device=args.device)
        keys = load_keys(None)
        if not keys and not is_loopback(args.host):
            raise UserError(f"--host {args.host}: others could reach it without a key; set {KEY_ENV}.")
        serve(load_host(model, args.dtype), args.host, args.port, keys)
    except UserError as error:
        complain(error)
        sys.exit(2)


if __name__ == "__main__":
    main()
