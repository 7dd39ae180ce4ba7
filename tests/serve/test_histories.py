"""Clients that change what they send back: every reaction is found, and on its turn, by a real server."""

import json
import unicodedata
import uuid
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from talktune.conversations.turns import turns_of
from talktune.judge.exchange import exchange_of
from talktune.store.overview import overview
from talktune.store.store import Store
from talktune.types import Conversation, Turn

Message = dict[str, Any]
View = Callable[[list[Message], int], list[Message]]
"""What a client sends: of all that was said, in its `count`th request."""


@dataclass
class Talk:
    """One conversation: what was said, and how its client tells it."""

    server: Any
    engine: Any
    view: View = lambda said, _count: said
    headers: dict[str, str] = field(default_factory=dict[str, str])
    said: list[Message] = field(default_factory=list[Message])
    count: int = 0
    tag: str = field(default_factory=lambda: uuid.uuid4().hex[:10])

    def ask(self, answer: Message | str, *new: Message | str) -> httpx2.Response:
        """Say something, and get that answer, which is the newest of what was said then."""
        for one in new:
            self.said.append({"role": "user", "content": one} if isinstance(one, str) else one)
        reply = self.send(answer, self.view(deepcopy(self.said), self.count))
        self.count += 1
        got = reply.json()["choices"][0]["message"]
        self.said.append({key: value for key, value in got.items() if value})
        return reply

    def send(self, answer: Message | str, messages: list[Message], **more: Any) -> httpx2.Response:
        message: Message = {"role": "assistant", "content": answer} if isinstance(answer, str) else answer
        self.engine.says("x")
        self.engine.reply["choices"][0]["message"] = message
        body = {"model": "m", "messages": messages} | more
        reply = httpx2.post(f"{self.server.url}/v1/chat/completions", json=body, headers=self.headers, timeout=30)
        assert reply.status_code == 200, reply.text
        return reply

    def lines(self) -> list[Conversation]:
        """The conversations of the store that have its tag."""
        store = Store(self.server.store)
        found = [c for c in store.export() if any(self.tag in m.content for m in c.messages)]
        store.close()
        return found

    def reactions(self) -> list[tuple[str, list[str]]]:
        """Of each main turn, in order: its answer, and what the judge sees as its next state."""
        return [
            (plain(turn.answer.content or named(turn)), [plain(m.content) for m in turn.next_state])
            for line in self.lines()
            for turn in turns_of(line)
            if turn.kind == "main"
        ]

    def waiting(self) -> int:
        """How many of its turns wait for the judge."""
        ids = {id for line in self.lines() for id in line.metadata["turns"].values()}
        store = Store(self.server.store)
        with store.reading() as c:
            waiting = set(c.exec_driver_sql("SELECT turn FROM judging").scalars())
        store.close()
        return len(waiting & ids)


def plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def named(turn: Turn) -> str:
    return turn.answer.tool_calls[0]["function"]["arguments"] if turn.answer.tool_calls else ""


@pytest.fixture
def talk(shared: Any) -> Callable[..., Talk]:
    server, engine = shared
    return lambda view=lambda said, _count: said, **more: Talk(server, engine, view, **more)


def turn_texts(t: Talk, n: int) -> list[tuple[str, str]]:
    return [
        (f"Question {i} of {t.tag}?" if i else f"Hello, {t.tag}.", f"Answer {i} about {t.tag}: voilà, café.")
        for i in range(n)
    ]


def held(t: Talk, n: int = 3) -> None:
    """A talk of n turns, so n - 1 reactions, each found."""
    texts = turn_texts(t, n)
    for asked, answer in texts:
        t.ask(answer, asked)
    expected = [(texts[i][1], [texts[i + 1][0]] if i + 1 < n else []) for i in range(n)]
    assert t.reactions() == expected
    assert t.waiting() == n - 1


def last_user(said: list[Message]) -> int:
    return max(i for i, m in enumerate(said) if m["role"] == "user")


def nothing(said: list[Message], _count: int) -> list[Message]:
    return said


def context_at_the_end(said: list[Message], count: int) -> list[Message]:
    return [*said, {"role": "user", "content": f"[host state]\nload: 0.{count}\nfiles open: {3 * count}"}]


