"""Tells the log, and a URL, what happens while nobody looks: a version, a rejection, a brake, a judge that is down.

Open it to add a kind of notice.

It looks at the store, so that nothing that learns or judges ever waits for whoever is told, and so that it sees what
other processes do. What happened before it began to look is not told.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx2

from talktune.errors import UserError
from talktune.store.changes import Latest, latest
from talktune.store.policies import Policies, version_name
from talktune.store.reactions import roles, waiting_for_judge
from talktune.store.store import Store

log = logging.getLogger(__name__)
LOOK_SECONDS = 2.0
DOWN_SECONDS = 300.0
"""A judge that gives no votes for so long is told of."""
POST_SECONDS = 5.0
TRIES = 5
"""How often one notice is posted before it is given up; the pauses between are the worker's."""
MOST_WAITING = 100


class Notices:
    """Watches the store, logs what is new, and posts it to a URL as JSON: `event`, `text`, `time` and more."""

    def __init__(self, store: Store, url: str | None, clock: Callable[[], float] = time.time) -> None:
        """Of this store; without a `url` the log alone is told."""
        self._store, self._url, self._clock = store, url, clock
        self._policies = Policies(store)
        self._waiting: deque[Mapping[str, Any]] = deque(maxlen=MOST_WAITING)
        self._posting: Mapping[str, Any] | None = None
        self._tries = 0
        self._began = clock()
        self._next_look = self._began + LOOK_SECONDS
        self._seen: Latest | None = None
        self._rejected: set[int] = set()
        self._down_since: float | None = None
        self._told_down = False
        self._look()

    def look(self) -> bool:
        """Look at the store when it is time to; always False, since there is never more to do at once."""
        if self._clock() >= self._next_look:
            self._look()
            self._next_look = self._clock() + LOOK_SECONDS
        return False

    def post(self) -> bool:
        """Post one notice, in a thread that may wait; UserError where it was not accepted, to be tried again later."""
        if self._posting is None:
            if not self._waiting:
                return False
            self._posting = self._waiting.popleft()
        self._post(self._posting)
        self._posting, self._tries = None, 0
        return True

    def _look(self) -> None:
        now, before = latest(self._store, ()), self._seen
        if before is None or _of_versions(now) != _of_versions(before):
            self._versions(now, before)
        self._seen = now
        self._judge()

    def _versions(self, now: Latest, before: Latest | None) -> None:
        rejected = {one.number: one for one in self._policies.versions() if one.state == "rejected"}
        if before is not None:
            known = {name: (number, why) for name, number, why in before.live}
            for name, number, why in now.live:
                live, stopped = known.get(name, (None, ""))
                if number != live:
                    version = None if number is None else version_name(number)
                    text = f"{version or 'the model as it was'} is live for {name or 'everybody'}"
                    self._notice("version", text, version=version, user=name or None)
                if why and why != stopped:
                    text = f"learning of {name or 'everybody'} is stopped: {why}"
                    self._notice("stopped", text, reason=why, user=name or None)
            for number in sorted(rejected.keys() - self._rejected):
                one = rejected[number]
                text = f"{one.name} is rejected: {one.reason}"
                self._notice("rejected", text, version=one.name, reason=one.reason, user=one.lineage or None)
        self._rejected = set(rejected)

    def _judge(self) -> None:
        """A judge is down while it says that it is in trouble, or says nothing though turns wait for it."""
        if (seen := roles(self._store).get("judge")) is None:
            return  # nobody ever judged here
        told, trouble = seen
        now, silent_since = self._clock(), max(told, self._began)
        waits = waiting_for_judge(self._store, None)
        if trouble:
            since = self._down_since = self._down_since or now
        elif waits and now - silent_since >= DOWN_SECONDS:
            since, trouble = silent_since, "none is at work on this store"
        else:
            since, self._down_since = now, None
            if self._told_down:
                self._notice("judge", "the judge is back", reason=None, waiting=waits)
            self._told_down = False
        if now - since >= DOWN_SECONDS and not self._told_down:
            self._told_down = True
            text = f"the judge gives no votes, {waits} turns wait for it: {trouble}"
            self._notice("judge", text, reason=trouble, waiting=waits)

    def _notice(self, event: str, text: str, **more: Any) -> None:
        log.warning("%s", text)
        if self._url is not None:
            self._waiting.append({"event": event, "text": text, "time": self._clock()} | more)

    def _post(self, notice: Mapping[str, Any]) -> None:
        assert self._url is not None
        try:
            with httpx2.stream("POST", self._url, json=notice, timeout=POST_SECONDS) as response:
                failure = "" if response.is_success else f"it answers {response.status_code}"
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
            failure = f"{type(error).__name__}: {error}"
        if not failure:
            return
        self._tries += 1
        again = self._tries < TRIES
        # Without its path: that of a webhook is as good as a key.
        whom = _host(self._url)
        log.warning("--notify: %s took no notice (%s)%s", whom, failure, "" if again else "; it is given up")
        if again:
            raise UserError(f"--notify: {whom} took no notice ({failure})")


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or "it"
    except ValueError:
        return "it"


def _of_versions(found: Latest) -> tuple[object, ...]:
    return found.versions, found.live
