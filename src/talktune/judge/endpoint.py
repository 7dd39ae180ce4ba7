"""A judge behind any OpenAI-compatible server: chat completions, many at once, each ending in a boxed score.

Open it to see what happens when that server fails.

Retried, with exponential backoff and jitter or after the server's own Retry-After: 408, 409, 429, 5xx,
timeouts and broken connections. What still fails is a failed vote with its reason. Statuses that no retry can
mend (a wrong key, a wrong URL, an unknown model) stop the work at once with a UserError.
"""

import asyncio
import os
import random
import time
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2

from talktune.errors import UserError
from talktune.judge.boxed import boxed_messages, parse_boxed
from talktune.types import Turn, Vote

FIRST_WAIT = 0.5
"""Seconds before the first retry; doubles with each."""
LONGEST_WAIT = 60.0
"""Seconds: backoff grows no further, and a longer Retry-After is not waited for, the vote fails."""
LONGEST_CONNECT = 10.0
"""Seconds within which a server must take a connection, however long its answer may take."""
_RETRIED = {408, 409, 429}
_FATAL = {301, 302, 307, 308, 401, 402, 403, 404, 405}
_JITTER = random.Random()  # of its own: no draw here may move the seeded global one


@dataclass(frozen=True, slots=True)
class _Problem:
    reason: str
    retry: bool = False
    unreachable: bool = False
    wait: float | None = None
    """What the server asks to wait, in seconds."""


class EndpointJudge:
    """Asks a model on an OpenAI-compatible server, one chat completion a vote.

    `url` is the base URL that ends in `/v1`. The key is read from the environment variable `key_env` when it
    is set; it is sent to that server and stands nowhere else. `timeout` bounds one call in seconds, `retries`
    is how often it is tried again, `concurrency` how many calls are under way at once.

    >>> judge = EndpointJudge("http://127.0.0.1:8000/v1", "qwen3")
    >>> judge.name
    'endpoint:qwen3'
    >>> turns = score(load_conversations("examples/conversations.jsonl"), judge)  # doctest: +SKIP
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key_env: str = "OPENAI_API_KEY",
        timeout: float = 60.0,
        retries: int = 3,
        temperature: float = 0.7,
        max_tokens: int = 2048,
        concurrency: int = 16,
    ) -> None:
        """Make the judge, without a call; raises UserError for a URL or a key that cannot be one."""
        self.name = f"endpoint:{model}"
        self._url, self._shown_url = _chat_url(url)
        self._key_env = key_env
        self._key = os.environ.get(key_env, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise UserError(f"The key in the environment variable {key_env} has characters that no key has.")
        self._timeout = timeout
        self._retries = retries
        self._concurrency = concurrency
        self._settings: dict[str, Any] = {
            "model": model,
            "temperature": temperature,
            "max_tokens": max_tokens,
        }
        # After a call that found nobody through all of its retries, calls are tried once until one is
        # answered: a long file does not wait out the backoff turn by turn while the server is down.
        self._unreachable = False

    def vote(self, asks: Sequence[tuple[Turn, int]]) -> list[Vote]:
        """One vote for each (turn, vote number), in order; raises UserError for what no retry can mend."""
        return _run(self._ask_all([turn for turn, _ in asks]))

    async def _ask_all(self, turns: Sequence[Turn]) -> list[Vote]:
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        limits = httpx2.Limits(max_connections=self._concurrency)
        timeout = httpx2.Timeout(self._timeout, connect=LONGEST_CONNECT)
        gate = asyncio.Semaphore(self._concurrency)
        try:
            async with (
                httpx2.AsyncClient(timeout=timeout, headers=headers, limits=limits) as client,
                asyncio.TaskGroup() as group,
            ):
                tasks = [group.create_task(self._ask(client, gate, turn)) for turn in turns]
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _ask(self, client: httpx2.AsyncClient, gate: asyncio.Semaphore, turn: Turn) -> Vote:
        """One vote, with retries; its place at the gate is kept between them: a busy server is asked less."""
        messages = boxed_messages(turn)
        async with gate:
            tries = 0
            while True:
                answer = await self._call(client, messages)
                tries += 1
                if isinstance(answer, Vote):
                    self._unreachable = False
                    return answer
                wait = answer.wait
                if wait is None:
                    wait = min(FIRST_WAIT * 2 ** (tries - 1), LONGEST_WAIT) * _JITTER.uniform(0.5, 1.0)
                again = answer.retry and tries <= self._retries and wait <= LONGEST_WAIT
                if not again or (answer.unreachable and self._unreachable):
                    self._unreachable = answer.unreachable
                    times = f" ({tries} tries)" if tries > 1 else ""
                    return self._failed(answer.reason + times)
                await asyncio.sleep(wait)

    async def _call(self, client: httpx2.AsyncClient, messages: list[dict[str, str]]) -> Vote | _Problem:
        body = {**self._settings, "messages": messages}
        try:
            # httpx2's own timeouts are per read: a server that trickles would never end.
            async with asyncio.timeout(self._timeout):
                response = await client.post(self._url, json=body)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            reason = f"{self._shown_url} cannot be reached: {_why_unreachable(error)}"
            return _Problem(reason, retry=True, unreachable=True)
        except (TimeoutError, httpx2.TimeoutException):
            return _Problem(f"{self._shown_url} gave no answer within {self._timeout:g} s", retry=True)
        except httpx2.RequestError as error:
            what = str(error) or type(error).__name__
            return _Problem(f"{self._shown_url} broke the connection: {what}", retry=True)
        if response.status_code == 200:
            return self._read(response)
        said = self._said(response)
        if response.status_code == 400 and self._adapt(body, said):
            return await self._call(client, messages)
        return self._refused(response, said)

    def _refused(self, response: httpx2.Response, said: str) -> _Problem:
        status = response.status_code
        if status in _FATAL:
            remedy = self._remedy(status)
            raise UserError(f"Judge endpoint {self._shown_url} answered {status} {said}: {remedy}.")
        reason = f"{self._shown_url} answered {status} {said}"
        wait = _retry_after(response.headers.get("retry-after"))
        return _Problem(reason, retry=status in _RETRIED or status >= 500, wait=wait)

    def _remedy(self, status: int) -> str:
        if status in (401, 402, 403):
            holder = f"the environment variable {self._key_env}"
            return f"check the key in {holder}" if self._key else f"put the key in {holder}, which is empty"
        model = self._settings["model"]
        return f"check judge_url (the base URL, such as http://127.0.0.1:8000/v1) and judge_model ({model!r})"

    def _adapt(self, body: dict[str, Any], said: str) -> bool:
        """Leave out what the model refuses: OpenAI's reasoning models take no max_tokens, no temperature."""
        if "nsupported" in said and "max_completion_tokens" in said and "max_tokens" in body:
            self._settings.pop("max_tokens", None)
            self._settings["max_completion_tokens"] = body["max_tokens"]
            return True
        if "nsupported" in said and "temperature" in said and "temperature" in body:
            self._settings.pop("temperature", None)
            return True
        return False

    def _read(self, response: httpx2.Response) -> Vote | _Problem:
        try:
            choice = response.json()["choices"][0]
            text = str(choice["message"].get("content") or "")
        except (ValueError, LookupError, TypeError, AttributeError):
            return _Problem(f"{self._shown_url} answered something that is no chat completion: {_short(response.text)}")
        label = parse_boxed(text)
        if label is not None:
            return Vote(label, judge=self.name, reason=_short(text, 1000))
        cut = " (cut off at the token limit)" if choice.get("finish_reason") == "length" else ""
        return self._failed(f"the reply holds no score{cut}: {_short(text)}")

    def _failed(self, reason: str) -> Vote:
        return Vote(None, judge=self.name, reason=reason)

    def _said(self, response: httpx2.Response) -> str:
        """The server's own words about an error, without the key, which some servers repeat."""
        try:
            error = response.json()["error"]
            text = str(error["message"] if isinstance(error, dict) else error)
        except (ValueError, LookupError, TypeError):
            text = response.text
        text = text.replace(self._key, "…") if self._key else text
        return f"({_short(text)})" if text.strip() else f"({response.reason_phrase})"


