"""An engine that answers agents by a script, and what became of every reaction in the store behind it.

What a person says has an id, "No, that is wrong. [r-017]", and so has each answer and each command that is run.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import Any

from talktune.conversations.turns import turns_of
from talktune.store.store import Store
from talktune.types import Turn

WORDS = (
    "No, that is wrong.",
    "Perfect, thanks!",
    "Run it once, please.",
    "That is far too long.",
    "Good. Now run it twice.",
    "I meant the other one.",
    "ok",
    "Run it once more, and tell me less.",
)
ANSWERS = (
    "It is done: nothing else was to do here.",
    "Yes.",
    "Here is the list:\n\n- **one**\n- `two`\n\nAnything else?",
)
SUMMARY = (
    "<summary>\n1. The person asks for commands to be run and says how the answers were.\n"
    "2. All commands were run; their results are known and nothing is open any more.\n"
    "3. Answers were wanted shorter in the end. This summary has the number {}.\n</summary>"
)
_SAID = re.compile(r"\[r-(\d+)\]")
_KEY = re.compile(r"\[a-(\d+)\]|\b(t-\d+-\d)\b")
_ARGUMENTS: dict[str, Any] = {
    "exec": lambda line: {"command": line},
    "Bash": lambda line: {"command": line, "description": "Say a word"},
    "exec_command": lambda line: {"cmd": line},
    "shell_command": lambda line: {"command": line},
    "shell": lambda line: {"command": ["bash", "-lc", line]},
    "local_shell": lambda line: {"command": ["bash", "-lc", line]},
}
"""How a program's tool is told a command."""


def sayings(start: int, n: int) -> list[str]:
    """What a person says in a conversation, with ids from `start` on."""
    return [f"{WORDS[i % len(WORDS)]} [r-{start + i:03}]" for i in range(n)]


def text_of(message: dict[str, Any]) -> str:
    """The text of a message of a request to the engine."""
    content = message.get("content") or ""
    return content if isinstance(content, str) else "\n".join(str(part.get("text") or "") for part in content)


@dataclass
class Script:
    """Answers requests, and keeps them."""

    log: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """Of each request: its body, whether the program made it for itself, and the answer."""
    _lock: Lock = field(default_factory=Lock)

    def __call__(self, body: dict[str, Any]) -> dict[str, Any]:
        """Run as many commands as are asked for, then answer; what no person asked gets an aside."""
        with self._lock:
            said = _asked(body)
            answer = self._aside(body) if said is None else self._answer(body, *said)
            helper = "[helper]" in text_of(body["messages"][-1])  # an agent's own, which has work to do and no person
            self.log.append({"body": body, "aside": said is None and not helper, "answer": answer})
            return answer

    def _answer(self, body: dict[str, Any], number: int, text: str, results: int) -> dict[str, Any]:
        wanted = 2 if "twice" in text else int("once" in text)
        if results < wanted:
            both = range(results, wanted) if number % 2 else [results]
            return {"role": "assistant", "content": None, "tool_calls": [_call(body, number, i) for i in both]}
        thought = {"reasoning_content": "Let me think."} if number % 4 == 1 else {}
        return {"role": "assistant", "content": f"{ANSWERS[number % 3]} [a-{len(self.log):03}]"} | thought

    def _aside(self, body: dict[str, Any]) -> dict[str, Any]:
        places = [i for i, message in enumerate(body["messages"]) if message["role"] == "assistant"]
        last = "\n".join(text_of(m) for m in body["messages"][max(places, default=-1) + 1 :])
        asked = "\n".join(text_of(m) for m in body["messages"] if m["role"] == "system")[:2000] + last
        if "HEARTBEAT_OK" in last:
            content = "HEARTBEAT_OK"
        elif "NO_REPLY" in last:
            content = "NO_REPLY"
        elif re.search(r"(?i)summar|handoff|compact", asked):
            content = SUMMARY.format(len(self.log))
        else:
            content = f"Aside {len(self.log)}"
        return {"role": "assistant", "content": content}


def _asked(body: dict[str, Any]) -> tuple[int, str, int] | None:
    """Number and text of what a person says last, and the results of tools since; None where no person asks."""
    messages = body["messages"]
    results = 0
    for message in reversed(messages):
        if message["role"] == "assistant" and not message.get("tool_calls"):
            return None
        results += message["role"] == "tool"
        found = _SAID.findall(text_of(message)) if message["role"] == "user" else []
        if found:
            return (int(found[-1]), text_of(message), results) if body.get("tools") else None
    return None


