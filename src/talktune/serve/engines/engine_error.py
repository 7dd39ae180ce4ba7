"""Errors of engines, as clients are told of them: the engine is gone, or it refused the request.

Open it to see which status a client gets when an engine fails.
"""

import json
from typing import Any

from talktune.serve.dialects.wire import BadRequest

RETRY = {"Retry-After": "2"}
STORE_DOWN = "The server cannot reach its database right now; try again in a moment."


class EngineError(Exception):
    """The engine cannot be reached, or failed; the client may try again. The client gets `status`."""

    def __init__(
        self,
        message: str,
        status: int = 503,
        *,
        broken_off: bool = False,
        gone: bool = False,
        retry_after: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.broken_off = broken_off
        """True when its answer stopped coming, rather than that it said what failed."""
        self.gone = gone or broken_off
        """True when nothing may be there any more, rather than that it said what failed."""
        self.headers = {"Retry-After": retry_after} if retry_after else RETRY if status == 503 else {}
        self.body = {"error": {"message": message, "type": "engine_error", "param": None, "code": "engine_unavailable"}}


def refusal(status: int, body: bytes, retry_after: str | None = None) -> Exception:
    """The engine's refusal in OpenAI's form, with its own word on when to try again."""
    try:
        raw: Any = json.loads(body)
    except (ValueError, RecursionError):
        raw = {}
    error: Any = (raw.get("error") or raw) if isinstance(raw, dict) else {}
    said = error.get("message", error.get("detail")) if isinstance(error, dict) else error
    message = str(said or f"The engine answered with status {status}.")[:2000]
    if status in (401, 403):
        return EngineError("The engine refused talktune's own key; set it with --upstream-key-env.", 502)
    if not 400 <= status < 500:
        return EngineError(message, 503 if status == 503 else 502, retry_after=retry_after)
    fields: Any = error if isinstance(error, dict) else {}
    code, kind, param = fields.get("code"), fields.get("type"), fields.get("param")
    return BadRequest(
        message,
        status=status,
        type=kind if isinstance(kind, str) else "invalid_request_error",
        code=code if isinstance(code, str) else None,
        param=param if isinstance(param, str) else None,
        retry_after=retry_after or (RETRY["Retry-After"] if status == 429 else None),
    )
