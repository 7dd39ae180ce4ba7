"""Whose requests are whose: whole requests of many clients and of people, and a text that is made to be slow."""

# pyright: reportPrivateUsage=false

import json
import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

import pytest

from talktune.config import ServeConfig
from talktune.serve.dialects.chat_request import parse_request
from talktune.serve.side import clients, telling, turn_kind
from talktune.serve.side.turn_kind import HEAD, kind_of, since_last_answer
from talktune.types import Message

DATA = Path(__file__).resolve().parents[2] / "data" / "side_turns.jsonl"
ROWS: list[dict[str, Any]] = [json.loads(line) for line in DATA.read_text(encoding="utf-8").splitlines()]
BIG = 300_000
PARSER: Any = import_module("re._parser")
HEARTBEAT = "Read HEARTBEAT.md if it exists. Follow it strictly. If nothing needs attention, reply HEARTBEAT_OK."
REQUEST = "Generate a title for the conversation, 5 words, no quotes.\n"


def kind(request: dict[str, Any], *patterns: str, **headers: str) -> str:
    return parse_request(request, headers, ServeConfig(side_patterns=patterns)).kind


def test_there_are_enough_of_both() -> None:
    assert min(sum(row["kind"] == kind for row in ROWS) for kind in ("main", "side")) >= 100


def test_side_turns_are_told_from_a_persons() -> None:
    wrong = [row["client"] for row in ROWS if kind(row["request"]) != row["kind"]]
    assert len(wrong) <= 0.02 * len(ROWS), wrong


@pytest.mark.parametrize("row", [row for row in ROWS if row["kind"] == "main"], ids=lambda row: row["client"])
def test_no_word_of_a_person_is_lost(row: dict[str, Any]) -> None:
    assert kind(row["request"]) == "main"