def _call(body: dict[str, Any], number: int, i: int) -> dict[str, Any]:
    names = [tool["function"]["name"] for tool in body["tools"]]
    name = next(name for name in _ARGUMENTS if name in names)
    arguments = json.dumps(_ARGUMENTS[name](f"echo t-{number:03}-{i}"))
    return {"id": f"call_{number}_{i}", "type": "function", "function": {"name": name, "arguments": arguments}}


@dataclass
class Score:
    """What became of the reactions that a program sent, tools' results among them, and of its side turns."""

    given: int = 0
    right: int = 0
    wrong: dict[str, str] = field(default_factory=dict[str, str])
    """Reactions that were found on another turn, with what was found."""
    lost: list[str] = field(default_factory=list[str])
    unclean: dict[str, str] = field(default_factory=dict[str, str])
    """Reactions with more, or less, than the person's words."""
    sides: int = 0
    recognised: int = 0
    taken: list[str] = field(default_factory=list[str])
    """Answers to persons that were taken for side turns."""

    def row(self, program: str) -> str:
        """A line of the table."""
        share = 100 * self.right / max(1, self.given)
        return (
            f"| {program} | {self.given} | {self.right} ({share:.1f} %) | {len(self.wrong)} | {len(self.lost)} | "
            f"{len(self.unclean)} | {self.recognised} of {self.sides} | {len(self.taken)} |"
        )


HEAD = (
    "| program | reactions given | on the right turn | on a wrong one | lost | with other words | "
    "side turns recognised | main taken for side |\n|---|---|---|---|---|---|---|---|"
)


def score(store: Path, told: Sequence[Sequence[tuple[str, str]]], script: Script) -> Score:
    """Compare the store with what was told: conversations of (what the person said, what the program showed)."""
    reader = Store(store)
    turns = [turn for line in reader.export() for turn in turns_of(line)]
    reader.close()
    found = Score()
    states = _states([turn for turn in turns if turn.kind == "main"])
    for talk in told:
        for (_, answer), (said, _) in pairwise(talk):
            _count(found, states, said, {_key(answer)}, said)
    for asked in script.log:
        for call in asked["answer"].get("tool_calls") or ():
            word = _key(call["function"]["arguments"])
            _count(found, states, word, {word}, None)
    sides = Counter(a["answer"]["content"] for a in script.log if a["aside"])
    stored = Counter(
        turn.answer.content.removeprefix("{") for turn in turns if turn.kind == "side"
    )  # which it may begin
    found.sides, found.recognised = sides.total(), (sides & stored).total()
    main = {_key(text) for turn in turns if turn.kind == "main" for text in _texts(turn)}
    found.taken = [key for talk in told for _, answer in talk if (key := _key(answer)) not in main]
    return found


def _states(turns: Sequence[Turn]) -> dict[str, dict[str, str]]:
    """Of each reaction's id: the answers that it was found behind, and its words there."""
    found: dict[str, dict[str, str]] = {}
    for turn in turns:
        for text in _texts(turn):
            for message in turn.next_state:
                ids = _SAID.findall(message.content) if message.role == "user" else _keys(message.content)
                for id in ids:
                    words = "\n".join(m.content for m in turn.next_state)
                    found.setdefault(id, {})[_key(text)] = words
    return found


def _texts(turn: Turn) -> list[str]:
    return [c["function"]["arguments"] for c in turn.answer.tool_calls] or [turn.answer.content]


def _count(found: Score, states: dict[str, dict[str, str]], said: str, keys: set[str], words: str | None) -> None:
    id = _SAID.findall(said)[-1] if words else said
    places = states.get(id, {})
    siblings = {key for key in places if words is None and key.rpartition("-")[0] == id.rpartition("-")[0]}
    found.given += 1
    found.right += bool(keys & set(places))
    if other := {key: text for key, text in places.items() if key not in keys | siblings}:
        found.wrong[id] = f"{sorted(keys)} expected, found {other}"
    if not places:
        found.lost.append(id)
    if words and any(text.strip() != words for key, text in places.items() if key in keys):
        found.unclean[id] = "\n".join(places.values())


def _keys(text: str) -> list[str]:
    return [a or b for a, b in _KEY.findall(text)]


def _key(text: str) -> str:
    return next(iter(_keys(text)[-1:]), text)