def free_context_at_the_end(said: list[Message], count: int) -> list[Message]:
    texts = [
        "The battery is full and nothing runs.",
        "Two jobs failed overnight",
        "Somebody logged in as root from afar",
    ]
    return [*said, {"role": "user", "content": texts[count % 3]}]


def context_before(said: list[Message], count: int) -> list[Message]:
    return [*said[:-1], {"role": "user", "content": f"<host>load 0.{count}</host> {count} jobs run"}, said[-1]]


def clock(said: list[Message], count: int) -> list[Message]:
    at = last_user(said)
    return [
        *said[:at],
        said[at] | {"content": f"[Thu 2026-09-10 10:0{count} UTC] {said[at]['content']}"},
        *said[at + 1 :],
    ]


def prose_clock(said: list[Message], count: int) -> list[Message]:
    at = last_user(said)
    text = f"It is Thursday, 10:0{count}, on host-{count}. {said[at]['content']}"
    return [*said[:at], said[at] | {"content": text}, *said[at + 1 :]]


def reminder(said: list[Message], _count: int) -> list[Message]:
    at = last_user(said)
    text = f"{said[at]['content']}\n\nAlways answer in whole files.\nNever leave out a line."
    return [*said[:at], said[at] | {"content": text}, *said[at + 1 :]]


def window(said: list[Message], _count: int) -> list[Message]:
    return said[-3:]


def one_answer_window(said: list[Message], _count: int) -> list[Message]:
    return said[-2:]


def compacted(said: list[Message], count: int) -> list[Message]:
    summary = {"role": "user", "content": f"Summary of what was said before ({count}): they greeted each other."}
    return said if len(said) < 4 else [summary, *said[-2:]]


def retold(said: list[Message], change: Callable[[str], str], *roles: str) -> list[Message]:
    return [m | {"content": change(m["content"])} if m.get("content") and m["role"] in roles else m for m in said]


def markup(said: list[Message], _count: int) -> list[Message]:
    return retold(said, lambda text: f"**{text}**\n\n* * *", "assistant")


def html(said: list[Message], _count: int) -> list[Message]:
    return retold(said, lambda text: f"<p>{text}</p><br>", "assistant")


def spaced(said: list[Message], _count: int) -> list[Message]:
    return retold(said, lambda text: "\n " + text.replace(" ", "  ") + " \r\n", "assistant", "user", "tool")


def decomposed(said: list[Message], _count: int) -> list[Message]:
    return retold(said, lambda text: unicodedata.normalize("NFD", text), "assistant", "user", "tool")


def parts(said: list[Message], _count: int) -> list[Message]:
    return [m | {"content": [{"type": "text", "text": piece + " "} for piece in m["content"].split(" ")]} for m in said]


def other_system(said: list[Message], count: int) -> list[Message]:
    return [{"role": "system", "content": f"It is {count} o'clock."}, *said]


def everything(said: list[Message], count: int) -> list[Message]:
    return other_system(context_at_the_end(clock(markup(said, count), count), count), count)


VIEWS = [
    nothing, context_at_the_end, free_context_at_the_end, context_before, clock, prose_clock, reminder, window,
    one_answer_window, compacted, markup, html, spaced, decomposed, parts, other_system, everything,
]  # fmt: skip


@pytest.mark.parametrize("view", VIEWS)
def test_every_reaction_is_found(talk: Any, view: View) -> None:
    held(talk(view))
    held(talk(view), 6)


@pytest.mark.parametrize("view", VIEWS)
def test_every_reaction_is_found_in_a_named_session(talk: Any, view: View) -> None:
    t = talk(view)
    t.headers = {"X-Session-Id": t.tag}
    held(t, 4)


def call(arguments: str, *ids: str) -> Message:
    calls = [{"id": id, "type": "function", "function": {"name": "look", "arguments": arguments}} for id in ids]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def results(t: Talk, text: str) -> list[Message]:
    return [{"role": "tool", "tool_call_id": c["id"], "content": text} for c in t.said[-1]["tool_calls"]]


