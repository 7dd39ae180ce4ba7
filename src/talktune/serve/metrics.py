"""The server's counters for Prometheus (https://prometheus.io/docs/practices/naming/).

Open it to look up what GET /metrics says.
"""

import logging
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from talktune.store.rows import Lost

log = logging.getLogger("talktune.serve")


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.turns = Counter("talktune_turns", "Turns committed, by kind", ["kind"], registry=self.registry)
        self.partial = Counter(
            "talktune_partial_turns", "Turns whose client left or engine failed", registry=self.registry
        )
        self.lost = Counter(
            "talktune_lost_histories",
            "Answers to requests with earlier answers in them that continue no known conversation, by why",
            ["why"],
            registry=self.registry,
        )
        for why in get_args(Lost):
            self.lost.labels(why)
        self._told = False
        self.running = Gauge("talktune_running_requests", "Chat requests being answered", registry=self.registry)
        self.first_token = Histogram(
            "talktune_first_token_seconds", "From request to first chunk of a stream", registry=self.registry
        )
        self.commit = Histogram(
            "talktune_commit_seconds",
            "A turn's way onto the disk",
            registry=self.registry,
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0),
        )

    def placed(self, lost: Lost | None) -> None:
        """Count an answer whose conversation was lost; the first one is told in the log."""
        if lost is None:
            return
        self.lost.labels(lost).inc()
        if not self._told:
            self._told = True
            log.warning(
                "A request has answers in its history that %s, so no reaction in it is learned from; `talktune status` "
                "and /metrics count such requests. Does the client rewrite what was answered? An X-Session-Id helps.",
                "no known conversation has" if lost == "unknown" else "several conversations have alike",
            )

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self.registry)
