"""The routes behind the page: turns, versions, learning; each user sees only their own.

Open it to change what the page is told.
"""

import asyncio
import json
import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from talktune.config import Config
from talktune.errors import StoreDownError, UserError
from talktune.serve.body import page_size, read_body
from talktune.serve.chat import Service
from talktune.serve.dialects.wire import BadRequest, Fields, read_json
from talktune.serve.keys import Caller, Keys, refuse_forms
from talktune.serve.limits import Limits
from talktune.serve.page.events import Events
from talktune.serve.page.learned import Learned
from talktune.store.notes import MOST_LETTERS, Note
from talktune.store.policies import EVERYBODY, Policies, Version, version_name
from talktune.store.turn_lists import Entry, entries, entry, judge_lines, sampled
from talktune.types import Vote

MOST_TURNS = 200
SHOWN = 4000
"""Characters of a text in a list; one turn alone is shown whole."""
NOTE_BODY, BODY_SECONDS = 1 << 14, 10.0
NUMBER = re.compile(r"\d{1,9}\Z", re.ASCII)
T = TypeVar("T")


class Watching:
    """The routes on turns, learning, versions and changes."""

    def __init__(self, service: Service, keys: Keys, limits: Limits, config: Config) -> None:
        """`config` is the whole tree that the server was started with."""
        self._limits = limits
        self._changing = asyncio.Semaphore(1)
        self.events = Events(service.store, service.readers)
        self._service = service
        self._keys = keys
        self._per_user = config.live is not None and config.live.per_user
        self._learned = Learned(service.store, config)
        self._policies = Policies(service.store)

    async def turns(self, request: Request) -> Response:
        """GET /v1/turns: a page of them, newest first."""
        caller, query = self._keys.caller(request.headers), request.query_params
        count, before = page_size(query, MOST_TURNS), query.get("before") or None
        flags = {name: _flag(query.get(name), name) for name in ("bad", "unscored", "corrected")}
        found = await self._read(
            lambda: entries(self._service.store, caller.user, before=before, limit=count + 1, **flags)
        )
        after = found[count - 1].id if len(found) > count else None
        data = [_turn(one, SHOWN, caller) for one in found[:count]]
        return JSONResponse({"object": "list", "data": data, "next": after})

    async def turn(self, request: Request) -> Response:
        """GET /v1/turns/ID: one of them, whole, with its tokens where the engine told them."""
        caller, id, store = self._keys.caller(request.headers), request.path_params["id"], self._service.store
        found = await self._read(lambda: entry(store, caller.user, id))
        if found is None:
            raise BadRequest(f"There is no turn {id[:100]}.", status=404, type="not_found_error")
        known = await self._read(lambda: sampled(store, id))
        ids, logprobs = (known.answer_ids, known.logprobs) if known is not None else ((), None)
        pieces = await self._service.engines.all[0].upstream.pieces(ids)  # those of several are nobody's host
        tokens = [
            {"id": ids[i], "text": pieces[i] if pieces else None, "logprob": logprobs[i] if logprobs else None}
            for i in range(len(ids))
        ]
        return JSONResponse(_turn(found, None, caller) | {"tokens": tokens})

    async def change(self, request: Request) -> Response:
        """GET /v1/turns/ID/change: how likely each token is to the model as it was and to the version that serves now.

        The policy's process reads prompt and answer once; one such reading goes on at a time.
        """
        user, id, service = self._keys.user(request.headers), request.path_params["id"], self._service
        found = await self._read(lambda: entry(service.store, user, id))
        known = None if found is None else await self._read(lambda: sampled(service.store, id))
        if known is None:
            message = f"There is no turn {id[:100]} whose tokens are known."
            raise BadRequest(message, status=404, type="not_found_error")
        place = self._limits.take(user, 0)
        try:
            self._limits.run(place, 0)
            async with self._changing:
                route = await service.engines.route(await service.models.wish(None, user))
                live, engine = route.version, route.engine
                with route.taken():
                    told = await engine.upstream.change(known, None if live is None else engine.adapters.name(live))
        finally:
            self._limits.leave(place)
        if told is None:
            message = "The engine is not talktune's own host: it does not say how likely given tokens are."
            raise BadRequest(message, status=409, type="conflict_error")
        tokens = [{"base": base, "now": now} for base, now in zip(*told, strict=True)]
        name = None if live is None else live.name
        return JSONResponse({"object": "turn.change", "id": id, "version": name, "tokens": tokens})

    async def judge_lines(self, request: Request) -> Response:
        """GET /v1/judge-lines: the user's own verdicts, for `talktune judge-train`."""
        user = self._keys.user(request.headers)
        found = await self._read(lambda: [json.dumps(line) + "\n" for line in judge_lines(self._service.store, user)])
        return Response("".join(found), media_type="application/jsonl")

    async def learning(self, request: Request) -> Response:
        """GET /v1/learning."""
        caller = self._keys.caller(request.headers)
        return JSONResponse(await self._read(lambda: self._learned.of(caller)))

    async def versions(self, request: Request) -> Response:
        """GET /v1/versions: all that the caller may use, newest first."""
        caller = self._keys.caller(request.headers)
        lineage = self._lineage(caller.user)

        def read() -> dict[str, Any]:
            live, _ = self._policies.lineages().get(lineage, (None, ""))
            found = [_version(one, one.number == live) for one in reversed(self._policies.visible(lineage))]
            return {"data": found, "notes": [_note(one, caller) for one in self._policies.notes(lineage)]}

        return JSONResponse({"object": "list"} | await self._read(read))

    async def promote(self, request: Request) -> Response:
        """POST /v1/versions/NUMBER/promote: it serves from the next request on."""
        caller, number = self._admin(request), request.path_params["number"]
        lineage, note = self._lineage(caller.user), await self._note(request, caller)

        def change() -> Version:
            own = {one.number for one in self._policies.versions(lineage)}  # another would not serve the caller
            if not NUMBER.match(number) or int(number) not in own:
                message = f"There is no version {number[:100]} to promote; GET /v1/versions lists those that there are."
                raise BadRequest(message, status=404, type="not_found_error")
            return self._policies.promote(int(number), note)

        return JSONResponse(_version(await self._change(change), True))

    async def rollback(self, request: Request) -> Response:
        """POST /v1/versions/rollback: the version before the live one serves, at last the model as it was."""
        caller = self._admin(request)
        lineage, note = self._lineage(caller.user), await self._note(request, caller)
        live = await self._change(lambda: self._policies.rollback(lineage, note))
        return JSONResponse({"object": "rollback", "live": None if live is None else live.name})

    async def changes(self, request: Request) -> Response:
        """GET /v1/events: a server-sent event whenever there is something new to be fetched."""
        user = self._keys.user(request.headers)
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        told = self.events.listen(user, self._lineage(user))
        return StreamingResponse(told, media_type="text/event-stream", headers=headers)

    def _admin(self, request: Request) -> Caller:
        caller = self._keys.caller(request.headers)
        refuse_forms(request.headers, empty=True)
        if not caller.admin:
            message = "Which version serves is an admin's word: that takes a key whose line in --keys ends with admin."
            raise BadRequest(message, status=403, type="permission_error")
        return caller

    async def _note(self, request: Request, caller: Caller) -> Note:
        """What the admin writes about it; a body is not needed."""
        body = await read_body(request, NOTE_BODY, BODY_SECONDS)
        raw = read_json(body) if body.strip() else {}
        text = Fields(raw if isinstance(raw, dict) else {}).get("note", str) or ""
        if len(text) > MOST_LETTERS:
            raise BadRequest(f"A note has at most {MOST_LETTERS} letters.", param="note")
        return Note(text, caller.user, time.time())

    def _lineage(self, user: str) -> str:
        return user if self._per_user else EVERYBODY

    async def _read(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._service.readers, work)

    async def _change(self, work: Callable[[], T]) -> T:
        try:
            return await self._read(work)
        except StoreDownError:  # no conflict: the same is worth another try
            raise
        except UserError as error:
            raise BadRequest(str(error), status=409, type="conflict_error") from error


