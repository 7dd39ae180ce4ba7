"""What must be refused is refused with the right status, and others are served meanwhile."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from talktune.serve import timed_protocol

HI = {"role": "user", "content": "Hi"}
NO_ENGINE = ("--upstream", "http://127.0.0.1:9")


@pytest.fixture(scope="module")
def shared(start_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server without an engine: what is refused never gets that far."""
    with start_server(tmp_path_factory.mktemp("s") / "s.db", *NO_ENGINE) as running:
        yield running


def post(server: Any, content: bytes, **headers: str) -> httpx2.Response:
    headers = {"content-type": "application/json"} | headers
    return httpx2.post(f"{server.url}/v1/chat/completions", content=content, headers=headers, timeout=60)


@pytest.mark.parametrize(
    ("content", "status", "word"),
    [
        (b"", 400, "JSON"),
        (b"{", 400, "JSON"),
        (b"[]", 400, "object"),
        (b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}', 400, "UTF-8"),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', 400, "JSON"),
        (b'{"messages": [], "temperature": NaN}', 400, "NaN"),
        (b"[" * 100_000, 400, "nested"),
        (b'{"messages": ' + b"9" * 5000 + b"}", 400, "JSON"),
        (b'{"messages": []}', 400, "messages"),
        (b'{"messages": [1]}', 400, "message 1"),
        (b'{"messages": [{"role": "wizard", "content": ""}]}', 400, "wizard"),
        (json.dumps({"messages": [HI], "temperature": 3}).encode(), 400, "temperature"),
        (json.dumps({"messages": [HI], "temperature": True}).encode(), 400, "temperature"),
        (json.dumps({"messages": [HI], "n": 65}).encode(), 400, "n is 65"),
        (json.dumps({"messages": [HI], "seed": 2**64}).encode(), 400, "seed"),
        (json.dumps({"messages": [HI], "stream": "yes"}).encode(), 400, "stream"),
        (json.dumps({"messages": [HI], "tools": {}}).encode(), 400, "tools"),
        (json.dumps({"messages": [HI], "turn_type": "both"}).encode(), 400, "turn type"),
        (json.dumps({"messages": [HI], "session_id": "x" * 201}).encode(), 400, "session"),
        (json.dumps({"messages": [HI], "session_id": "a\nb"}).encode(), 400, "session"),
        (json.dumps({"messages": [HI] * 10_001}).encode(), 400, "10001"),
    ],
)
def test_bad_bodies(shared: Any, content: bytes, status: int, word: str) -> None:
    reply = post(shared, content)
    assert reply.status_code == status
    assert word in reply.json()["error"]["message"]


def test_a_million_messages(shared: Any) -> None:
    many = b'{"messages":[' + b",".join([b'{"role":"user"}'] * 10**6) + b"]}"
    reply = post(shared, many[: 16 << 20])
    assert reply.status_code == 400  # cut at the limit of the body, it is no JSON
    assert httpx2.get(f"{shared.url}/healthz").status_code == 200
    reply = post(shared, b'{"messages":[' + b",".join([b"0"] * 10**6) + b"]}")
    assert reply.status_code == 400
    assert "1000000" in reply.json()["error"]["message"]


def test_a_gigabyte_is_refused_unread_while_others_are_served(shared: Any) -> None:
    host, port = shared.url[7:].split(":")
    for head in (b"Content-Length: 1073741824", b"Transfer-Encoding: chunked"):
        with socket.create_connection((host, int(port)), timeout=30) as s:
            s.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\n\r\n")
            piece = b"x" * (1 << 20)
            framed = b"100000\r\n" + piece + b"\r\n" if b"chunked" in head else piece
            sent = 0
            try:
                for _ in range(1024):
                    s.sendall(framed)
                    sent += 1
                    if sent == 8:
                        assert httpx2.get(f"{shared.url}/healthz").status_code == 200
            except OSError:
                pass  # it hung up on us
            assert sent < 200
            assert b" 413 " in s.recv(4096) or sent < 200


