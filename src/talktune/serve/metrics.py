"""What the server counts, for Prometheus (https://prometheus.io/docs/practices/naming/)."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.turns = Counter("talktune_turns", "Turns committed, by kind", ["kind"], registry=self.registry)
        self.partial = Counter(
            "talktune_partial_turns", "Turns whose client left or engine failed", registry=self.registry
        )
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

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self.registry)