def test_texts_without_a_telling_word_need_no_pattern(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most of what people say is not looked at more closely, and nothing changes by that."""
    quick = [kind(row["request"]) for row in ROWS]
    monkeypatch.setattr(turn_kind, "_has", lambda _text, _words: True)
    for cached in (turn_kind._told, turn_kind._is_task):  # pyright: ignore[reportPrivateUsage]
        cached.cache_clear()
    assert [kind(row["request"]) for row in ROWS] == quick


def needed() -> list[tuple[str, re.Pattern[str], Sequence[str]]]:
    """Patterns without which a text is a person's, each with the words of which every text that it matches has one."""
    known = {
        "_TITLE": clients.TITLE,
        "_HEARTBEAT": clients.HEARTBEAT,
        "_SUMMARY": clients.SUMMARY,
        "_LABEL": clients.LABEL,
    }
    known |= {f"_SYSTEM {i}": pattern for i, pattern in enumerate(clients.SYSTEM)}
    known |= {f"_CLIENT {i}": pattern for i, pattern in enumerate(clients.CLIENT)}
    found: list[tuple[str, re.Pattern[str], Sequence[str]]] = [
        (name, pattern, clients.WORDS) for name, pattern in known.items()
    ]
    about = {"_TALK": telling._TALK, "_WEAK": telling._WEAK, "_CHANGES": telling._CHANGES}
    about |= {"_CLASSIFIED": telling._CLASSIFIED, "_ALONE": telling._ALONE, "_CHANGE": telling.CHANGE}
    about |= {"TRANSCRIPT": telling.TRANSCRIPT, "PERSON": telling.PERSON, "_CONSTANT": telling._CONSTANT}
    found += [(name, pattern, telling.TRIGGERS) for name, pattern in about.items()]
    return found


def example(pattern: re.Pattern[str], random: Random) -> str:
    """A text with all that a pattern needs: what it looks ahead for stands in it, too, and nothing that it forbids."""
    groups: dict[int | None, str] = {}

    def one(op: str, value: Any) -> str:
        match op:
            case "LITERAL":
                return chr(value)
            case "ANY":
                return " "
            case "IN":
                kind, what = str(value[0][0]), random.choice(value)
                if kind == "NEGATE" or str(what[0]) == "CATEGORY":
                    return {"CATEGORY_DIGIT": "7", "CATEGORY_SPACE": " "}.get(str(what[1]), "x")
                return chr(what[1] if str(what[0]) == "LITERAL" else random.randint(*what[1]))
            case "MAX_REPEAT" | "MIN_REPEAT":
                least, most, inner = value
                return "".join(whole(inner) for _ in range(random.randint(least, min(most, least + 1))))
            case "SUBPATTERN":
                groups[value[0]] = whole(value[-1])
                return groups[value[0]]
            case "BRANCH":
                return whole(random.choice(value[1]))
            case "GROUPREF":
                return groups[value]
            case "ASSERT":
                return whole(value[1]) if value[0] > 0 else ""
            case _:
                return ""

    def whole(parts: Any) -> str:
        return "".join(one(str(op), value) for op, value in parts)

    return whole(PARSER.parse(pattern.pattern, pattern.flags))


@pytest.mark.parametrize(("name", "pattern", "words"), needed(), ids=[name for name, _, _ in needed()])
def test_no_text_that_a_pattern_matches_is_passed_over(
    name: str, pattern: re.Pattern[str], words: Sequence[str]
) -> None:
    random = Random(name)
    passed = [text for text in (example(pattern, random) for _ in range(300)) if not turn_kind._has(text, words)]
    assert not passed, passed[:3]


@pytest.mark.parametrize("text", ["hi", "Ping.", "Reply with only the word OK"])
def test_who_tries_an_engine_is_nobody(text: str) -> None:
    asked = {"messages": [{"role": "user", "content": text}]}
    assert kind(asked | {"max_tokens": 5}) == "side"
    assert kind(asked) == kind(asked | {"max_tokens": 500}) == "main"


def test_ones_own_patterns_look_at_the_system_prompt_and_at_what_was_said() -> None:
    def request(*messages: tuple[str, str]) -> dict[str, Any]:
        return {"messages": [{"role": role, "content": text} for role, text in messages]}

    assert kind(request(("user", "cron: report")), r"^cron:") == "side"
    assert kind(request(("system", "job 7"), ("user", "hi")), r"^job \d") == "side"
    assert kind(request(("user", "cron: report"), ("user", "it is noon")), r"^cron:") == "side"
    assert kind(request(("user", "cron: report"), ("assistant", "done"), ("user", "thanks")), r"^cron:") == "main"
    assert kind(request(("user", "hi")), r"^cron:") == "main"


def test_the_client_may_say_it_outright() -> None:
    asked = {"messages": [{"role": "user", "content": REQUEST}]}
    assert kind(asked) == "side"
    assert kind(asked | {"turn_type": "main"}) == "main"
    assert kind({"messages": [{"role": "user", "content": "Hi"}]}, **{"x-turn-type": "side"}) == "side"


@pytest.mark.parametrize(
    "text",
    [
        REQUEST + "user:\n" * 200_000,
        "System\n" * 200_000,
        "[1-00]" * 200_000,
        "<tag>" + "</tag>x" * 200_000,
        "nothing reply " * 100_000,
        "give title of " * 100_000,
        "\n" * 1_000_000,
    ],
)
@pytest.mark.timeout(20)
def test_no_text_is_slow_to_read(text: str) -> None:
    for role in ("user", "system"):
        kind_of([Message(role, text)])  # type: ignore[arg-type]


def said(*texts: str) -> list[Message]:
    return [Message("user", text) for text in texts]


@pytest.mark.parametrize("pad", ["x ", "user: hi\n", "Give the chat a title. ", "<t></t>", "[2026-01-01 10:00] "])
def test_a_paste_of_megabytes_is_a_persons(pad: str) -> None:
    """No pattern runs away on it: the whole test takes milliseconds, and would take hours."""
    paste = pad * (BIG * 10 // len(pad))
    assert kind_of(said("Which of these is wrong?\n" + paste)) == "main"
    assert kind_of([Message("system", "You are kind.\n" + paste), *said("hello")]) == "main"
    assert kind_of(said(HEARTBEAT, f"Explain this:\n{paste}")) == "main"


def test_the_ends_of_a_long_text_are_looked_at() -> None:
    talk = "User: hi\nAssistant: hello\n" * HEAD
    ask = "Write a short title for the conversation above. Reply with the title only."
    assert kind_of(said(f"{talk}\n{ask}")) == "side"
    assert kind_of(said(f"{ask.replace('above', 'below')}\n\n{talk}")) == "side"


def test_what_was_said_since_the_last_answer() -> None:
    calls = ({"id": "1", "type": "function", "function": {"name": "read", "arguments": "{}"}},)
    heartbeat = [
        *said("hi"),
        Message("assistant", "hello"),
        *said(HEARTBEAT),
        Message("assistant", "I read.", calls),
        Message("tool", "nothing", tool_call_id="1"),
    ]
    assert since_last_answer(heartbeat) == [HEARTBEAT]
    assert kind_of(heartbeat) == "side"
    assert kind_of([*heartbeat, Message("assistant", "HEARTBEAT_OK"), *said("thanks")]) == "main"
    assert kind_of(said(HEARTBEAT, "And what about Mars?")) == "main"


@pytest.mark.parametrize(
    ("role", "text"),
    [
        ("system", "You read what was said and list facts about the person, as JSON."),
        ("user", "[exec completion] done"),
        ("user", "Generate an enhanced version of this prompt (reply with only the prompt): do it"),
        ("user", "Analyze *only* the content and structure of your immediately preceding response. Who goes on?"),
    ],
)
def test_the_quick_look_passes_over_no_pattern(role: str, text: str) -> None:
    asked = {"messages": [{"role": role, "content": text}, {"role": "user", "content": "Go"}][: 1 + (role == "system")]}
    assert kind(asked) == "side"
