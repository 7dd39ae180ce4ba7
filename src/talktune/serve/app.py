"""The routes of the server, and how a request of each dialect is read.

Open it to add a route, or to see where a request enters.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from talktune.config import Config
from talktune.serve.body import BODY_SECONDS, expected, read_body, read_counted
from talktune.serve.chat import ChatAnswer, Receive, Scope, Send, Service
from talktune.serve.conversations import Conversations
from talktune.serve.dialects import anthropic
from talktune.serve.dialects.chat_request import ChatRequest, parse_request
from talktune.serve.dialects.form import ChatForm, Form
from talktune.serve.dialects.openapi import DESCRIPTION
from talktune.serve.dialects.responses.events import ResponsesForm
from talktune.serve.dialects.responses.items import may_be_named
from talktune.serve.dialects.responses.response import stored_response
from talktune.serve.dialects.responses.to_chat import chat_of, references
from talktune.serve.dialects.wire import BadRequest, read_json, read_object
from talktune.serve.engines.child import EngineProcess
from talktune.serve.engines.engine_body import engine_body
from talktune.serve.error_answers import error_handlers
from talktune.serve.keys import Keys
from talktune.serve.limits import Limits
from talktune.serve.page.assets import Page
from talktune.serve.page.watching import Watching
from talktune.store.lookup import Answered, answers

log = logging.getLogger("talktune.serve")
LARGE = 1 << 18
"""Bytes from which a body is parsed in a thread, so that others need not wait."""
OWN = ("/v1/", "/metrics")
"""What takes a key begins so; the page, the state of health and the description are for anybody."""

Handler = Callable[[Request], Awaitable[Any]]
Understood = tuple[Form, ChatRequest]
T = TypeVar("T")


class Server:
    """The routes, and what they share."""

    def __init__(self, service: Service, keys: Keys, host: EngineProcess | None, config: Config) -> None:
        """`host` is the engine that this server started itself, if any; `config` the whole tree it was started with."""
        self.service = service
        self.keys = keys
        self.host = host
        self.limits = Limits(service.config, keyed=bool(keys))
        self.conversations = Conversations(service, keys, self.limits)
        self.watching = Watching(service, keys, self.limits, config)
        service.metrics.running.set_function(lambda: self.limits.running)

    async def chat(self, request: Request) -> Any:
        """POST /v1/chat/completions."""

        def understand(body: bytes, _user: str) -> Understood:
            asked = parse_request(read_json(body), request.headers, self.service.config)
            return ChatForm(asked), asked

        return await self._answer(request, understand)

    async def messages(self, request: Request) -> Any:
        """POST /v1/messages: Anthropic's dialect."""

        def understand(body: bytes, _user: str) -> Understood:
            inner = anthropic.request(read_object(body))
            return anthropic.AnthropicForm(inner), parse_request(inner, request.headers, self.service.config)

        return await self._answer(request, understand)

    async def responses(self, request: Request) -> Any:
        """POST /v1/responses: OpenAI's newer dialect."""

        def understand(body: bytes, user: str) -> Understood:
            raw = read_object(body)
            named = references(raw, self.service.config.max_messages)
            inner = chat_of(raw, self._answers(user, named))
            asked = parse_request(inner, request.headers, self.service.config)
            return ResponsesForm(raw, inner), asked

        return await self._answer(request, understand, reads=True)

    async def response(self, request: Request) -> Response:
        """GET /v1/responses/ID: an earlier answer."""
        user, id = self.keys.user(request.headers), request.path_params["id"]
        found = await self._read(lambda: self._answers(user, {id}))
        if id not in found:
            raise BadRequest(f"There is no response {id[:100]}.", status=404, type="not_found_error")
        return JSONResponse(stored_response(id, found[id]))

    async def count_tokens(self, request: Request) -> Response:
        """POST /v1/messages/count_tokens: how long a prompt is."""
        service, user = self.service, self.keys.user(request.headers)
        body = await read_counted(request, self.limits, user, service.config.max_body_mib << 20, BODY_SECONDS)

        def understand() -> tuple[dict[str, Any], ChatRequest]:
            inner = anthropic.count_request(read_object(body))
            return inner, parse_request(inner, request.headers, service.config)

        inner, asked = await asyncio.to_thread(understand) if len(body) > LARGE else understand()
        wish = await service.models.wish(asked.model, user)
        route = await service.engines.plain()
        wanted = engine_body(asked, route.kind, route.model(wish.model), service.config)
        measured = await route.engine.upstream.measure(wanted, route.kind)
        if measured is None:
            return JSONResponse({"input_tokens": anthropic.estimate(inner), "estimated": True})
        return JSONResponse({"input_tokens": measured[0]})

    async def _answer(
        self, request: Request, understand: Callable[[bytes, str], Understood], *, reads: bool = False
    ) -> Any:
        """The answer to a request, whatever its dialect; `reads`: the store is asked to understand it."""
        service, user = self.service, self.keys.user(request.headers)
        most = service.config.max_body_mib << 20
        place = self.limits.take(user, expected(request, most))
        try:
            body = await read_body(request, most, BODY_SECONDS)
            self.limits.run(place, len(body))
            if reads or len(body) > LARGE:
                form, asked = await asyncio.to_thread(understand, body, user)
            else:
                form, asked = understand(body, user)
        except BaseException:
            self.limits.leave(place)
            raise
        return _Counted(ChatAnswer(service, user, asked, form), lambda: self.limits.leave(place))

    def _answers(self, user: str, ids: set[str]) -> dict[str, Answered]:
        """The user's earlier answers that may be referred to."""
        return answers(self.service.store, user, [id for id in ids if may_be_named(id)])

    async def models(self, request: Request) -> Response:
        """GET /v1/models, and one of them. The first is the one to name: the live policy answers under it."""
        user = self.keys.user(request.headers)
        found = await self.service.models.listed(user)
        if "anthropic-version" in request.headers:
            found = [anthropic.model(one) for one in found]
        name = request.path_params.get("model")
        if name is None:
            ends = {"has_more": False, "first_id": None, "last_id": None}
            if found:
                ends |= {"first_id": found[0]["id"], "last_id": found[-1]["id"]}
            return JSONResponse({"object": "list", "data": found, **ends})
        for model in found:
            if model["id"] == name:
                return JSONResponse(model)
        raise await self.service.models.unknown(name, user)

    async def health(self, request: Request) -> Response:
        """GET /health: ok, or degraded and why; 503 where nothing answers.

        Why, only whoever runs the server hears.
        """
        engines = self.service.engines
        well = await asyncio.gather(*(one.upstream.healthy() for one in engines.all))
        healthy, troubles = any(well), engines.troubles()
        engine: dict[str, Any] = {"state": "ok" if healthy else "unreachable"}
        if self.host is not None:
            engine = {"state": self.host.state if self.host.state != "ready" or healthy else "unreachable"}
            engine |= {"starts": str(self.host.starts)}
        status = "ok" if all(well) and not troubles else "degraded"
        body: dict[str, Any] = {"status": status, "engine": engine, "running": self.limits.running}
        reasons = self._runs_this(request)  # they name users and files
        if engines.several:
            body["engines"] = [
                {"state": "ok" if good and not one.left_out else "left out", "running": one.running}
                | ({"url": one.upstream.url} if reasons else {})
                for one, good in zip(engines.all, well, strict=True)
            ]
        body["roles"] = {
            name: {key: value for key, value in state.items() if reasons or key == "state"}
            for one in engines.all
            for name, state in one.upstream.roles.items()
        }
        if troubles and reasons:
            body["version"] = "; ".join(troubles)
        if reasons and (hints := engines.hints()):
            body["hints"] = hints
        return JSONResponse(body, 200 if healthy else 503)

    def _runs_this(self, request: Request) -> bool:
        """Whether whoever asks has an admin's key, or everybody on this machine is one user."""
        try:
            return self.keys.caller(request.headers).admin
        except BadRequest:
            return False

    async def alive(self, _request: Request) -> Response:
        """GET /healthz: the server itself answers."""
        return PlainTextResponse("ok")

    async def metrics(self, request: Request) -> Response:
        """GET /metrics."""
        self.keys.user(request.headers)
        return Response(self.service.metrics.text(), media_type="text/plain; version=0.0.4")

    async def description(self, _request: Request) -> Response:
        """GET /openapi.json."""
        return JSONResponse(DESCRIPTION | {"info": {"title": "talktune", "version": version("talktune")}})

    def app(self) -> Starlette:
        """The application."""
        page = Page()
        routes: list[tuple[str, Handler, str]] = [
            ("/v1/chat/completions", self.chat, "POST"),
            ("/v1/responses", self.responses, "POST"),
            ("/v1/responses/{id}", self.response, "GET"),
            ("/v1/messages", self.messages, "POST"),
            ("/v1/messages/count_tokens", self.count_tokens, "POST"),
            ("/v1/models", self.models, "GET"),
            ("/v1/models/{model:path}", self.models, "GET"),
            ("/v1/feedback", self.conversations.feedback, "POST"),
            ("/v1/conversations", self.conversations.conversations, "GET"),
            ("/v1/conversations/{id}", self.conversations.conversation, "GET"),
            ("/v1/turns", self.watching.turns, "GET"),
            ("/v1/turns/{id}", self.watching.turn, "GET"),
            ("/v1/turns/{id}/change", self.watching.change, "GET"),
            ("/v1/judge-lines", self.watching.judge_lines, "GET"),
            ("/v1/learning", self.watching.learning, "GET"),
            ("/v1/versions", self.watching.versions, "GET"),
            ("/v1/versions/rollback", self.watching.rollback, "POST"),
            ("/v1/versions/{number}/promote", self.watching.promote, "POST"),
            ("/v1/events", self.watching.changes, "GET"),
            ("/health", self.health, "GET"),
            ("/healthz", self.alive, "GET"),
            ("/metrics", self.metrics, "GET"),
            ("/openapi.json", self.description, "GET"),
            ("/", page.file, "GET"),
            ("/page/{file}", page.file, "GET"),
        ]
        there = ", ".join(f"{method} {path}" for path, _, method in routes)

        made = [
            Route(path, self._limited(does) if method == "GET" and path.startswith(OWN) else does, methods=[method])
            for path, does, method in routes
        ]
        origins = self.service.config.allow_origin
        pages = Middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=("GET", "POST"),
            allow_headers=("*",),
            expose_headers=("Retry-After", "X-Last-Id"),
            allow_private_network=True,
        )
        return Starlette(routes=made, exception_handlers=error_handlers(there), middleware=[pages] if origins else [])

    def _limited(self, handler: Handler) -> Handler:
        """The handler of what a user reads, within the limits of a key."""

        async def limited(request: Request) -> Any:
            with self.limits.reads(self.keys.user(request.headers)):
                return await handler(request)

        return limited

    async def _read(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.service.readers, work)


class _Counted:
    """An answer that says when it has ended."""

    def __init__(self, answer: ChatAnswer, finished: Callable[[], None]) -> None:
        self._answer = answer
        self._finished = finished

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._answer(scope, receive, send)
        finally:
            self._finished()
