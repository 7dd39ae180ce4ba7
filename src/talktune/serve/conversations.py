"""The routes by which clients read their conversations, and give feedback on an answer.

Open it to change what is told of a conversation.
"""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from talktune.conversations.records import conversation_to_dict
from talktune.serve.body import BODY_SECONDS, page_size, read_counted
from talktune.serve.chat import Service
from talktune.serve.dialects.wire import BadRequest, Fields, read_object
from talktune.serve.keys import Caller, Keys
from talktune.serve.limits import Limits
from talktune.store.turn_lists import entry
from talktune.types import Conversation

MOST_PAGE = 1000
SMALL_BODY = 1 << 16
T = TypeVar("T")


class Conversations:
    """Conversations as they are stored, and feedback on their answers."""

    def __init__(self, service: Service, keys: Keys, limits: Limits) -> None:
        self._service = service
        self._keys = keys
        self._limits = limits

    async def feedback(self, request: Request) -> Response:
        """POST /v1/feedback: a person's own word on an answer."""
        user = self._keys.user(request.headers)
        body = Fields(read_object(await read_counted(request, self._limits, user, SMALL_BODY, BODY_SECONDS)))
        id = body.get("completion_id", str) or body.get("id", str)
        if not id:
            raise BadRequest(
                "completion_id must name the answer: the id of its chat completion.", param="completion_id"
            )
        choice = body.number("choice", int, 0, 63) or 0
        thumbs = body.get("thumbs", str)
        if thumbs is not None and thumbs not in ("up", "down"):
            raise BadRequest("thumbs must be up or down.", param="thumbs")
        score = body.number("score", float, -1, 1)
        better = body.get("better", str)
        if score is None and thumbs is None and better is None:
            message = "Give thumbs (up or down), a score between -1 and 1, or better: the answer that was wanted."
            raise BadRequest(message, param="score")
        score = score if score is not None else {"up": 1.0, "down": -1.0, None: None}[thumbs]
        turn = id if choice == 0 else f"{id}-{choice}"
        if not await self._read(lambda: self._service.store.add_feedback(user, turn, score, time.time(), better)):
            raise BadRequest(
                f"There is no answer {id[:100]}.", status=404, type="not_found_error", param="completion_id"
            )
        kept = await self._read(lambda: entry(self._service.store, user, turn))
        given = {"score": kept and kept.score, "better": kept and kept.better}
        return JSONResponse({"object": "feedback", "completion_id": id, "choice": choice} | given)

    async def conversations(self, request: Request) -> Response:
        """GET /v1/conversations: a page of them, newest first; with format=jsonl all that is known of them."""
        caller = self._keys.caller(request.headers)
        query = request.query_params
        count, store = page_size(query, MOST_PAGE), self._service.store
        after = query.get("after") or None
        rows = await self._read(lambda: store.list_conversations(caller.user, after=after, limit=count + 1))
        more, rows = len(rows) > count, rows[:count]
        last = rows[-1].id if rows else None
        if _jsonl(query.get("format")):
            headers = {"X-Last-Id": last} if more and last else {}
            # Encoded there, too: it takes long for long ones, and everybody else's events are waited for here.
            return await self._read(
                lambda: _lines([_told(c, caller) for row in rows for c in store.show(row.id, caller.user)], headers)
            )
        fields = ("id", "session", "created", "touched", "closed", "turns")
        data = [{"object": "conversation"} | {name: getattr(row, name) for name in fields} for row in rows]
        return JSONResponse({"object": "list", "data": data, "has_more": more, "last_id": last})

    async def conversation(self, request: Request) -> Response:
        """GET /v1/conversations/ID: its main line and its forks."""
        caller = self._keys.caller(request.headers)
        id = request.path_params["id"]
        whole = _jsonl(request.query_params.get("format"))

        def encoded() -> Response | None:
            lines = [_told(c, caller) for c in self._service.store.show(id, caller.user)]
            if not lines:
                return None
            return _lines(lines, {}) if whole else JSONResponse({"object": "conversation", "id": id, "lines": lines})

        if (reply := await self._read(encoded)) is None:
            raise BadRequest(f"There is no conversation {id[:100]}.", status=404, type="not_found_error")
        return reply

    async def _read(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._service.readers, work)


def _jsonl(format: str | None) -> bool:
    if format not in (None, "", "json", "jsonl"):
        raise BadRequest("format must be json or jsonl.", param="format")
    return format == "jsonl"


def _told(conversation: Conversation, caller: Caller) -> dict[str, Any]:
    """All that is known of a conversation, but to admins alone why a vote failed: that may name the judge's address."""
    found = conversation_to_dict(conversation)
    failed = [vote for turn in found.get("turns", ()) for vote in turn.get("votes", ()) if vote["label"] is None]
    if not caller.admin:
        for vote in failed:
            vote["reason"] = ""
    return found


def _lines(rows: list[dict[str, Any]], headers: dict[str, str]) -> Response:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    return Response(text, media_type="application/jsonl", headers=headers)
