"""While PostgreSQL is down: 503 with Retry-After, in words; afterwards everything goes on."""

from collections.abc import Callable
from typing import Any

import httpx2


def test_requests_are_told_to_come_again(cluster: Any, engine: Any, start_server: Callable[..., Any]) -> None:
    engine.says("I am fine")
    asked = {"messages": [{"role": "user", "content": "How are you?"}]}

    with (
        start_server(cluster.url, "--upstream", engine.url) as running,
        httpx2.Client(base_url=running.url, timeout=30) as client,
    ):
        assert client.post("/v1/chat/completions", json=asked).status_code == 200
        cluster.stop()
        try:
            refused = [client.post("/v1/chat/completions", json=asked), client.get("/v1/conversations")]
            refused += [client.post("/v1/feedback", json={"completion_id": "x", "thumbs": "up"})]
            assert client.get("/healthz").status_code == 200
        finally:
            cluster.start()
        for reply in refused:
            assert reply.status_code == 503, reply.text
            assert int(reply.headers["Retry-After"]) > 0
            assert "database" in reply.json()["error"]["message"]
        assert client.post("/v1/chat/completions", json=asked).status_code == 200
        assert len(client.get("/v1/conversations").json()["data"]) == 2