def test_slow_heads_and_bodies(start_server: Any, tmp_path: Path) -> None:
    assert timed_protocol.HEAD_SECONDS <= 30
    hurry = "from talktune.serve import app, timed_protocol\ntimed_protocol.HEAD_SECONDS = app.BODY_SECONDS = 0.5"
    with start_server(tmp_path / "s.db", *NO_ENGINE, before=hurry) as server:
        host, port = server.url[7:].split(":")
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        starts = (b"", head[:20], head + b"X:", head + b"Content-Length: 100\r\n\r\n{")
        slow: list[socket.socket] = []
        for i in range(200):
            slow.append(socket.create_connection((host, int(port)), timeout=20))
            slow[-1].sendall(starts[i % 4])
        assert httpx2.get(f"{server.url}/healthz").status_code == 200
        for s in slow:
            assert b" 408 " in s.recv(4096)
            s.close()
        assert httpx2.get(f"{server.url}/healthz").status_code == 200


@pytest.mark.parametrize(
    "id", ["../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%00", "' OR 1=1 --", "a" * 5000, "💥", "%ff"]
)
def test_path_tricks(shared: Any, id: str) -> None:
    assert httpx2.get(f"{shared.url}/v1/conversations/{id}").status_code == 404


@pytest.mark.parametrize("limit", ["0", "-1", "1001", "x", "9" * 100, "²", ""])
def test_bad_pages(shared: Any, limit: str) -> None:
    reply = httpx2.get(f"{shared.url}/v1/conversations", params={"limit": limit})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "limit")


def test_a_web_page_cannot_talk_to_a_server_without_a_key(shared: Any) -> None:
    body = json.dumps({"messages": [HI]}).encode()
    assert post(shared, body, Origin="https://evil.example").status_code == 403
    assert post(shared, body, Host="evil.example").status_code == 403
    assert post(shared, body, Origin="http://localhost:5173").status_code == 503  # it gets as far as the engine
    reply = httpx2.options(f"{shared.url}/v1/chat/completions", headers={"Origin": "https://evil.example"})
    assert not [name for name in reply.headers if name.startswith("access-control")]


def test_feedback_that_cannot_be(shared: Any) -> None:
    for body in ({}, {"completion_id": "x"}, {"completion_id": "x", "score": 2}, {"completion_id": "x", "thumbs": "?"}):
        assert httpx2.post(f"{shared.url}/v1/feedback", json=body).status_code == 400
    assert httpx2.post(f"{shared.url}/v1/feedback", json={"completion_id": "x", "score": 1}).status_code == 404


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_no_key_no_other_address(host: str, talktune: Any, tmp_path: Path) -> None:
    said = talktune("serve", "--host", host, "--store", tmp_path / "s.db", *NO_ENGINE)
    assert "TALKTUNE_API_KEY" in said.sentence
    assert not (tmp_path / "s.db").exists()


@pytest.mark.parametrize(
    ("text", "word"), [("", "no key"), ("ann", "line 1"), ("ann k\nbob k", "line 2"), ("a b c", "line 1")]
)
def test_bad_key_files(text: str, word: str, talktune: Any, tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(text)
    assert word in talktune("serve", "--keys", path, "--store", tmp_path / "s.db", *NO_ENGINE).sentence


def test_other_mistakes_at_the_start(tmp_path: Path, shared: Any) -> None:
    """In a process each: some are found when half of the server is there already."""
    port = shared.url.rpartition(":")[2]
    for options, word in (
        (("--keys", str(tmp_path / "none"), *NO_ENGINE), "cannot be read"),
        (("--port", port, *NO_ENGINE), "cannot listen"),
        (("--upstream", "ftp://x"), "--upstream"),
        (("--side-patterns", "(", *NO_ENGINE), "regular expression"),
        (("--store", str(tmp_path), *NO_ENGINE), "cannot be opened"),
    ):
        store = () if "--store" in options else ("--store", str(tmp_path / "s.db"))
        command = [sys.executable, "-m", "talktune", "serve", *store, *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, word in done.stderr, "Traceback" in done.stderr) == (2, True, False), done.stderr


def test_secrets_are_not_in_the_log(start_server: Any, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("ann sekret-1\n")
    command = [sys.executable, "-m", "talktune", "serve", "--port", "0", "--store", str(tmp_path / "s.db")]
    command += [*NO_ENGINE, "--keys", str(keys)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            first = ""
            while not (line := process.stdout.readline()).startswith("ready"):
                first += line
            url = line.split()[1]
            for key in ("sekret-1", "sekret-2"):
                headers = {"Authorization": f"Bearer {key}"}
                httpx2.post(f"{url}/v1/chat/completions", json={"messages": [HI]}, headers=headers)
            socket.create_connection(tuple(url[7:].split(":"))).close()
            process.terminate()
            rest = process.stderr.read() + process.stdout.read()
        finally:
            process.kill()
    assert "sekret" not in first + rest
