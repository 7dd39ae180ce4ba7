"""An engine of somebody else's gets only the fields of a request that are known, and is made to fetch nothing."""

from pathlib import Path
from typing import Any

import httpx2
import pytest

from ..conftest import serving

HI = {"role": "user", "content": "Hi"}
HOSTILE: dict[str, Any] = {
    "chat_template": "{{ 'x' * 10**10 }}",
    "documents": [{"title": "a", "text": "b"}],
    "lora": [{"id": 0, "scale": 9}],
    "lora_path": "/etc",
    "logits_processors": ["os.system"],
    "custom_logit_processor": "gASV",
    "mm_processor_kwargs": {"a": 1},
    "kv_transfer_params": {"remote_host": "10.0.0.1"},
    "vllm_xargs": {"a": "b"},
    "priority": -99,
    "cache_salt": "ann",
}


@pytest.fixture(params=[None, {"version": "0.11"}], ids=["unknown", "vllm"])
def dialect(request: Any, engine: Any) -> Any:
    engine.version = request.param
    return engine


def ask(server: Any, path: str = "chat/completions", **body: Any) -> httpx2.Response:
    return httpx2.post(f"{server.url}/v1/{path}", json={"messages": [HI], "max_tokens": 3} | body, timeout=30)


def test_unknown_fields_stay_here(dialect: Any, tmp_path: Path) -> None:
    with serving(tmp_path / "s.db", "--upstream", dialect.url) as server:
        switches = {"enable_thinking": False, "chat_template": "evil", "tokenize": True, "thinking": {"a": 1}}
        assert ask(server, **HOSTILE, chat_template_kwargs=switches, min_p=0.1, top_k=4).status_code == 200
        assert ask(server, chat_template_kwargs={"chat_template": "evil"}).status_code == 200
    first, second = dialect.asked
    assert not HOSTILE.keys() & first.keys()
    assert first["chat_template_kwargs"] == {"enable_thinking": False}
    assert (first["min_p"], first["top_k"]) == (0.1, 4)
    assert "chat_template_kwargs" not in second


def test_an_option_lets_more_of_them_pass(dialect: Any, tmp_path: Path) -> None:
    options = [word for name in ("documents", "chat_template_kwargs", "image_url") for word in ("--forward", name)]
    with serving(tmp_path / "s.db", "--upstream", dialect.url, *options) as server:
        picture = {"type": "image_url", "image_url": {"url": "http://10.0.0.1/a.png"}}
        messages = [{"role": "user", "content": [picture]}]
        assert ask(server, messages=messages, **HOSTILE, chat_template_kwargs={"a": "b"}).status_code == 200
    (asked,) = dialect.asked
    assert HOSTILE.keys() & asked.keys() == {"documents"}
    assert asked["chat_template_kwargs"] == {"a": "b"}
    assert asked["messages"] == messages


@pytest.mark.parametrize("url", ["http://169.254.169.254/latest", "https://x/y", "file:///etc/passwd", "/etc/passwd"])
def test_an_engine_is_sent_nowhere(url: str, dialect: Any, tmp_path: Path) -> None:
    parts: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "image_url", "image_url": url},
        {"type": "audio_url", "audio_url": {"url": url}},
        {"type": "video_url", "video_url": {"url": url}},
    ]
    with serving(tmp_path / "s.db", "--upstream", dialect.url) as server:
        for part in parts:
            reply = ask(server, messages=[{"role": "user", "content": [part]}])
            assert reply.status_code == 400, part
            assert f"--forward {part['type']}" in reply.json()["error"]["message"]
        untold = {"image_url": {"url": url}}
        assert ask(server, messages=[{"role": "user", "content": [untold]}]).status_code == 400
        block = {"type": "image", "source": {"type": "url", "url": url}}
        assert ask(server, "messages", messages=[{"role": "user", "content": [block]}]).status_code == 400
        told = [{"role": "user", "content": [{"type": "input_image", "image_url": url}]}]
        assert ask(server, "responses", input=told).status_code == 400
        assert not dialect.asked
        data = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
        text = {"type": "text", "text": f"What is at {url}?"}
        assert ask(server, messages=[{"role": "user", "content": [text, data]}]).status_code == 200
        assert ask(server, messages=[{"role": "user", "content": ["a text by itself"]}]).status_code < 500
