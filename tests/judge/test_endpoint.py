"""The endpoint judge against llama.cpp's own server, through a TCP proxy that can misbehave."""

import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import pytest

from talktune.errors import UserError
from talktune.judge import endpoint
from talktune.judge.endpoint import EndpointJudge
from talktune.judge.panel import judge_turns
from talktune.types import Message, Turn

TURN = Turn("c", 1, (Message("user", "2 + 2?"),), Message("assistant", "5"), (Message("user", "No, wrong."),))
KEY = "sekret-key"


class Proxy:
    """Takes connections on a port of its own and treats each as `script` says, in order of arrival.

    "forward" to the upstream server, "drop" without a word, "stall" without an answer, or answer with given
    bytes; the last entry holds for all later connections. With `gather` = n, nothing is forwarded or answered
    before n connections are open at once.
    """

    def __init__(self, upstream: str, script: Sequence[str | bytes], gather: int) -> None:
        host, _, port = upstream.removeprefix("http://").removesuffix("/v1").partition(":")
        self.upstream = (host, int(port or 0))
        self.script = script
        self.requests: list[bytes] = []
        self.seen = self.open = self.most_open = 0
        self.lock = threading.Lock()
        self.barrier = threading.Barrier(gather)
        self.sockets: list[socket.socket] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/v1"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                with self.lock:
                    action = self.script[min(self.seen, len(self.script) - 1)]
                    self.seen += 1
                    self.open += 1
                    self.most_open = max(self.most_open, self.open)
                    self.sockets.append(client)
                threading.Thread(target=self.serve, args=(client, action), daemon=True).start()

    def serve(self, client: socket.socket, action: str | bytes) -> None:
        with suppress(OSError, threading.BrokenBarrierError), client:
            if action == "drop":
                return self.left()
            request = client.recv(65536)
            while not complete(request):
                request += client.recv(65536)
            self.requests.append(request)
            self.barrier.wait(timeout=10)
            if isinstance(action, bytes):
                client.sendall(action)
            elif action == "stall":
                client.recv(1)
            else:
                self.forward(client, request)
        return self.left()

    def forward(self, client: socket.socket, request: bytes) -> None:
        with socket.create_connection(self.upstream) as server:
            server.sendall(request.replace(b"Connection: keep-alive", b"Connection: close"))
            while chunk := server.recv(65536):
                client.sendall(chunk)

    def left(self) -> None:
        with self.lock:
            self.open -= 1

    def close(self) -> None:
        self.barrier.abort()
        for each in [self.listener, *self.sockets]:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


def complete(request: bytes) -> bool:
    head, found, body = request.partition(b"\r\n\r\n")
    length = next((h for h in head.lower().split(b"\r\n") if h.startswith(b"content-length:")), b":0")
    return bool(found) and len(body) >= int(length.partition(b":")[2])


@contextmanager
def proxy(upstream: str, *script: str | bytes, gather: int = 1) -> Iterator[Proxy]:
    between = Proxy(upstream, script, gather)
    try:
        yield between
    finally:
        between.close()


def http(status: str, body: object, *headers: str) -> bytes:
    text = json.dumps(body).encode()
    head = [
        f"HTTP/1.1 {status}",
        "Content-Type: application/json",
        f"Content-Length: {len(text)}",
        "Connection: close",
    ]
    return "\r\n".join([*head, *headers, "", ""]).encode() + text


def reply(text: str | None) -> bytes:
    return http("200 OK", {"choices": [{"message": {"content": text}, "finish_reason": "stop"}]})


GOOD = reply(r"Fine. \boxed{1}")
NOWHERE = "http://127.0.0.1:0/v1"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    monkeypatch.setattr(endpoint, "FIRST_WAIT", 0.01)


Make = Callable[..., EndpointJudge]


@pytest.fixture
def make() -> Make:
    def make_judge(url: str, **options: float) -> EndpointJudge:
        settings = {"timeout": 120.0, "max_tokens": 12, **options}
        return EndpointJudge(url, "smollm2", key_env="JUDGE_KEY", **settings)  # type: ignore[arg-type]

    return make_judge


# --- with the real server ---


