"""The engine behind the server: one OpenAI-compatible address, whatever stands there."""

import asyncio
import contextlib
import json
import time
from collections.abc import Mapping
from typing import Any

import httpx2

from talktune.errors import UserError
from talktune.serve.dialects import PROBES, Dialect, detect
from talktune.serve.wire import BadRequest

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 600.0
"""Longest silence of an engine before and within an answer."""
PROBE_SECONDS = 5.0
HEALTH_AGE = 1.0
"""Seconds for which one look at the engine's health is good."""
RETRY = {"Retry-After": "2"}


class EngineError(Exception):
    """The engine is not there, or failed: the client may try again. `status` is that of the answer to it."""

    def __init__(self, message: str, status: int = 503) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": "engine_error", "param": None, "code": "engine_unavailable"}}


class Upstream:
    """An engine by its base URL. Its dialect is found out at the first request that reaches it."""

    def __init__(self, url: str | None, key: str | None = None) -> None:
        """`url` with or without /v1; None while a host is still starting."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        # httpcore looks at every idle connection at each request: a few are faster than many.
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=4)
        timeout = httpx2.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS, pool=CONNECT_SECONDS)
        self._client = httpx2.AsyncClient(headers=headers, limits=limits, timeout=timeout, trust_env=False)
        self._base = None if url is None else _base(url)
        self._dialect: Dialect | None = None
        self._health: tuple[float, bool] = (-HEALTH_AGE, False)
        self._adapters: dict[str, int | None] = {}
        """Versions that the engine has; llama.cpp's with their slot."""
        self.roles: Mapping[str, Any] = {}
        """What else the engine's process says of itself: talktune's own host judges and learns."""

    def move(self, url: str | None) -> None:
        """The engine is somewhere else now (a host that was started again), or nowhere for a while."""
        self._base, self._dialect, self._health = None if url is None else _base(url), None, (-HEALTH_AGE, False)
        self.roles = {}
        self.lose_adapters()

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def dialect(self) -> Dialect:
        """How this engine is spoken to; raises EngineError while it cannot be reached."""
        if self._dialect is None:
            replies = await asyncio.gather(*(self._get(path) for path in PROBES))
            answers = {path: _json(reply) for path, reply in zip(PROBES, replies, strict=True)}
            self._dialect = detect(answers)
        return self._dialect

    def has(self, adapter: str) -> bool:
        """Whether the engine has this adapter, as far as is known."""
        return adapter in self._adapters

    def slot(self, adapter: str) -> int | None:
        """llama.cpp's number of an adapter; None where adapters go by their names."""
        return self._adapters.get(adapter)

    def lose_adapters(self) -> None:
        """The engine was started anew: it has no adapter any more."""
        self._adapters = {}

    async def load(self, name: str, path: str, dialect: Dialect) -> None:
        """Give the engine an adapter under a name; raises EngineError or BadRequest when it does not take it.

        llama.cpp takes adapters at its start only (`--lora FILE`, whose path must hold the name): here they are found.
        """
        if dialect == "llama.cpp":
            reply = await self._get("/lora-adapters")
            slots = _json(reply)
            found = [one["id"] for one in slots if name in str(one.get("path"))] if isinstance(slots, list) else []
            if not found:
                raise EngineError(f"llama.cpp was started without --lora …{name}….gguf")
            self._adapters[name] = int(found[0])
            return
        reply = await self._send("/v1/load_lora_adapter", json.dumps({"lora_name": name, "lora_path": path}).encode())
        try:
            await reply.aread()
        finally:
            await reply.aclose()
        taken = "already" in reply.text or "taken" in reply.text  # loaded by another server, or before a restart
        if reply.status_code != 200 and not taken:
            raise _refusal(reply)
        self._adapters[name] = None

    async def unload(self, name: str, dialect: Dialect) -> None:
        """Let the engine forget an adapter; answers that run on it finish on it. What it says does not matter."""
        self._adapters.pop(name, None)
        if dialect != "llama.cpp":
            with contextlib.suppress(EngineError, httpx2.HTTPError):
                reply = await self._send("/v1/unload_lora_adapter", json.dumps({"lora_name": name}).encode())
                await reply.aclose()

    async def chat(self, body: Mapping[str, Any]) -> httpx2.Response:
        """Send a chat completion request; the reply's body is not read yet, and must be closed.

        Raises BadRequest with the engine's own words for what it refuses, EngineError for what it could not do.
        """
        try:
            content = json.dumps(body, allow_nan=False, separators=(",", ":")).encode()
        except ValueError as error:
            raise BadRequest("A number in the body is too large.") from error
        reply = await self._send("/v1/chat/completions", content)
        if reply.status_code != 200:
            try:
                await reply.aread()
            except httpx2.HTTPError as error:
                raise EngineError("The engine broke off.") from error
            finally:
                await reply.aclose()
            raise _refusal(reply)
        return reply

    async def prompt_ids(self, body: Mapping[str, Any]) -> tuple[int, ...] | None:
        """llama.cpp: the ids of the prompt that it makes of a request; None when it does not say."""
        try:
            prompt = await self._post("/apply-template", {k: v for k, v in body.items() if k != "stream"})
            wanted = {"content": prompt["prompt"], "add_special": True, "parse_special": True}
            tokens = (await self._post("/tokenize", wanted))["tokens"]
            return tuple(int(token) for token in tokens)
        except (httpx2.HTTPError, KeyError, TypeError, ValueError):
            return None

    async def models(self) -> dict[str, Any]:
        """GET /v1/models as the engine answers it; raises EngineError."""
        found = _json(await self._get("/v1/models"))
        if not isinstance(found, dict) or not isinstance(found.get("data"), list):
            raise EngineError("The engine does not tell its models.", 502)
        return found

    async def healthy(self) -> bool:
        """Whether the engine answers GET /health, or GET /v1/models where it has no such route."""
        at, good = self._health
        if time.monotonic() - at >= HEALTH_AGE:
            try:
                reply = await self._get("/health")
                said = _json(reply)
                self.roles = (said.get("roles") or {}) if isinstance(said, dict) else {}
                good = reply.status_code == 200 or (
                    reply.status_code == 404 and (await self._get("/v1/models")).status_code == 200
                )
            except EngineError:
                good = False
            self._health = (time.monotonic(), good)
        return good

    async def _get(self, path: str) -> httpx2.Response:
        try:
            return await self._client.get(self._url(path), timeout=PROBE_SECONDS)
        except httpx2.HTTPError as error:
            raise EngineError(f"The engine cannot be reached ({type(error).__name__}).") from error

    async def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        reply = await self._client.post(self._url(path), json=dict(body), timeout=PROBE_SECONDS)
        reply.raise_for_status()
        return reply.json()

    async def _send(self, path: str, content: bytes) -> httpx2.Response:
        headers = {"Content-Type": "application/json"}
        for last in (False, True):
            request = self._client.build_request("POST", self._url(path), content=content, headers=headers)
            try:
                return await self._client.send(request, stream=True)
            except (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError) as error:
                # An engine may close an idle connection at the moment in which it is used again.
                if last:
                    raise EngineError("The engine closed the connection before it answered.") from error
            except httpx2.TimeoutException as error:
                raise EngineError("The engine did not answer in time.", 504) from error
            except httpx2.HTTPError as error:
                raise EngineError(f"The engine cannot be reached ({type(error).__name__}).") from error
        raise AssertionError

    def _url(self, path: str) -> str:
        if self._base is None:
            raise EngineError("The engine is starting; try again in a few seconds.")
        return self._base + path


