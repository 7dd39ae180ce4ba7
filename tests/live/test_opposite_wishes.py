"""Two users who want opposite things, each with an adapter of their own: one server, one base model, both content."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from ..serve.conftest import Serving, serving
from .conftest import WIDE_OPTIONS

JUDGE = """
def judge(turn):
    return 1 if turn.next_state[0].content.startswith("Yes") else -1
"""
"""Reads the reaction, as a judge does; what the user wanted it cannot know."""
OPTIONS = [
    *("--device", "cpu", "--per-user", "--holdout", "0", "--votes", "1", "--judge", "wishes_judge:judge"),
    *("--batch-turns", "16", "--learning-rate", "0.01", "--beta", "0", "--brake-length", "0"),
]
LONGEST = 60
"""Rounds of 16 conversations each, at most."""
TIMES = 40


def pleased(user: str, answer: str) -> bool:
    """Ann wants a plain character first, bob none."""
    return bool(answer) and (ord(answer[0]) < 128) == (user == "ann")


class User:
    """Asks and reacts in words."""

    def __init__(self, server: Serving, name: str) -> None:
        self.server, self.name = server, name
        self.heard: list[bool] = []

    def post(self, messages: list[dict[str, str]], **headers: str) -> str:
        body = {"messages": messages, "max_tokens": 1, "temperature": 1.0}
        key = {"Authorization": f"Bearer key-of-{self.name}"}
        reply = httpx2.post(f"{self.server.url}/v1/chat/completions", json=body, headers=key | headers, timeout=60)
        assert reply.status_code == 200, reply.text
        return reply.json()["choices"][0]["message"]["content"] or ""

    def talk(self, number: int) -> None:
        said = [{"role": "user", "content": f"question {number}"}]
        answer = self.post(said)
        self.heard.append(pleased(self.name, answer))
        words = "Yes, like that." if self.heard[-1] else "No, not like that."
        self.post(
            [*said, {"role": "assistant", "content": answer}, {"role": "user", "content": words}],
            **{"X-Session-Done": "1"},
        )

    def content(self) -> float:
        """Share of new questions whose first answer pleases."""
        asked = [[{"role": "user", "content": f"something new, {i}"}] for i in range(TIMES)]
        return sum(pleased(self.name, self.post(said, **{"X-Turn-Type": "side"})) for said in asked) / TIMES


def opinionated(model: Path, folder: Path) -> Path:
    """The same model with a head large enough that it can want one character more than another."""
    loaded = AutoModelForCausalLM.from_pretrained(model)
    loaded.get_output_embeddings().weight.data *= 16
    loaded.save_pretrained(folder)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_opposite_wishes(tiny_model: Path, tmp_path: Path) -> None:
    model = opinionated(tiny_model, tmp_path / "model")
    (tmp_path / "wishes_judge.py").write_text(JUDGE)
    (tmp_path / "keys").write_text("ann key-of-ann\nbob key-of-bob\n")
    more = ["--model", str(model), "--keys", str(tmp_path / "keys"), "--policies", str(tmp_path / "policies")]
    env = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path)}
    store = tmp_path / "store.db"
    with serving(store, *more, *OPTIONS, *WIDE_OPTIONS, env=env) as server:
        users = [User(server, name) for name in ("ann", "bob")]
        before = [user.content() for user in users]
        with ThreadPoolExecutor(8) as pool:
            for first in range(0, LONGEST * 16, 16):
                for user in users:
                    list(pool.map(user.talk, range(first, first + 16)))
                if all(sum(user.heard[-64:]) == 64 for user in users):
                    break
        after = [user.content() for user in users]
        hosts = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
        assert len(hosts) == 1, "one base model serves both"
    assert max(before) < 0.8, "someone was content before anything was learned"
    assert min(after) >= 0.9, (before, after, [len(user.heard) for user in users])
