"""JSON of requests, for the server and the host: read strictly, fields checked, errors in words (BadRequest).

Open it to see what is refused before anything else looks at it.
"""

import json
from typing import Any, cast

DEEPEST = 100
"""Levels of a body. Python stops at a thousand, less what its caller has used up, and templates and engines sooner."""
LOWEST = -9999.0
"""What engines write in JSON, which has no infinities, for a token that could not come."""


class BadRequest(Exception):
    """What is wrong with a request, in a sentence, with the HTTP status and OpenAI's words for it."""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        status: int = 400,
        type: str = "invalid_request_error",
        code: str | None = None,
        retry_after: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {"Retry-After": retry_after} if retry_after else {}
        self.body = {"error": {"message": message, "type": type, "param": param, "code": code}}


class Fields:
    """A JSON object whose fields are checked as they are read; null is as good as absent."""

    def __init__(self, raw: dict[str, Any]) -> None:
        self.raw = raw

    def get(self, name: str, kind: type) -> Any:
        """The field, None where absent; raises BadRequest when it is of another type."""
        value = self.raw.get(name)
        if value is not None and not isinstance(value, kind):
            raise BadRequest(f"{name} must be {WORDS[kind]}.", param=name)
        return value

    def number(self, name: str, kind: type, low: float | None, high: float | None) -> Any:
        """The number, None where absent; raises BadRequest outside of `low` … `high`."""
        value = self.raw.get(name)
        if value is None:
            return None
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        if isinstance(value, bool) or not isinstance(value, int | float) or (kind is int and not whole):
            raise BadRequest(f"{name} must be {WORDS[kind]}.", param=name)
        # The comparison is false for NaN too.
        if not ((low is None or value >= low) and (high is None or value <= high)) or value != value:
            limits = f"at least {low}" if high is None else f"between {low} and {high}"
            raise BadRequest(f"{name} is {value}, and must be {limits}.", param=name)
        return kind(value)


WORDS = {
    bool: "true or false",
    str: "text",
    int: "a whole number",
    float: "a number",
    dict: "an object",
    list: "a list",
}


def read_json(body: bytes) -> object:
    """The JSON value of a body in UTF-8; raises BadRequest for anything else, NaN and lone surrogates included."""
    try:
        text = body.decode()
        value: object = _JSON.decode(text)
        if text.count("[") + text.count("{") > DEEPEST and _deeper(value, DEEPEST):
            raise RecursionError
        if "\\u" in text:  # an escape may be half of a pair
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise BadRequest(f"The body is nested too deeply: at most {DEEPEST} levels are taken.") from error
    except ValueError as error:
        raise BadRequest(f"The body is not JSON in UTF-8 ({str(error)[:200]}).") from error
    return value


def write_json(value: object) -> bytes:
    """The value as JSON in UTF-8, with no more space than it needs; ValueError for numbers that JSON does not have."""
    return _WRITTEN(value).encode()


def _deeper(value: object, most: int) -> bool:
    """Whether there are lists and objects in one another on more than so many levels."""
    level = [value]
    for _ in range(most):
        inner: list[Any] = []
        for one in level:
            if isinstance(one, dict | list):
                inner += cast(Any, one).values() if isinstance(one, dict) else one
        level = [one for one in inner if isinstance(one, dict | list)]
        if not level:
            return False
    return True


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not a JSON number")


_JSON = json.JSONDecoder(parse_constant=_refuse_constant)
"""Made once: `json.loads` would make one for each request."""
_WRITTEN = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def read_object(body: bytes) -> dict[str, Any]:
    """The JSON object that a body is; BadRequest for anything else."""
    raw = read_json(body)
    if not isinstance(raw, dict):
        raise BadRequest("The body must be a JSON object.")
    return cast(dict[str, Any], raw)