def tools(t: Talk, rounds: int = 2) -> None:
    """Calls and their results, then an answer, and so on: all reactions are found."""
    expected: list[tuple[str, list[str]]] = []
    last = 0
    for i in range(rounds):
        asked, arguments = f"Look at {i} for {t.tag}.", json.dumps({"path": f"{t.tag}/{i}", "deep": True, "n": 1})
        if expected:
            expected[last] = (expected[last][0], [asked])
        t.ask(call(arguments, f"call_{i}", f"call_{i}b"), asked)
        expected.append((arguments, [f"The content of {i} {t.tag} " * 5] * 2))
        t.ask(f"It holds number {i}, {t.tag}.", *results(t, f"The content of {i} {t.tag} " * 5))
        expected.append((f"It holds number {i}, {t.tag}.", []))
        last = len(expected) - 1
    assert t.reactions() == [(answer, [plain(m) for m in state]) for answer, state in expected]
    assert t.waiting() == len(expected) - 1


def rewritten_ids(said: list[Message], count: int) -> list[Message]:
    """As clients do that keep calls under ids of their own."""
    ids: dict[str, str] = {}
    for m in said:
        for one in m.get("tool_calls", ()):
            ids[one["id"]] = one["id"] = f"toolu_{count}_{len(ids)}"
        if m["role"] == "tool":
            m["tool_call_id"] = ids[m["tool_call_id"]]
    return said


def cleared_result(said: list[Message], _count: int) -> list[Message]:
    at = [i for i, m in enumerate(said) if m["role"] == "tool"]
    return [m | {"content": "[cleared]"} if i in at[:-2] else m for i, m in enumerate(said)]


def rewritten_arguments(said: list[Message], _count: int) -> list[Message]:
    for m in said:
        for one in m.get("tool_calls", ()):
            value = json.loads(one["function"]["arguments"])
            one["function"]["arguments"] = json.dumps(dict(sorted(value.items())), indent=2)
    return said


def arguments_as_objects(said: list[Message], _count: int) -> list[Message]:
    for m in said:
        for one in m.get("tool_calls", ()):
            one["function"]["arguments"] = json.loads(one["function"]["arguments"]) | {"unset": None}
    return said


def clocked_tools(said: list[Message], count: int) -> list[Message]:
    return context_at_the_end(clock(rewritten_ids(said, count), count), count)


TOOL_VIEWS = [nothing, context_at_the_end, rewritten_ids, cleared_result, rewritten_arguments, arguments_as_objects,
              clocked_tools, clock]  # fmt: skip


@pytest.mark.parametrize("view", TOOL_VIEWS)
def test_results_of_tools_are_found(talk: Any, view: View) -> None:
    tools(talk(view))
    tools(talk(view), 4)


@pytest.mark.parametrize("view", [nothing, context_at_the_end, window])
@pytest.mark.parametrize("reasoned", ["<think>So, {}</think>Hello {}.", "<think>Only thoughts on {}, {}.</think>",
                                      "Thoughts on {}.</think>\n\nHello {}."])  # fmt: skip
def test_reasoning_that_the_client_strips(talk: Any, view: View, reasoned: str) -> None:
    def stripped(said: list[Message], count: int) -> list[Message]:
        return view([m | {"content": m["content"].rpartition("</think>")[2].strip()} for m in said], count)

    t = talk(stripped)
    for i in range(4):
        t.ask(reasoned.format(i, t.tag), f"Question {i}, {t.tag}")
    states = [state for _, state in t.reactions()]
    assert states == [[f"Question {i}, {t.tag}"] for i in (1, 2, 3)] + [[]]


