"""One engine behind the server: an OpenAI-compatible address that is asked for answers, models and tokens.

Open it to see every call that an engine gets.
"""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from talktune.errors import UserError
from talktune.serve.dialects.wire import BadRequest, write_json
from talktune.serve.engines.engine_error import EngineError, refusal
from talktune.serve.engines.kinds import PROBES, EngineKind, detect
from talktune.types import Sampled

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 600.0
"""Longest silence of an engine before and within an answer."""
PROBE_SECONDS = 5.0
COLDEST = 0.01
"""Lowest temperature at which log-probs are compared."""
HEALTH_AGE = 1.0
"""Seconds for which one look at the engine's health is good."""
_MAX_LORAS = re.compile(r'lora_requests_info\{[^}]*max_lora="(\d+)"')


@dataclass(frozen=True, slots=True)
class Listed:
    """An adapter that an engine says it has."""

    path: str
    """Where the engine has it from."""
    slot: int | None = None
    """llama.cpp's number for it."""


class Reply:
    """An engine's reply whose body is still to come; it must be closed, which stops an engine that still answers."""

    def __init__(self, reply: aiohttp.ClientResponse) -> None:
        self._reply = reply
        self.status = reply.status
        self.retry_after = reply.headers.get("Retry-After")

    async def read(self) -> bytes:
        """The whole body; raises EngineError when it does not come whole."""
        try:
            return await self._reply.read()
        except _FAILURES as error:
            raise _broken_off(error) from error

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes; raises EngineError when it breaks off."""
        try:
            async for chunk in self._reply.content.iter_any():
                yield chunk
        except _FAILURES as error:
            raise _broken_off(error) from error

    def close(self) -> None:
        """Close the reply; one that was read to its end keeps its connection for the next request."""
        self._reply.close()


class Upstream:
    """An engine by its base URL. Its kind is found out at the first request that reaches it."""

    def __init__(self, url: str | None, key: str | None = None) -> None:
        """`url` with or without /v1; None while a host is still starting. To be made where an event loop runs."""
        self._client = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=ANSWER_SECONDS),
        )
        self._base = None if url is None else base_url(url)
        self._kind: EngineKind | None = None
        self._asking: asyncio.Future[None] | None = None
        self._health: tuple[float, bool] = (-HEALTH_AGE, False)
        self.scaled = False
        """Whether its log-probs are of softmax(logits / temperature)."""
        self.roles: Mapping[str, Any] = {}
        """What else the engine's process says of itself: talktune's own host judges and learns."""

    @property
    def url(self) -> str:
        """The engine's address; empty while it has none."""
        return self._base or ""

    def move(self, url: str | None) -> None:
        """Set another address (the host was started again), or none for a while."""
        self._base = None if url is None else base_url(url)
        self.roles = {}
        self.forget()

    def forget(self) -> None:
        """Forget what is known of the engine, because another one may answer at this address next."""
        self._kind, self._health, self.scaled = None, (-HEALTH_AGE, False), False
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None

    async def close(self) -> None:
        """Close all connections."""
        self.forget()
        await self._client.close()

    async def kind(self) -> EngineKind:
        """The kind of this engine; raises EngineError while it cannot be reached."""
        if self._kind is None:
            replies = await asyncio.gather(*(self._get(path) for path in PROBES))
            answers = {path: _json(*reply) for path, reply in zip(PROBES, replies, strict=True)}
            found = detect(answers)
            if found != "vllm":
                self.scaled = found in ("host", "sglang")
            else:  # several may come here at once: what one of them has found out stays
                if self._asking is None:
                    self._asking = asyncio.ensure_future(self._ask_whether_processed())
                await asyncio.wait([self._asking], timeout=PROBE_SECONDS)  # a cold engine answers later
            self._kind = found
        return self._kind

    async def _ask_whether_processed(self) -> None:
        """Find out whether vLLM's log-probs are those of what it samples from (`--logprobs-mode processed_logprobs`).

        Of the one token that `top_k` leaves, that log-prob is 0. It asks until there is an answer, beside the requests:
        an engine's first one may take a minute, or fail.
        """
        body = json.dumps({"prompt": "A", "max_tokens": 1, "temperature": 2.0, "top_k": 1, "logprobs": 1}).encode()
        while True:
            with suppress(EngineError):
                reply = await self._send("/v1/completions", body)
                try:
                    if reply.status < 500 and reply.status not in _LATER:
                        self.scaled = _is_zero(_json(reply.status, await reply.read()))
                        return
                finally:
                    reply.close()
            await asyncio.sleep(PROBE_SECONDS)

    async def adapters(self, kind: EngineKind) -> dict[str, Listed]:
        """The adapters that it has, by their names; raises EngineError.

        llama.cpp has no names for them: they are called by the names of their files, without their endings.
        """
        if kind == "llama.cpp":
            told: Any = _json(*await self._get("/lora-adapters"))
            rows = [one for one in told if isinstance(one, dict)] if isinstance(told, list) else []
            found = [(Path(str(one.get("path"))), one.get("id")) for one in rows]
            return {path.stem: Listed(str(path), id) for path, id in found if isinstance(id, int)}
        data = [one for one in (await self.models())["data"] if isinstance(one, dict)]
        return {str(one.get("id")): Listed(str(one["root"])) for one in data if one.get("parent") and one.get("root")}

    async def model_file(self) -> Path:
        """llama.cpp: the file of its model; raises EngineError where it does not say."""
        told: Any = _json(*await self._get("/props"))
        path = told.get("model_path") if isinstance(told, dict) else None
        if not isinstance(path, str) or not path:
            raise EngineError("llama.cpp does not tell the file of its model.")
        return Path(path)

    async def load(self, name: str, path: str) -> bytes:
        """Load an adapter under a name, by vLLM's route.

        Raises EngineError or BadRequest when it does not take it, also for a name that it has.
        """
        status, said = await self._tell("/v1/load_lora_adapter", {"lora_name": name, "lora_path": path})
        if status != 200:
            raise refusal(status, said)
        return said

    async def unload(self, name: str) -> None:
        """Unload an adapter, whatever the engine answers. Raises EngineError when the engine cannot be reached."""
        await self._tell("/v1/unload_lora_adapter", {"lora_name": name})

    async def at_once(self) -> int | None:
        """vLLM: how many adapters may answer at once (`--max-loras`); None where it does not say."""
        try:
            status, body = await self._get("/metrics")
        except EngineError:
            return None
        found = _MAX_LORAS.search(body.decode(errors="replace")) if status == 200 else None
        return None if found is None else int(found[1])

    async def _tell(self, path: str, body: Mapping[str, Any]) -> tuple[int, bytes]:
        reply = await self._send(path, json.dumps(dict(body)).encode())
        try:
            return reply.status, await reply.read()
        finally:
            reply.close()

    async def chat(self, body: Mapping[str, Any]) -> Reply:
        """Send a chat completion request; the reply's body is not read yet, and must be closed.

        Raises BadRequest with the engine's own words for what it refuses, EngineError for what it could not do.
        """
        try:
            content = write_json(body)
        except ValueError as error:
            raise BadRequest("A number in the body is too large.") from error
        reply = await self._send("/v1/chat/completions", content)
        if reply.status != 200:
            try:
                raise refusal(reply.status, await reply.read(), reply.retry_after)
            finally:
                reply.close()
        return reply

    async def prompt_ids(self, body: Mapping[str, Any]) -> tuple[int, ...] | None:
        """llama.cpp: the ids of the prompt that it makes of a request; None when it does not say."""
        try:
            prompt = await self._post("/apply-template", {k: v for k, v in body.items() if k != "stream"})
            wanted = {"content": prompt["prompt"], "add_special": True, "parse_special": True}
            tokens = (await self._post("/tokenize", wanted))["tokens"]
            return tuple(int(token) for token in tokens)
        except (*_FAILURES, KeyError, TypeError, ValueError):
            return None

    async def measure(self, body: Mapping[str, Any], kind: EngineKind) -> tuple[int, int | None] | None:
        """How many tokens the prompt of a request has, and how many its model takes; None where it is not said."""
        if kind == "llama.cpp":
            ids = await self.prompt_ids(body)
            return None if ids is None else (len(ids), None)
        if kind not in ("host", "vllm"):
            return None
        names = (
            "model",
            "messages",
            "tools",
            "continue_final_message",
            "add_generation_prompt",
            "chat_template_kwargs",
        )
        asked = {name: body[name] for name in names if name in body}
        try:
            told = await self._post("/tokenize", asked)
            count, limit = int(told["count"]), told.get("max_model_len")
            return count, limit if type(limit) is int else None
        except (*_FAILURES, KeyError, TypeError, ValueError):
            return None

    async def pieces(self, ids: Sequence[int]) -> list[str] | None:
        """The text of each token, on a host of talktune's own; None where the engine does not say."""
        if not ids or self._kind != "host":
            return None
        try:
            pieces = (await self._post("/detokenize", {"tokens": list(ids)}))["pieces"]
            return [str(piece) for piece in pieces] if len(pieces) == len(ids) else None
        except (*_FAILURES, EngineError, KeyError, TypeError, ValueError):
            return None

    async def change(self, sampled: Sampled, adapter: str | None) -> tuple[list[float], list[float]] | None:
        """Log-probs of an answer's first tokens under the bare model and under an adapter, on a host of talktune's own.

        None where the engine is another; raises BadRequest where the answer is too long, EngineError.
        """
        if await self.kind() != "host":
            return None
        asked = {"prompt_ids": sampled.prompt_ids, "answer_ids": sampled.answer_ids}
        status, said = await self._tell(
            "/change",
            asked | {"temperature": max(sampled.temperature or 1.0, COLDEST)} | ({"model": adapter} if adapter else {}),
        )
        if status != 200:
            raise refusal(status, said)
        found: Any = json.loads(said)
        return found["base"], found["now"]

    async def models(self) -> dict[str, Any]:
        """GET /v1/models as the engine answers it; raises EngineError."""
        found = _json(*await self._get("/v1/models"))
        if not isinstance(found, dict) or not isinstance(found.get("data"), list):
            raise EngineError("The engine does not tell its models.", 502)
        return found

    async def healthy(self) -> bool:
        """Whether the engine answers GET /health, or GET /v1/models where it has no such route."""
        at, good = self._health
        if time.monotonic() - at >= HEALTH_AGE:
            try:
                status, body = await self._get("/health")
                said = _json(status, body)
                roles = said.get("roles") if isinstance(said, dict) else None
                named = roles.items() if isinstance(roles, dict) else ()
                self.roles = {str(name): role for name, role in named if isinstance(role, dict)}
                good = status == 200 or (status == 404 and (await self._get("/v1/models"))[0] == 200)
            except EngineError:
                good = False
            self._health = (time.monotonic(), good)
        return good

    async def _get(self, path: str) -> tuple[int, bytes]:
        """Status and body."""
        try:
            async with self._client.get(self._url(path), timeout=_PROBE, allow_redirects=False) as reply:
                return reply.status, await reply.read()
        except _FAILURES as error:
            raise _unreachable(error) from error

    async def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        async with self._client.post(self._url(path), json=body, timeout=_PROBE, raise_for_status=True) as reply:
            return json.loads(await reply.read())

    async def _send(self, path: str, content: bytes) -> Reply:
        for last in (False, True):
            try:
                return Reply(
                    await self._client.post(self._url(path), data=content, headers=_JSON, allow_redirects=False)
                )
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                if isinstance(error, aiohttp.ClientConnectorError):
                    raise _unreachable(error) from error
                # An engine may close an idle connection at the moment in which it is used again.
                if last:
                    raise EngineError("The engine closed the connection before it answered.", gone=True) from error
            except aiohttp.ConnectionTimeoutError as error:
                raise _unreachable(error) from error
            except TimeoutError as error:
                raise EngineError("The engine did not answer in time.", 504) from error
            except aiohttp.ClientError as error:
                raise _unreachable(error) from error
        raise AssertionError

    def _url(self, path: str) -> str:
        if self._base is None:
            raise EngineError("The engine is starting; try again in a few seconds.", gone=True)
        return self._base + path