def test_m_calls_are_under_way_at_once_and_each_is_a_vote(llama_server: str, make: Make) -> None:
    # The proxy forwards nothing before three calls are waiting: calls one after the other would fail.
    with proxy(llama_server, "forward", gather=3) as between:
        (verdict,) = judge_turns(make(between.url, retries=0), [TURN], 3, early_stop=False)
    assert between.most_open == 3
    assert [vote.label is not None for vote in verdict.votes] == [True] * 3, verdict
    assert verdict.reward in (-1.0, 0.0, 1.0)
    assert all(vote.judge == "endpoint:smollm2" and "boxed" in vote.reason for vote in verdict.votes)


def test_a_connection_that_breaks_is_tried_again(llama_server: str, make: Make) -> None:
    with proxy(llama_server, "drop", "drop", "forward") as between:
        (vote,) = make(between.url, retries=2).vote([(TURN, 0)])
    assert vote.label is not None, vote
    assert between.seen == 3


def test_a_call_that_the_server_cannot_answer_in_time_is_a_failed_vote(llama_server: str, make: Make) -> None:
    long = Turn("c", 1, TURN.prompt, Message("assistant", "why? " * 500), TURN.next_state)
    (vote,) = make(llama_server, timeout=0.1, retries=1).vote([(long, 0)])
    assert vote.label is None
    assert "gave no answer within 0.1 s (2 tries)" in vote.reason
    assert make(llama_server).vote([(TURN, 0)])[0].label is not None  # and the server is none the worse


def test_a_dead_server_leaves_turns_unscored_and_a_later_run_scores_them(llama_server: str, make: Make) -> None:
    turns = [TURN, TURN]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    dead = judge_turns(make(f"http://127.0.0.1:{port}/v1", retries=2), turns, 3)
    assert [verdict.reward for verdict in dead] == [None, None]
    reasons = {vote.reason for verdict in dead for vote in verdict.votes}
    assert all("cannot be reached" in reason for reason in reasons)
    assert any("Connection refused (3 tries)" in reason for reason in reasons), reasons
    assert all(verdict.reward is not None for verdict in judge_turns(make(llama_server), turns, 3))


def test_a_reply_that_is_cut_off_is_a_failed_vote(llama_server: str, make: Make) -> None:
    (vote,) = make(llama_server, max_tokens=2).vote([(TURN, 0)])
    assert vote.label is None
    assert "cut off" in vote.reason


def test_a_wrong_key_and_a_wrong_url_stop_at_once(
    llama_server: str, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"404.*check judge_url"):
        make(f"{llama_server}/nothing/here").vote([(TURN, 0)] * 3)
    monkeypatch.setenv("JUDGE_KEY", "wrong-key")
    with pytest.raises(UserError, match=r"401.*check the key .* JUDGE_KEY") as caught:
        make(llama_server).vote([(TURN, 0)] * 3)
    assert "wrong-key" not in str(caught.value)
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(UserError, match=r"401.*JUDGE_KEY, which is empty"):
        make(llama_server).vote([(TURN, 0)])


# --- what a real server cannot be made to say ---


def test_no_more_calls_are_under_way_than_allowed(make: Make) -> None:
    with proxy(NOWHERE, GOOD, gather=2) as between:
        votes = make(between.url, concurrency=2, retries=0).vote([(TURN, k) for k in range(6)])
    assert [vote.label for vote in votes] == [1] * 6
    assert between.most_open == 2


@pytest.mark.parametrize("status", ["408 x", "409 x", "429 x", "500 x", "502 x", "503 x", "529 x"])
def test_a_passing_error_is_tried_again(status: str, make: Make) -> None:
    with proxy(NOWHERE, http(status, {}), http(status, {}), GOOD) as between:
        (vote,) = make(between.url, retries=2).vote([(TURN, 0)])
    assert vote.label == 1
    with proxy(NOWHERE, http(status, {"error": {"message": "too busy"}})) as between:
        (vote,) = make(between.url, retries=2).vote([(TURN, 0)])
    assert vote.label is None
    assert between.seen == 3
    assert status[:3] in vote.reason
    assert "too busy" in vote.reason
    assert "(3 tries)" in vote.reason