def test_an_answer_that_the_client_cut_off_or_touched(talk: Any) -> None:
    def touched(said: list[Message], _count: int) -> list[Message]:
        changed = [lambda text: text[: len(text) // 2] + " … [shortened]", lambda text: text.replace("ten", "10")]
        n = 0
        for m in said:
            if m["role"] == "assistant":
                m["content"] = changed[n % 2](m["content"])
                n += 1
        return said

    t = talk(touched)
    answers = [f"A long answer {i} {t.tag} of more than ten words: some may go and the rest still tells."
               for i in range(4)]  # fmt: skip
    for i, answer in enumerate(answers):
        t.ask(answer, f"Question {i}, {t.tag}")
    assert t.reactions() == [(a, [f"Question {i + 1}, {t.tag}"] if i < 3 else []) for i, a in enumerate(answers)]


@pytest.mark.parametrize("flag", [{}, {"continue_final_message": True, "add_generation_prompt": False}])
@pytest.mark.parametrize("apart", [False, True])
def test_an_answer_that_the_client_began_is_one(talk: Any, flag: Message, apart: bool) -> None:
    t = talk()
    asked = {"role": "user", "content": f"A poem, {t.tag}!"}
    begun = {"role": "assistant", "content": "Roses are "}
    t.send(f"red, {t.tag}.", [asked, begun], **flag)
    pieces = [begun, {"role": "assistant", "content": f"red, {t.tag}."}]
    whole = [{"role": "assistant", "content": f"Roses are red, {t.tag}."}]
    t.send("Thanks.", [asked, *(pieces if apart else whole), {"role": "user", "content": f"Lovely, {t.tag}"}])
    assert t.reactions() == [(f"Roses are red, {t.tag}.", [f"Lovely, {t.tag}"]), ("Thanks.", [])]


def test_what_was_said_in_several_conversations_is_counted_and_not_guessed(talk: Any, shared: Any) -> None:
    def lost() -> float:
        text = httpx2.get(f"{shared[0].url}/metrics").text
        return sum(float(x.split()[-1]) for x in text.splitlines() if x.startswith("talktune_lost_histories_total{"))

    before = lost()
    word = uuid.uuid4().hex
    some = [talk() for _ in range(3)]
    for t in some:
        t.ask(f"Ok {word}.", f"Do it, {t.tag}")
    t = talk()
    t.send("Sorry.", [{"role": "assistant", "content": f"Ok {word}."}, {"role": "user", "content": f"Wrong, {t.tag}"}])
    assert lost() == before + 1
    assert all(one.reactions() == [(f"Ok {word}.", [])] for one in some)
    unknown = {"role": "assistant", "content": f"Never said {uuid.uuid4().hex}."}
    t.send("Hm.", [{"role": "user", "content": t.tag}, unknown, {"role": "user", "content": "Bad"}])
    assert lost() == before + 2
    store = Store(shared[0].store)
    found = overview(store)["lost"]
    store.close()
    assert found["ambiguous"] >= 1
    assert found["unknown"] >= 1


def test_a_short_answer_is_told_apart_by_what_was_said_around_it(talk: Any) -> None:
    some = [talk(context_at_the_end) for _ in range(4)]
    for i in range(4):
        for t in some:
            t.ask("Ok.", f"Do {i} for {t.tag}")
    for t in some:
        assert [state for _, state in t.reactions()] == [[f"Do {i} for {t.tag}"] for i in (1, 2, 3)] + [[]]


def test_a_regeneration_stays_a_fork_and_a_retry_no_reaction(talk: Any) -> None:
    t = talk(clock)
    t.ask(f"First {t.tag}.", f"Hello, {t.tag}")
    t.ask(f"Second {t.tag}.", f"More, {t.tag}")
    del t.said[-1]
    t.count += 3
    t.ask(f"Another second {t.tag}.")  # the same request again, later
    t.ask(f"Third {t.tag}.", f"Good, {t.tag}")
    assert len(t.lines()) == 2
    assert t.reactions() == [
        (f"First {t.tag}.", [f"More, {t.tag}"]),
        (f"Another second {t.tag}.", [f"Good, {t.tag}"]),
        (f"Third {t.tag}.", []),
        (f"Second {t.tag}.", []),
    ]
    again = talk(clock)
    again.ask(f"Yes {again.tag}.", f"Can you, {again.tag}?")
    again.ask(f"Yes {again.tag}.", f"Can you, {again.tag}?")
    assert again.reactions()[0] == (f"Yes {again.tag}.", [])


def test_an_aside_between_an_answer_and_its_reaction(talk: Any) -> None:
    """A poll of the client, which its history keeps in another form, or not at all."""
    for keeps in (True, False):
        t = talk(context_at_the_end)
        t.ask(f"Here it is, {t.tag}.", f"Do it, {t.tag}")
        for i in range(2):
            t.headers = {"X-Turn-Type": "side"}
            t.ask("POLL_OK", f"Poll {i}: read the list of {t.tag} and see whether anything is to do.")
            t.headers = {}
            if keeps:
                t.said[-2]["content"] = "Poll."
            else:
                del t.said[-2:]
        t.ask(f"Fine, {t.tag}.", f"Thanks, {t.tag}")
        t.ask(f"Bye, {t.tag}.", f"See you, {t.tag}")
        assert t.reactions() == [
            (f"Here it is, {t.tag}.", [f"Thanks, {t.tag}"]),
            (f"Fine, {t.tag}.", [f"See you, {t.tag}"]),
            (f"Bye, {t.tag}.", []),
        ]


def test_who_reacts_to_an_alert_does_not_react_to_the_answer_before_it(talk: Any) -> None:
    t = talk(context_at_the_end)
    t.ask(f"Here it is, {t.tag}.", f"Do it, {t.tag}")
    t.headers = {"X-Turn-Type": "side"}
    t.ask(f"The disk of {t.tag} is full!", f"Poll: read the list of {t.tag} and see whether anything is to do.")
    t.headers = {}
    t.ask(f"Fine, {t.tag}.", f"Thanks for telling me, {t.tag}")
    t.ask(f"Bye, {t.tag}.", f"See you, {t.tag}")
    states = dict(t.reactions())
    assert states[f"Here it is, {t.tag}."] == []
    assert states[f"Fine, {t.tag}."] == [f"See you, {t.tag}"]


SUMMARY = """<analysis>
What was said so far, in the order in which it was said, and what of it matters for what comes next.
</analysis>
<summary>
1. The person is {tag} and asks for things to be done, one after the other, and says how they were done.
2. All was done:
   - the first thing is in `a.py`, and the tests of it pass with nothing left open;
   - the second one waits for a word from {tag}.
</summary>"""


def as_parts(told: str, words: str) -> list[Message]:
    """Claude Code's way: one message of several parts."""
    begin = f"This session is being continued from a previous conversation. Its summary:\n\n{told}\n\nGo on at once."
    texts = ["<system-reminder>\nBe brief.\n</system-reminder>", begin, words]
    return [{"role": "user", "content": [{"type": "text", "text": text} for text in texts]}]


def as_a_message(told: str, words: str) -> list[Message]:
    """Codex's way: what the person said before, and the summary behind it."""
    handed = f"Another language model began with this. Here is what it wrote:\n{told}"
    return [{"role": "user", "content": text} for text in ("An earlier question of long ago.", handed, words)]


def as_an_answer(told: str, words: str) -> list[Message]:
    """opencode's way: as if it had been asked for."""
    said = ("user", "What did we do so far?"), ("assistant", told), ("user", words)
    return [{"role": role, "content": text} for role, text in said]


def acknowledged(told: str, words: str) -> list[Message]:
    """Gemini CLI's way: with an answer that nobody gave."""
    said = ("user", told), ("assistant", "Got it. Thanks for the additional context!"), ("user", words)
    return [{"role": role, "content": text} for role, text in said]


@pytest.mark.parametrize("way", [as_parts, as_a_message, as_an_answer, acknowledged])
def test_a_reaction_behind_nothing_but_a_summary(talk: Any, way: Callable[[str, str], list[Message]]) -> None:
    t = talk()
    t.ask(f"The first is done, {t.tag}.", f"Do the first, {t.tag}")
    for i in (2, 3):
        t.ask(f"Number {i} is done, {t.tag}.", f"Do number {i}, {t.tag}")
        t.headers = {"X-Turn-Type": "side"}
        summary = SUMMARY.format(tag=f"{t.tag}-{i}")
        t.send(summary, [*t.said, {"role": "user", "content": "Sum it all up."}])
        t.headers = {}
        told = summary.partition("</analysis>\n")[2].replace("<summary>", "Summary:").removesuffix("</summary>").strip()
        words = f"That was wrong, {t.tag}: number {i} is not done."
        t.said = way(told, words)
        t.ask(f"Sorry, {t.tag}: now number {i} is really done.")
    t.ask("Bye.", f"Better, {t.tag}")
    texts = ["Do number 2", "That was wrong", "Do number 3", "That was wrong", "Better", ""]
    states = [state for answer, state in t.reactions() if answer != "Got it. Thanks for the additional context!"]
    assert [len(state) for state in states] == [1, 1, 1, 1, 1, 0]
    assert all("".join(state).startswith(text) for state, text in zip(states, texts, strict=True)), states
    assert t.waiting() == 5
    assert len({line.id.split("/")[0] for line in t.lines()}) == 1


def test_a_summary_of_two_conversations_is_not_guessed(talk: Any) -> None:
    some = [talk(), talk()]
    summary = SUMMARY.format(tag=some[0].tag)
    for t in some:
        t.ask(f"It is done, {t.tag}.", f"Do it, {t.tag}")
        t.headers = {"X-Turn-Type": "side"}
        t.send(summary, [*t.said, {"role": "user", "content": "Sum it all up."}])
    some[0].headers = {}
    some[0].send("Sorry.", as_a_message(summary, f"That was wrong, {some[0].tag}"))
    assert [state for t in some for _, state in t.reactions() if state] == []


def test_the_judge_reads_words_the_record_has_all_and_the_prompt_is_what_was_sent(talk: Any, shared: Any) -> None:
    t = talk(everything)
    for asked, answer in turn_texts(t, 4):
        t.ask(answer, asked)
    (line,) = t.lines()
    told = [m.content for m in line.messages]
    assert sum(text.startswith("[host state]") for text in told) == 4
    assert sum(text.startswith("[Thu 2026-09-10 10:0") for text in told) == 4
    turns = turns_of(line)
    asked = [body["messages"] for body in shared[1].asked[-4:]]
    sent = [[{"role": m.role, "content": m.content} for m in turn.prompt] for turn in turns]
    assert sent == asked
    exchanges = [exchange_of(turn) for turn in turns]
    questions = [text for text, _ in turn_texts(t, 4)]
    assert [e.request for e in exchanges] == questions
    assert [e.next_state for e in exchanges[:-1]] == questions[1:]


def window_of_turns(said: list[Message], _count: int) -> list[Message]:
    """The last two questions of the person and all that follows them."""
    users = [i for i, m in enumerate(said) if m["role"] == "user"]
    return said[users[-2] :] if len(users) > 1 else said


CHANGES: list[View] = [
    context_at_the_end, free_context_at_the_end, clock, reminder, window_of_turns, markup, html, spaced, decomposed,
    other_system, rewritten_ids, cleared_result, rewritten_arguments,
]  # fmt: skip


@settings(
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    changes=st.lists(st.sampled_from(CHANGES), max_size=3, unique=True),
    kinds=st.lists(st.sampled_from(["say", "say", "tool", "retry", "again"]), min_size=1, max_size=5),
)
def test_whatever_the_client_changes_the_conversation_stays_whole(
    talk: Any, changes: list[View], kinds: list[str]
) -> None:
    """Every reaction on its turn, none on another, forks for regenerations, nothing for retries."""

    def view(said: list[Message], count: int) -> list[Message]:
        for change in sorted(changes, key=lambda change: change is not window_of_turns):  # of what was said, not added
            said = change(said, count)
        return said

    note(f"{[change.__name__ for change in changes]} {kinds}")
    t = talk(view)
    expected: dict[str, set[str]] = {}
    asked = ""
    last: str | None = None
    for i, kind in enumerate(["say", "say", *kinds]):  # the first request alone, sent twice, begins twice
        if kind == "retry" and last is not None:  # the client did not get the answer, and asks again
            t.said.pop()
            before = t.said[-1]["role"]
            last = f"Retried {i}, {t.tag}: here is something else, at length."
            assert before in ("user", "tool")
            t.ask(last)
            expected[last] = set()
            continue
        if kind == "again" and last is not None:
            t.said.pop()
            last = f"Regenerated {i}, {t.tag}: here is another one, at length."
            t.ask(last)
            expected[last] = set()
            continue
        asked = f"Question {i} of {t.tag}, and what do you say?"
        if last is not None:
            expected[last].add(asked)
        if kind == "tool":
            arguments = json.dumps({"path": f"{t.tag}/{i}", "all": True})
            t.ask(call(arguments, f"c{i}"), asked)
            found = f"The result {i} for {t.tag} is long enough."
            expected[arguments] = {found}
            last = f"It is {i}, {t.tag}: so much for that question."
            t.ask(last, *results(t, found))
        else:
            last = f"Answer {i}, {t.tag}: this is what there is to say."
            t.ask(last, asked)
        expected[last] = set()
    got = t.reactions()
    assert {answer: set(states) for answer, states in got} == expected
    assert len(got) == len(expected)
    assert len({line.id.split("/")[0] for line in t.lines()}) == 1