def _turn(one: Entry, most: int | None, caller: Caller) -> dict[str, Any]:
    """A turn as JSON, its texts cut to `most` characters."""

    def reason(vote: Vote) -> str:
        """Why there is no vote may name the judge's address."""
        return vote.reason if vote.label is not None or caller.admin else ""

    def cut(text: str | None) -> str | None:
        return text if text is None or most is None or len(text) <= most else text[:most] + "…"

    return {
        "object": "turn",
        "id": one.id,
        "created": one.created,
        "request": cut(one.request),
        "answer": cut(one.answer),
        "reaction": cut(one.reaction),
        "reacted": one.reacted,
        "votes": [
            {"label": v.label, "confidence": v.confidence, "judge": v.judge, "reason": reason(v)} for v in one.votes
        ],
        "reward": one.reward,
        "version": None if one.version is None else version_name(one.version),
        "feedback": None if one.score is None else {"score": one.score, "better": one.better},
        "learned_in": list(one.updates),
        "advantage": one.advantage,
    }


def _note(one: Note, caller: Caller) -> dict[str, Any]:
    """Who wrote it only admins hear: users do not hear of each other."""
    version = None if one.version is None else version_name(one.version)
    return {"text": one.text, "version": version, "by": one.by if caller.admin else None, "created": one.created}


def _version(one: Version, live: bool) -> dict[str, Any]:
    return {
        "object": "version",
        "number": one.number,
        "name": one.name,
        "state": one.state,
        "live": live,
        "parent": one.parent,
        "user": one.lineage or None,
        "reason": one.reason or None,
        "created": one.created,
        "gate": dict(one.measures),
        "metrics": dict(one.metrics),
    }


def _flag(value: str | None, name: str) -> bool:
    if value not in (None, "", "0", "1"):
        raise BadRequest(f"{name} must be 1 or 0.", param=name)
    return value == "1"
