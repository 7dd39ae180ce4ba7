"""Clients that talk to a server until they are told to stop, and remember what they saw the end of."""

import json
import threading
import time
from typing import Any

import httpx2

CLIENTS = 8


class Load:
    """Clients that talk and talk, with pauses of so many seconds; `seen` has the answers whose end they saw."""

    def __init__(self, url: str, pause: float = 0.0) -> None:
        self.url = url
        self.pause = pause
        self.seen: dict[str, str] = {}
        self.broken = 0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._talk, args=(i,)) for i in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def wait_for(self, more: int, seconds: float) -> None:
        """Until they saw the end of some answers more; at least one must come in that time."""
        before, give_up = len(self.seen), time.monotonic() + seconds
        while len(self.seen) < before + more and time.monotonic() < give_up:
            time.sleep(0.02)
        assert len(self.seen) > before, "nobody was served any more"

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _talk(self, number: int) -> None:
        messages: list[Any] = []
        turn = 0
        while not self._stop.is_set():
            turn += 1
            if turn % 4 == 0:
                messages = []
            messages.append({"role": "user", "content": f"client {number}, turn {turn}"})
            try:
                id, answer = self._ask(messages)
            except (httpx2.HTTPError, ValueError):
                self.broken += 1
                time.sleep(0.05)
                messages = []
                continue
            self.seen[id] = answer
            messages.append({"role": "assistant", "content": answer})
            self._stop.wait(self.pause)

    def _ask(self, messages: list[Any]) -> tuple[str, str]:
        body = {"messages": messages, "stream": True, "max_tokens": 12}
        answer, id, finished = "", "", False
        with httpx2.stream("POST", f"{self.url}/v1/chat/completions", json=body, timeout=30) as reply:
            if reply.status_code != 200:
                raise ValueError("refused")
            for line in reply.iter_lines():
                if not line or line == "data: [DONE]":
                    continue
                chunk = json.loads(line[6:])
                if "error" in chunk:
                    raise ValueError("broken off")
                answer += chunk["choices"][0]["delta"].get("content") or ""
                id = chunk["id"]
                finished = finished or chunk["choices"][0]["finish_reason"] is not None
        if not finished:
            raise ValueError("cut short")
        return id, answer
