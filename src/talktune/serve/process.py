"""The server as a process: it opens the store, finds the engines, serves until a signal and ends cleanly.

Open it to see how the server starts and stops.
"""

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import uvicorn
import uvloop

from talktune.config import ServeConfig, config_from_json
from talktune.errors import UserError
from talktune.serve.app import Server
from talktune.serve.capture.writer import Writer
from talktune.serve.chat import Service
from talktune.serve.engines.child import EngineProcess
from talktune.serve.engines.engine_error import EngineError
from talktune.serve.engines.llama_versions import LlamaFiles
from talktune.serve.engines.model_names import Models
from talktune.serve.engines.pool import Engines
from talktune.serve.engines.upstream import Upstream
from talktune.serve.engines.versions import Versions
from talktune.serve.keys import KEY_ENV, Keys, is_loopback, load_keys
from talktune.serve.listen import listen, shown
from talktune.serve.metrics import Metrics
from talktune.serve.timed_protocol import TimedProtocol
from talktune.store.holds import hold
from talktune.store.owners import owner_name
from talktune.store.policies import Policies
from talktune.store.store import Store

KEEP_ALIVE = 75
"""Seconds that an idle connection stays open; clients keep theirs for a while."""
TIDY_SECONDS = 30.0


def serve(
    config: ServeConfig,
    host_arguments: Sequence[str],
    host_config: str,
    say: Callable[[str], None],
    *,
    per_user: bool = False,
    gguf: Path | None = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C; UserError for what cannot work. `say` gets a line when it serves.

    `host_arguments` are Python's, for a host of its own, which reads `host_config`; `per_user` gives every user a
    lineage of versions; `gguf` is the model's file, for llama.cpp.
    """
    keys = load_keys(config.keys, config.allow_origin)
    if not keys and {"*", "null"} & set(config.allow_origin):
        raise UserError(
            f"--allow-origin: any page could talk without a key; name the origins of yours, or set {KEY_ENV}."
        )
    if not keys and not is_loopback(config.host):
        raise UserError(
            f"--host {config.host}: others could reach it without a key; set {KEY_ENV}, or give --keys FILE."
        )
    with listen(config.host, config.port) as listener:
        store = Store(config.store)
        writer = Writer(store)
        try:
            uvloop.run(_serve(config, host_arguments, host_config, keys, store, writer, listener, say, per_user, gguf))
        finally:
            writer.close()
            store.close()


async def _serve(
    config: ServeConfig,
    host_arguments: Sequence[str],
    host_config: str,
    keys: Keys,
    store: Store,
    writer: Writer,
    listener: socket.socket,
    say: Callable[[str], None],
    per_user: bool,
    gguf: Path | None,
) -> None:
    async with contextlib.AsyncExitStack() as ending:
        own = not config.upstream
        key = secrets.token_urlsafe(32) if own else os.environ.get(config.upstream_key_env)
        upstreams = [Upstream(url, key) for url in config.upstream] or [Upstream(None, key)]
        for upstream in upstreams:
            ending.push_async_callback(upstream.close)
        versions = Versions(Policies(store), per_user=per_user)
        owner = f"{owner_name()}:{secrets.token_hex(4)}"
        engines = Engines(upstreams, versions, lambda needed: hold(store, owner, needed, time.time()))
        models = Models(engines, versions, strict=config.strict_models)
        service = Service(config, store, writer, engines, Metrics(), models)
        ending.callback(service.readers.shutdown)
        ending.callback(service.placers.shutdown)
        host = None
        if own and config.engine == "llama.cpp":
            assert gguf is not None
            assert key is not None
            files = LlamaFiles(versions.policies, gguf, key)
            (engine,) = engines.all
            command = ["-P", "-m", "talktune.serve.engines.llama"]
            host = EngineProcess(command, await files.first_line(), engines.move, config.grace)
            files.process, files.between_requests, engine.adapters.files = host, engine.between_requests, files
            ending.push_async_callback(host.stop)
            await host.start()
            await engines.look()
        elif own:
            host = EngineProcess(host_arguments, {"key": key, "config": host_config}, engines.move, config.grace)
            ending.push_async_callback(host.stop)
            await host.start()
        else:
            await _introduce(engines, say)
        watching = asyncio.ensure_future(engines.watch())
        ending.callback(watching.cancel)
        tidying = asyncio.ensure_future(_close_idle(store, config.idle_minutes * 60))
        ending.callback(tidying.cancel)
        server = Server(service, keys, host, config_from_json(host_config))
        await _listen(server, config, listener, say)


async def _introduce(engines: Engines, say: Callable[[str], None]) -> None:
    """Say what the engines are, and give them the live version."""
    for engine in engines.all:
        try:
            say(f"The engine at {engine.upstream.url} speaks the dialect: {await engine.upstream.kind()}")
        except EngineError as error:
            say(f"{error} Requests {'go to the others' if engines.several else 'are refused'} until it can.")
    await engines.look()


async def _listen(server: Server, config: ServeConfig, listener: socket.socket, say: Callable[[str], None]) -> None:
    running = uvicorn.Server(
        uvicorn.Config(
            server.app(),
            http=TimedProtocol,
            ws="none",
            lifespan="off",
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=max(int(config.grace), 1),
        )
    )
    # uvicorn raises the signal again when it is done; ending was all that it asked for.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    server.watching.events.ending = lambda: running.should_exit
    serving = asyncio.ensure_future(running.serve(sockets=[listener]))
    while not running.started and not serving.done():
        await asyncio.sleep(0.01)
    say(f"ready {shown(listener)}")
    await serving


async def _close_idle(store: Store, seconds: float) -> None:
    """Close conversations in which nothing was said for so long."""
    while True:
        await asyncio.sleep(min(TIDY_SECONDS, seconds))
        now = time.time()
        with contextlib.suppress(Exception):  # the next round tries again
            await asyncio.to_thread(store.close_conversations, now, idle_since=now - seconds)
