"""`talktune chat --url` and `talktune feedback`: to a real server, and to one that stops in the middle."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from talktune.store import schema
from talktune.store.store import Store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("remote") / "store.db"


@pytest.fixture(scope="module")
def url(store: Path, tiny_model: Path) -> Iterator[str]:
    """A server that asks for a key."""
    options = ("--port", "0", "--store", store, "--model", tiny_model, "--no-judge", "--no-learn")
    process = subprocess.Popen(
        [sys.executable, "-m", "talktune", "serve", *map(str, options), "--max-answer-tokens", "12"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"TALKTUNE_API_KEY": "secret"},
    )
    assert process.stdout is not None
    with process:
        try:
            line = process.stdout.readline()
            assert line.startswith("ready "), line
            yield line.split()[1]
        finally:
            process.terminate()


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALKTUNE_API_KEY", "secret")


def kept(store: Path) -> tuple[list[Any], dict[str, float], dict[str, str]]:
    opened = Store(store)
    t, f = schema.turns.c, schema.feedback.c
    with opened.reading() as c:
        turns = c.execute(select(t.id, t.parent, t.conversation, t.messages).order_by(t.created)).all()
        said = c.execute(select(f.turn, f.score, f.better)).all()
    opened.close()
    wanted = {row.turn: json.loads(row.better) for row in said if row.better}
    return list(turns), {row.turn: row.score for row in said}, wanted


@pytest.mark.usefixtures("key")
def test_a_talk_with_a_running_server(talktune: Any, url: str, store: Path) -> None:
    said = talktune(
        "chat", "--url", url, stdin="/good\nOne?\n/good\nTwo?\n/bad\n/undo\n/3/ is a path\n/say Just this.\n/what\n"
    )
    assert said.code == 0, said.err
    turns, scores, wanted = kept(store)
    assert [json.loads(turn.messages)[0]["content"] for turn in turns] == ["One?", "Two?", "/3/ is a path"]
    first, second, third = turns
    assert second.parent == third.parent == first.id, "/undo goes on behind the answer before"
    assert len({turn.conversation for turn in turns}) == 1
    assert scores == {first.id: 1.0, second.id: -1.0, third.id: -1.0}
    assert wanted == {third.id: "Just this."}
    assert "/good: there is no answer yet" in said.err
    assert "Taken back: Two?" in said.err
    assert "There is no /what: /good and /bad judge the last answer" in said.err

    told = talktune("feedback", first.id, "down", "--url", url + "/v1")
    assert told.code == 0, told.err
    assert kept(store)[1][first.id] == -1.0
    assert "There is no answer t7" in talktune("feedback", "t7", "up", "--url", url).sentence


def test_what_a_server_refuses_is_said(talktune: Any, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TALKTUNE_API_KEY", raising=False)
    refused = talktune("chat", "--url", url, stdin="Hello\n").sentence
    assert "The API key is missing or not known" in refused
    assert "the environment variable TALKTUNE_API_KEY" in refused
    nobody = "http://127.0.0.1:9"
    assert "no server answers there; start `talktune serve`" in talktune("chat", "--url", nobody).sentence
    assert "no server answers there" in talktune("feedback", "a", "up", "--url", nobody).sentence
    assert "write it like http://127.0.0.1:30000" in talktune("feedback", "a", "up", "--url", "here").sentence
    assert "give it alone" in talktune("chat", "--url", url, "--temperature", "0.1").sentence


class Stuck(BaseHTTPRequestHandler):
    """Sends the beginning of an answer, with a sequence that would clear the screen, and no more."""

    left = threading.Event()

    def do_GET(self) -> None:
        self._send(b'{"data": [{"id": "m"}]}', end=True)

    def do_POST(self) -> None:
        chunk = {"id": "a", "choices": [{"delta": {"content": "Well\x1b[2J, "}}]}
        self._send(b"data: " + json.dumps(chunk).encode() + b"\n\n", end=False)
        self.connection.recv(1)  # returns when the client hangs up
        self.left.set()

    def _send(self, body: bytes, *, end: bool) -> None:
        if self.headers.get("Content-Length"):
            self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        if end:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_ctrl_c_stops_the_answer_and_then_the_talk() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Stuck) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        talk = subprocess.Popen(
            [sys.executable, "-m", "talktune", "chat", "--url", url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with talk:
            assert talk.stdin
            assert talk.stdout
            assert talk.stderr
            talk.stdin.write("Hello\n")
            talk.stdin.flush()
            assert talk.stdout.read(6) == "Well\ufffd["
            talk.send_signal(signal.SIGINT)
            assert Stuck.left.wait(60), "the connection stays open"
            while "taken back" not in (line := talk.stderr.readline()):
                assert line, "it ended"
            talk.stdin.write("/good\n")
            talk.stdin.flush()
            assert "there is no answer yet" in talk.stderr.readline()
            talk.send_signal(signal.SIGINT)
            assert talk.wait(60) == 0
            assert "Traceback" not in talk.stderr.read()
        server.shutdown()