def test_retry_after_overrules_the_backoff(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "FIRST_WAIT", 3600.0)  # its own backoff would never end
    monkeypatch.setattr(endpoint, "LONGEST_WAIT", 3600.0)
    busy = http("429 Too Many Requests", {}, "Retry-After: 0")
    past = http("503 Unavailable", {}, "Retry-After: Wed, 21 Oct 2015 07:28:00 GMT")
    with proxy(NOWHERE, busy, past, GOOD) as between:
        assert make(between.url).vote([(TURN, 0)])[0].label == 1
    tomorrow = http("429 Too Many Requests", {}, "Retry-After: 86400")
    with proxy(NOWHERE, tomorrow) as between:
        (vote,) = make(between.url).vote([(TURN, 0)])
    assert vote.label is None
    assert between.seen == 1


def test_a_call_that_times_out_is_tried_again(make: Make) -> None:
    with proxy(NOWHERE, "stall", GOOD) as between:
        (vote,) = make(between.url, timeout=1.0, retries=1).vote([(TURN, 0)])
    assert vote.label == 1, vote
    with proxy(NOWHERE, "stall") as between:
        (vote,) = make(between.url, timeout=0.2, retries=1).vote([(TURN, 0)])
    assert "no answer within 0.2 s (2 tries)" in vote.reason


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (http("400 Bad Request", {"error": {"message": "context too long"}}), "context too long"),
        (http("200 OK", {"choices": []}), "no chat completion"),
        (http("200 OK", ["hello"]), "no chat completion"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n<p>hi", "no chat completion"),
        (b"SSH-2.0-OpenSSH_9.9\r\n", "broke the connection"),
        (reply("It was good, I think."), "no score"),
        (reply(None), "no score"),
    ],
)
def test_an_answer_without_a_score_is_a_failed_vote(answer: bytes, says: str, make: Make) -> None:
    with proxy(NOWHERE, answer) as between:
        (vote,) = make(between.url, retries=0).vote([(TURN, 0)])
    assert vote.label is None
    assert says in vote.reason


def test_what_a_model_does_not_take_is_left_out(make: Make) -> None:
    tokens = "Unsupported parameter: 'max_tokens' is not supported with this model. Use max_completion_tokens."
    heat = "Unsupported value: 'temperature' does not support 0.7 with this model."
    refusals = [http("400 Bad Request", {"error": {"message": text}}) for text in (tokens, heat)]
    with proxy(NOWHERE, *refusals, GOOD) as between:
        judge = make(between.url, retries=0)
        assert [vote.label for vote in judge.vote([(TURN, 0)]) + judge.vote([(TURN, 1)])] == [1, 1]
    bodies = [json.loads(request.partition(b"\r\n\r\n")[2]) for request in between.requests]
    assert len(bodies) == 4
    assert set(bodies[0]) == {"model", "messages", "max_tokens", "temperature"}
    assert set(bodies[3]) == {"model", "messages", "max_completion_tokens"}


def test_an_error_that_repeats_the_key_does_not_show_it(make: Make) -> None:
    with proxy(NOWHERE, http("401 Unauthorized", {"error": f"bad key {KEY}"})) as between:
        with pytest.raises(UserError) as caught:
            make(between.url).vote([(TURN, 0)])
        assert f"Authorization: Bearer {KEY}".encode() in between.requests[0]
    assert "bad key" in str(caught.value)
    assert KEY not in str(caught.value)


async def in_a_running_loop(judge: EndpointJudge) -> int | None:
    return judge.vote([(TURN, 0)])[0].label


def test_it_works_where_an_event_loop_is_already_running(make: Make) -> None:
    import asyncio

    with proxy(NOWHERE, GOOD) as between:
        assert asyncio.run(in_a_running_loop(make(between.url))) == 1


@pytest.mark.parametrize("url", ["", "localhost:8000/v1", "ftp://host/v1", "http://", "http://host:port/v1"])
def test_a_url_that_is_none_is_one_sentence(url: str) -> None:
    with pytest.raises(UserError, match="judge_url"):
        EndpointJudge(url, "m")


def test_a_url_with_a_password_is_not_shown_with_it() -> None:
    judge = EndpointJudge("http://me:hidden@127.0.0.1:1/v1/", "m", retries=0)
    (vote,) = judge.vote([(TURN, 0)])
    assert "http://127.0.0.1:1/v1/chat/completions" in vote.reason
    assert "hidden" not in vote.reason
