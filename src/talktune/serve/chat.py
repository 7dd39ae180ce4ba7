"""Answers one chat request, from the moment it is read to the last byte of its answer.

Open it to see in which order an answer is sampled, stored and sent: `ChatAnswer`.

The order is what matters: an answer's turn is committed before the client gets the end of that answer. What the
engine sends goes on at once, chunk by chunk. A client that leaves stops the engine, and what it had seen is kept
as a partial turn.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from talktune.config import ServeConfig
from talktune.errors import StoreDownError, UserError
from talktune.serve.capture.find_turn import Place, place
from talktune.serve.capture.recording import Recording
from talktune.serve.capture.writer import Writer
from talktune.serve.dialects.chat_request import ChatRequest
from talktune.serve.dialects.form import Form
from talktune.serve.dialects.wire import BadRequest, write_json
from talktune.serve.engines.engine_body import engine_body
from talktune.serve.engines.engine_error import STORE_DOWN, EngineError
from talktune.serve.engines.model_names import Models
from talktune.serve.engines.normalise import read_stream, read_whole
from talktune.serve.engines.pool import Engine, Engines, Route
from talktune.serve.engines.too_long import explained, with_room
from talktune.serve.engines.upstream import Reply
from talktune.serve.engines.versions import Wish, number_of
from talktune.serve.failover import going_on
from talktune.serve.metrics import Metrics
from talktune.store.policies import version_name
from talktune.store.store import Store

log = logging.getLogger("talktune.serve")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


@dataclass
class Service:
    """What all requests share."""

    config: ServeConfig
    store: Store
    writer: Writer
    engines: Engines
    metrics: Metrics
    models: Models
    readers: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2, "store-reader"))
    placers: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2, "placer"))
    """Find what a request goes on from; of their own, so that no answer waits for somebody's long list."""


