"""What OpenClaw-RL's server gets wrong, and where it would be caught here.

| defect | test |
|---|---|
| re-tokenises answers, pads missing log-probs with 0 | `test_exact.py`; here: an engine without ids |
| takes a retry for feedback | `test_server.py::test_a_retry_is_no_reaction_and_an_edit_is_a_fork` |
| judges only the last of parallel tool results | here |
| its judge never sees the request | here |
| a judge outage reads as neutral | here |
| answers 503 while training | here: training from the store goes on beside the server |
| keeps all in memory, truncates its files at start | `test_server.py::test_restarts_forget_nothing` |
| surplus samples of a batch vanish | here |
| one fake chunk, no usage | `test_clients.py`, `test_server.py::test_a_stream_goes_on_chunk_by_chunk…` |
| listens on 0.0.0.0 without a key | `test_security.py::test_no_key_no_other_address` |
| without its headers every request is a side turn of "unknown" | here, and every test without headers |
"""

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2

from talktune.conversations.turns import turns_of
from talktune.judge.exchange import exchange_of
from talktune.judge.function import CallJudge
from talktune.judge.panel import judge_turns
from talktune.store.store import Store
from talktune.types import Turn


def ask(server: Any, messages: list[Any]) -> dict[str, Any]:
    reply = httpx2.post(f"{server.url}/v1/chat/completions", json={"messages": messages}, timeout=30)
    assert reply.status_code == 200, reply.text
    return reply.json()["choices"][0]["message"]


def turns(server: Any) -> list[Turn]:
    store = Store(server.store)
    found = [turn for conversation in store.export() for turn in turns_of(conversation)]
    store.close()
    return found


def talk(server: Any, count: int) -> None:
    """`count` turns with a next state."""
    for i in range(count):
        said: Any = [{"role": "user", "content": f"question {i}"}]
        said.append(ask(server, said))
        ask(server, [*said, {"role": "user", "content": "Thanks, that was good."}])


def test_no_log_probs_are_made_up(server: Any) -> None:
    talk(server, 1)
    assert [turn.sampled for turn in turns(server)] == [None, None]


def test_all_results_of_parallel_calls_are_the_next_state(server: Any, engine: Any) -> None:
    calls = [{"id": f"c{i}", "type": "function", "function": {"name": "f", "arguments": "{}"}} for i in range(3)]
    engine.reply["choices"][0]["message"] = {"role": "assistant", "content": None, "tool_calls": calls}
    said: Any = [{"role": "user", "content": "Look it up."}]
    said.append(ask(server, said))
    said += [{"role": "tool", "tool_call_id": f"c{i}", "content": f"result {i}"} for i in (2, 0, 1)]
    engine.says("Done")
    ask(server, said)
    first = turns(server)[0]
    assert [m.content for m in first.next_state] == ["result 2", "result 0", "result 1"]
    exchange = exchange_of(first)
    assert all(f"result {i}" in exchange.next_state for i in range(3))


def test_the_judge_sees_the_request(server: Any) -> None:
    talk(server, 1)
    exchange = exchange_of(turns(server)[0])
    assert (exchange.request, exchange.next_state) == ("question 0", "Thanks, that was good.")


def test_an_outage_of_the_judge_leaves_turns_unscored(server: Any) -> None:
    talk(server, 2)

    def down(_turn: Turn) -> Any:
        raise OSError("the judge is down")

    verdicts = judge_turns(CallJudge(down), turns(server), 5)
    assert [verdict.reward for verdict in verdicts] == [None] * 4


def test_without_headers_turns_are_main_turns_of_conversations_of_their_own(server: Any) -> None:
    talk(server, 2)
    listed = httpx2.get(f"{server.url}/v1/conversations").json()["data"]
    assert [(c["turns"], c["session"]) for c in listed] == [(2, None), (2, None)]
    assert all(turn.kind == "main" for turn in turns(server))


def test_training_from_the_store_beside_the_server_uses_every_turn(
    server: Any, tiny_model: Path, tmp_path: Path
) -> None:
    talk(server, 5)
    judge = tmp_path / "judge.py"
    judge.write_text("def judge(turn):\n    return 1 if '0' in turn.prompt[-1].content else -1\n")
    run = tmp_path / "run"
    command = [sys.executable, "-m", "talktune", "train", str(server.store), "--output", str(run), "--device", "cpu"]
    command += ["--model", str(tiny_model), "--judge", "judge:judge", "--batch-turns", "2", "--votes", "1"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as training:
        served = 0
        while training.poll() is None:
            ask(server, [{"role": "user", "content": f"while it trains {served}"}])
            served += 1
            with suppress(subprocess.TimeoutExpired):
                training.wait(0.1)  # without taking its processor
        assert training.stderr is not None
        assert training.returncode == 0, training.stderr.read()
    assert served > 0
    updates = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(updates) == 3  # five turns in batches of two: none is left over