_FAILURES = (aiohttp.ClientError, TimeoutError)
_LATER = (408, 425, 429)
"""Statuses that say nothing but that one should ask again."""
_PROBE = aiohttp.ClientTimeout(total=PROBE_SECONDS)
_JSON = {"Content-Type": "application/json"}


def _unreachable(error: Exception) -> EngineError:
    return EngineError(f"The engine cannot be reached ({type(error).__name__}).", gone=True)


def _broken_off(error: Exception) -> EngineError:
    return EngineError(f"The engine broke off its answer ({type(error).__name__}).", broken_off=True)


def base_url(url: str, option: str = "--upstream") -> str:
    """An engine's address without /v1; UserError, which names the option, for what is no URL."""
    base = url.rstrip("/").removesuffix("/v1").rstrip("/")
    try:
        parsed = urlsplit(base)
        good = parsed.scheme in ("http", "https") and parsed.hostname and parsed.port != 0
    except ValueError as error:
        raise UserError(f"{option} {url}: is not a URL ({error}).") from error
    if not good:
        raise UserError(f"{option} {url}: write it like http://127.0.0.1:8000.")
    return base


def _is_zero(reply: Any) -> bool:
    """Whether the log-prob of the one token in a reply of /v1/completions is 0."""
    try:
        told = reply["choices"][0]["logprobs"]["token_logprobs"][0]
    except (IndexError, KeyError, TypeError):
        return False
    return isinstance(told, int | float) and -1e-4 < told < 1e-4


def _json(status: int, body: bytes) -> Any:
    if status != 200:
        return None
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