def _base(url: str) -> str:
    base = url.rstrip("/").removesuffix("/v1").rstrip("/")
    try:
        parsed = httpx2.URL(base)
    except httpx2.InvalidURL as error:
        raise UserError(f"--upstream {url}: is not a URL ({error}).") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise UserError(f"--upstream {url}: write it like http://127.0.0.1:8000.")
    return base


def _json(reply: httpx2.Response) -> Any:
    if reply.status_code != 200:
        return None
    try:
        return reply.json()
    except ValueError:
        return None


def _refusal(reply: httpx2.Response) -> Exception:
    """What the engine refused with, in OpenAI's form."""
    try:
        raw: Any = reply.json()
    except ValueError:
        raw = {}
    error: Any = raw.get("error", raw) if isinstance(raw, dict) else {}
    said = error.get("message") if isinstance(error, dict) else error if isinstance(error, str) else None
    message = str(said or f"The engine answered with status {reply.status_code}.")[:2000]
    status = reply.status_code
    if status in (401, 403):
        return EngineError("The engine refused talktune's own key; set it with --upstream-key-env.", 502)
    if not 400 <= status < 500:
        return EngineError(message, 503 if status == 503 else 502)
    fields: Any = error if isinstance(error, dict) else {}
    code, kind, param = fields.get("code"), fields.get("type"), fields.get("param")
    return BadRequest(
        message,
        status=status,
        type=kind if isinstance(kind, str) else "invalid_request_error",
        code=code if isinstance(code, str) else None,
        param=param if isinstance(param, str) else None,
    )
