"""What a client is told when a request fails: errors in words, in the dialect of the route.

Open it to change what an error says, or with which status.
"""

import logging
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from talktune.errors import StoreDownError
from talktune.serve.body import CLOSE
from talktune.serve.dialects import anthropic
from talktune.serve.dialects.wire import BadRequest
from talktune.serve.engines.engine_error import RETRY, STORE_DOWN, EngineError

log = logging.getLogger("talktune.serve")


def error_handlers(routes: str) -> dict[Any, Any]:
    """What answers each kind of error; `routes` are those that there are, in words."""

    async def no_route(request: Request, error: Exception) -> Response:
        return _no_route(request, error, routes)

    return {
        BadRequest: _refused,
        EngineError: _engine_failed,
        StoreDownError: _store_down,
        HTTPException: no_route,
        ClientDisconnect: _gone,
        500: _broken,
    }


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, BadRequest)
    headers = CLOSE if error.status in (408, 413) else error.headers or (RETRY if error.status == 429 else {})
    if error.status == 401:
        headers = {"WWW-Authenticate": "Bearer"}
    return _error(request, error.status, error.body, headers)


async def _engine_failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, EngineError)
    return _error(request, error.status, error.body, error.headers)


async def _store_down(request: Request, error: Exception) -> Response:
    log.error("%s", error)
    failed = EngineError(STORE_DOWN)
    return _error(request, failed.status, failed.body, failed.headers)


def _no_route(request: Request, error: Exception, there: str) -> Response:
    assert isinstance(error, HTTPException)
    method, path, headers = request.method, request.url.path[:200], dict(error.headers or {})
    message = error.detail
    if error.status_code == 404:
        message = f"There is no route {path}; there are: {there}."
    elif error.status_code == 405 and "access-control-request-method" in request.headers:
        message = "Web pages of other origins may not talk to this server: start it with --allow-origin ORIGIN."
    elif error.status_code == 405:
        message = f"{method} cannot be used on {path}; {headers.get('Allow', 'another method')} can."
    body = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}
    return _error(request, error.status_code, body, headers)


def _error(request: Request, status: int, body: dict[str, Any], headers: dict[str, str]) -> Response:
    """An error in the dialect of the route; models are asked for in both."""
    path = request.url.path
    models = path.startswith("/v1/models") and "anthropic-version" in request.headers
    said = anthropic.error(status, body) if models or path.startswith("/v1/messages") else body
    return JSONResponse(said, status, headers)


async def _gone(_request: Request, _error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it: nginx's code for a client that left


async def _broken(request: Request, _failure: Exception) -> Response:
    body = {"message": "The server failed; its log says why.", "type": "internal_error", "param": None, "code": None}
    return _error(request, 500, {"error": body}, {})
