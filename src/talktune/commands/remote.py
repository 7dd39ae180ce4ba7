"""A running `talktune serve`, as the terminal's commands talk to it."""

import json
import os
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import httpx2

from talktune.errors import UserError
from talktune.serve.keys import KEY_ENV

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 600.0
"""How long an answer's next piece may take: a large model reads a long prompt first."""


class Remote:
    """One server by its address; the key is that of the environment variable TALKTUNE_API_KEY.

    Everything raises UserError, in one sentence, where the server is not there or refuses.
    """

    def __init__(self, url: str) -> None:
        """`url` may end in /v1, as clients write it."""
        if not url.startswith(("http://", "https://")):
            raise UserError(f"--url {url}: write it like http://127.0.0.1:30000.")
        self.url = url.rstrip("/").removesuffix("/v1")
        key = os.environ.get(KEY_ENV, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise UserError(f"The key in the environment variable {KEY_ENV} has characters that no key has.")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        timeout = httpx2.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
        try:
            self._client = httpx2.Client(base_url=self.url, headers=headers, timeout=timeout)
        except httpx2.InvalidURL as error:
            raise UserError(f"--url {url}: is no address ({error}).") from error

    def __enter__(self) -> Self:
        """The server itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        self._client.close()

    def model(self) -> str:
        """The name that the live policy answers under."""
        try:
            return str(self._json("GET", "/v1/models")["data"][0]["id"])
        except (LookupError, TypeError) as error:
            raise UserError(f"{self.url}: it names no model; is it a `talktune serve`?") from error

    def feedback(self, id: str, **said: Any) -> None:
        """A person's own word on an answer."""
        self._json("POST", "/v1/feedback", {"completion_id": id} | said)

    def answer(self, model: str, messages: Sequence[dict[str, str]], session: str) -> Iterator[tuple[str, str]]:
        """Ask for an answer: its id with each piece of its text, as they come."""
        body = {"model": model, "messages": list(messages), "stream": True}
        headers = {"X-Session-Id": session}
        try:
            with self._client.stream("POST", "/v1/chat/completions", json=body, headers=headers) as response:
                if response.status_code != 200:
                    raise self._refusal(response.status_code, response.read())
                for line in response.iter_lines():
                    if not line.startswith("data:") or (data := line[5:].strip()) == "[DONE]":
                        continue
                    chunk = json.loads(data)
                    if "error" in chunk:
                        raise self._refusal(response.status_code, data.encode())
                    for choice in chunk.get("choices") or ():
                        yield chunk["id"], choice["delta"].get("content") or ""
        except (httpx2.HTTPError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise self._failure(error) from error

    def _json(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        try:
            response = self._client.request(method, path, json=body)
            if response.status_code != 200:
                raise self._refusal(response.status_code, response.content)
            return response.json()
        except (httpx2.HTTPError, ValueError) as error:
            raise self._failure(error) from error

    def _refusal(self, status: int, body: bytes) -> UserError:
        try:
            said = json.loads(body)["error"]["message"]
        except (ValueError, KeyError, TypeError):
            said = f"it answers {status}, which `talktune serve` would explain: is it one?"
        if status == 401:
            said = f"{said} `talktune` takes it from the environment variable {KEY_ENV}."
        return UserError(f"{self.url}: {said}")

    def _failure(self, error: Exception) -> UserError:
        if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
            return UserError(f"{self.url}: no server answers there; start `talktune serve`, or name it with --url.")
        return UserError(f"{self.url}: the answer broke off ({type(error).__name__}: {error}).")