def _chat_url(url: str) -> tuple[httpx2.URL, str]:
    """The URL to call, and how messages show it: without a user name, a password or a query."""
    try:
        base = httpx2.URL(url.strip())
    except httpx2.InvalidURL as error:
        raise UserError(f"judge_url {url!r} is no URL ({error}): write http://host:port/v1.") from None
    if base.scheme not in ("http", "https") or not base.host:
        raise UserError(f"judge_url {url!r} is no http(s) URL: write http://host:port/v1.")
    path = base.path.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"
    full = base.copy_with(path=path)
    return full, str(full.copy_with(userinfo=b"", query=None))


def _retry_after(value: str | None) -> float | None:
    """Seconds that a Retry-After header asks for: a number or an HTTP date (RFC 9110, section 10.2.3)."""
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _why_unreachable(error: BaseException) -> str:
    """The operating system's reason under a connection error: httpx2's own words do not say it."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, OSError):
        found = found.__cause__ or found.__context__
    while found is not None and found.__cause__ is not None:
        found = found.__cause__
    if isinstance(found, OSError) and found.errno and "Connect call failed" in str(found):
        return os.strerror(found.errno)
    return str(found or error) or type(error).__name__


def _short(text: str, limit: int = 200) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[:limit] + "…"


def _run(work: Coroutine[Any, Any, list[Vote]]) -> list[Vote]:
    """Run a coroutine to its end, also where an event loop is already running (a notebook)."""
    if not _in_a_loop():
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


def _in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