class ChatAnswer:
    """The answer to one request, as an ASGI application."""

    def __init__(self, service: Service, user: str, asked: ChatRequest, form: Form) -> None:
        self._service = service
        self._user = user
        self._asked = asked
        self._form = form
        self._recording: Recording | None = None
        self._place: Place | None = None
        self._started = False
        self._ended = False
        self._began = time.perf_counter()

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, unless the client leaves first."""
        answering = asyncio.ensure_future(self._answer(send))
        leaving = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            if not self._ended:  # where all was sent, what is left is to tidy up
                answering.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)
            if self._recording is not None and (turns := self._recording.left()):
                self._service.writer.submit(turns)
                self._service.metrics.partial.inc(len(turns))
        if not answering.cancelled() and (error := answering.exception()) is not None:
            raise error

    async def _answer(self, send: Send) -> None:
        try:
            await self._answer_by_engine(send)
        except BadRequest as error:
            await self._fail(send, explained(error))
        except EngineError as error:
            await self._fail(send, error)
        except StoreDownError as error:
            log.error("%s", error)
            await self._fail(send, EngineError(STORE_DOWN))
        except UserError as error:  # the answer is not sent to its end: its turn could not be stored
            log.error("%s", error)
            await self._fail(send, EngineError("The answer could not be stored; the server's log says why."))
        except Exception:  # whatever it is, a client must not wait for the rest of a stream
            log.exception("a request failed")
            await self._fail(send, EngineError("The server failed; its log says why.", 500))

    async def _fail(self, send: Send, error: BadRequest | EngineError) -> None:
        self._ended = True
        if self._started:
            await send({"type": "http.response.body", "body": self._form.broken(error.status, error.body)})
        else:
            await _send_json(send, error.status, self._form.refused(error.status, error.body), error.headers)

    async def _answer_by_engine(self, send: Send) -> None:
        """Answer by an engine; another one goes on where that fails, as long as the client cannot tell."""
        service, asked = self._service, self._asked
        wish = await service.models.wish(asked.model, self._user)
        loop = asyncio.get_running_loop()
        placing = loop.run_in_executor(service.placers, place, service.store, self._user, asked) if asked.old else None
        failed: set[Engine] = set()
        lost: set[Engine] = set()
        try:
            known = await placing if placing is not None and service.engines.several else None
            while True:
                route = await service.engines.route(wish, None if known is None else known.conversation, failed)
                try:
                    with route.taken():
                        await self._by(send, route, wish, placing)
                    return
                except EngineError as error:
                    service.engines.failed(route.engine, error)
                    failed.add(route.engine)
                    if error.status == 504 or len(failed) == len(service.engines.all):
                        raise
                    wish = self._rest_of(wish, route)
                    log.warning("%s: %s; another engine goes on", route.engine.upstream.url, error)
                except BadRequest as error:
                    if error.status != 404 or route.version is None or route.engine in lost:
                        raise
                    lost.add(route.engine)  # an engine that was started again behind our back
                    route.engine.adapters.forget()
        finally:
            if placing is not None:
                placing.cancel()

    def _rest_of(self, wish: Wish, route: Route) -> Wish:
        """What another engine is to answer: all of it, or the rest, by the version that began."""
        recording = self._recording
        if recording is None or not recording.begun:
            return wish
        return replace(wish, version=route.version, follows=False)

    async def _by(self, send: Send, route: Route, wish: Wish, placing: "asyncio.Future[Place] | None") -> None:
        """One engine's answer, or what it gives of one that another broke off."""
        service, asked, upstream = self._service, self._asked, route.engine.upstream
        body = route.body(engine_body(asked, route.kind, route.model(wish.model), service.config))
        begun = self._recording if self._recording is not None and self._recording.begun else None
        if begun is None:
            temperature, number = float(body.get("temperature") or 0.0), number_of(route.version)
            self._recording = recording = Recording(
                asked, self._user, route.kind, temperature, upstream.scaled, number, self._form.id
            )
        else:
            recording, body = begun, going_on(body, begun)
        asking = None
        if route.kind == "llama.cpp" and body.get("logprobs"):
            asking = asyncio.ensure_future(upstream.prompt_ids(body))
        try:
            reply = await self._ask(body, route)
            try:
                if self._place is None:
                    self._place = place(service.store, self._user, asked) if placing is None else await placing
                    service.metrics.placed(self._place.lost)
                recording.place = self._place
                if service.engines.several:
                    service.engines.remember(recording.place.conversation, route.engine)
                if asking is not None:
                    recording.prompt_ids = await asking
                await (self._stream(send, reply) if asked.stream else self._whole(send, reply))
            finally:
                reply.close()
        finally:
            if asking is not None:
                asking.cancel()

    async def _ask(self, body: dict[str, Any], route: Route) -> Reply:
        """The engine's reply; where the longest answer would not fit behind the prompt, a shorter one is asked for."""
        upstream = route.engine.upstream
        try:
            return await upstream.chat(body)
        except BadRequest as error:
            return await upstream.chat(await with_room(body, error, lambda: upstream.measure(body, route.kind)))

    async def _whole(self, send: Send, reply: Reply) -> None:
        recording = self._recording
        assert recording is not None
        body = read_whole(await reply.read())
        await self._commit(recording.add(body))
        self._ended = True
        await _send_json(send, 200, self._form.whole(self._named(body)))

    async def _stream(self, send: Send, reply: Reply) -> None:
        recording = self._recording
        assert recording is not None
        again = self._started  # another engine goes on: the client has its opening already
        if not again:
            headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            self._started = True
        waiting = not recording.begun
        async for body in read_stream(reply.chunks()):
            ended = recording.add(body)
            if waiting and body.get("choices"):
                waiting = False
                self._service.metrics.first_token.observe(time.perf_counter() - self._began)
            if ended:
                await self._commit(ended)
            if again and not _says(body):
                continue
            if shown := self._form.chunk(self._named(body)):
                await send({"type": "http.response.body", "body": shown, "more_body": True})
        self._ended = True
        await send({"type": "http.response.body", "body": self._form.end()})

    async def _commit(self, ended: list[int]) -> None:
        recording, service = self._recording, self._service
        assert recording is not None
        began = time.perf_counter()
        try:
            await service.writer.write([recording.turn(i) for i in ended])
        except Exception:
            recording.keep_again(ended)
            raise
        service.metrics.commit.observe(time.perf_counter() - began)
        service.metrics.turns.labels(recording.asked.kind).inc(len(ended))
        if recording.asked.done and recording.place is not None:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(service.readers, _close, service.store, recording)

    def _named(self, body: dict[str, Any]) -> dict[str, Any]:
        """A reply or chunk that says which version answers, where the engine calls all of them by one name."""
        assert self._recording is not None
        if self._recording.version is not None:
            body["model"] = version_name(self._recording.version)
        return body


def _close(store: Store, recording: Recording) -> None:
    assert recording.place is not None
    # Another request may have begun the session at the same moment: its conversation then has this turn, too.
    session = recording.asked.session
    known = None if session is None else store.conversation_of_session(recording.user, session)
    store.close_conversations(time.time(), id=known or recording.place.conversation)


def _says(body: Mapping[str, Any]) -> bool:
    """Whether a chunk has more in it than that an answer begins."""
    choices = body.get("choices") or ()
    deltas = [{**(one.get("delta") or {}), "role": None, "end": one.get("finish_reason")} for one in choices]
    return not choices or any(value for delta in deltas for value in delta.values())


async def _send_json(send: Send, status: int, body: object, headers: dict[str, str] | None = None) -> None:
    content = write_json(body)
    lines = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    lines += [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": content})


async def _left(receive: Receive) -> None:
    """Returns when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
