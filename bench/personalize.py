"""A scripted user talks to `talktune serve` and reacts in words only: does the served model become theirs?

Three characters (short answers; no lists or bold; a friendly word) with a rule that neither the server nor its judge is
told. Several conversations run side by side through the `openai` client; the server judges what was said with the
shipped head, learns, gates and swaps while it serves. Measured through the server itself: how many of 40 held-out
questions are answered to the user's liking at once, and how many facts are still right, before and after; how many
sessions it took until three in a row were; how many judge calls the early stop saved, with every verdict replayed with
all its votes. Controls: a server that does not learn, and one whose rewards are dealt out anew within each update.
"""

import argparse
import json
import os
import platform
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from openai import OpenAI
from rich.console import Console
from rich.progress import track
from rich.table import Table

from talktune.config import JudgeConfig
from talktune.demo.run import SHORTLY
from talktune.demo.user import NAMES, Name, Question, User, is_right
from talktune.judge.make import make_judge
from talktune.judge.panel import judge_turns
from talktune.types import Message, Turn

VOTES = 5
SIDE = {"X-Turn-Type": "side"}
TOKENS: dict[Name, int] = {"short": 64, "plain": 64, "friendly": 48}
"""Where this user's client stops an answer."""
FACT_TOKENS = 24
ASKED_AT_ONCE = 32
"""Questions of an exam side by side."""
STUCK_SECONDS = 240.0
RECIPE = {
    "--learning-rate": "0.001",
    "--beta": "0.02",
    "--epochs": "1",
    "--group": "batch",
    "--microbatch-tokens": "512",
}
"""What learns within 200 turns; long passes take half of the time, and more memory than the default.
Options after `--` win over it."""
MODES = {"learn": (), "off": ("--no-learn",), "shuffled": ("--shuffle-rewards",)}


@dataclass(frozen=True)
class Heard:
    """One judged turn as the user saw it."""

    turn: str
    question: str
    answer: str
    label: int
    reason: str
    reaction: str


@dataclass
class Exam:
    """Answers to the held-out questions, as this user's client asks, and to the facts, greedily."""

    satisfied: list[bool]
    reasons: dict[str, int]
    facts: list[bool]
    words: float
    answers: list[str]


@dataclass
class Run:
    """Everything measured in one run."""

    character: Name
    seed: int
    mode: str
    before: Exam | None = None
    after: Exam | None = None
    heard: list[Heard] = field(default_factory=list[Heard])
    learned: int = 0
    updates: int = 0
    versions: dict[str, int] = field(default_factory=dict[str, int])
    rejected: list[str] = field(default_factory=list[str])
    judge: dict[str, float] = field(default_factory=dict[str, float])
    metrics: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    seconds: float = 0.0

    @property
    def folder(self) -> str:
        """Name of the folder with its store, versions and log."""
        return f"{self.character}-{self.seed}-{self.mode}"

    @property
    def sessions(self) -> int | None:
        """Sessions until the first answers of three in a row satisfied, in the order in which they were heard."""
        row = 0
        for i, heard in enumerate(self.heard, start=1):
            row = row + 1 if heard.label == 1 else 0
            if row == 3:
                return i
        return None

    @property
    def facts_kept(self) -> float:
        """Share of the facts known before that are still right."""
        assert self.before is not None
        assert self.after is not None
        known = [now for was, now in zip(self.before.facts, self.after.facts, strict=True) if was]
        return sum(known) / max(len(known), 1)


class Client:
    """One person's program."""

    def __init__(self, url: str, tokens: int, temperature: float) -> None:
        self._openai = OpenAI(base_url=f"{url}/v1", api_key="none", timeout=600, max_retries=5)
        self._model = self._openai.models.list().data[0].id
        self.tokens, self.temperature = tokens, temperature

    def ask(self, messages: list[dict[str, str]], **more: Any) -> tuple[str, str, bool]:
        """The answer's id, its text, and whether the model ended it by itself."""
        sent: dict[str, Any] = {"temperature": self.temperature, "max_tokens": self.tokens} | more
        reply = self._openai.chat.completions.create(model=self._model, messages=messages, **sent)  # type: ignore[call-overload]
        choice = reply.choices[0]
        return reply.id, (choice.message.content or "").strip(), choice.finish_reason == "stop"


def said(text: str) -> list[dict[str, str]]:
    """A conversation's first message."""
    return [{"role": "user", "content": text}]


def exam(client: Client, character: User) -> Exam:
    """Side turns: stored, never judged, never learned from."""

    def held_out(i: int) -> tuple[Question, str, bool]:
        question = character.questions["held-out"][i]
        return question, *client.ask(said(question.text), seed=1000 + i, extra_headers=SIDE)[1:]

    def fact(question: Question) -> bool:
        more: dict[str, Any] = {"temperature": 0, "max_tokens": FACT_TOKENS, "extra_headers": SIDE}
        return is_right(question, client.ask(said(question.text + SHORTLY), **more)[1])

    with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
        told = list(pool.map(held_out, range(len(character.questions["held-out"]))))
        facts = list(pool.map(fact, character.questions["fact"]))
    opinions = [character.judge(*one) for one in told]
    return Exam(
        satisfied=[o.label == 1 for o in opinions],
        reasons=dict(Counter(o.reason for o in opinions)),
        facts=facts,
        words=statistics.mean(len(answer.split()) for _, answer, _ in told),
        answers=[answer for _, answer, _ in told],
    )


class Talks:
    """Sessions side by side: a question, its answer, a reaction in words; the user waits when learning lags."""

    def __init__(self, client: Client, character: User, seed: int, store: Path, ahead: int | None) -> None:
        """At most `ahead` turns wait to be learned from; None does not wait."""
        self.client, self.character, self.store, self.ahead = client, character, store, ahead
        self.heard: list[Heard] = []
        self._random = random.Random(f"{character.name}/{seed}")
        self._seed = seed
        self._lock = threading.Lock()
        self._pool: list[Question] = []

    def hold(self, turns: int, parallel: int, console: Console) -> None:
        """So many judged turns."""
        with ThreadPoolExecutor(parallel) as pool:
            sessions = [pool.submit(self._session, number) for number in range(turns)]
            for done in track(as_completed(sessions), "talking", total=turns, console=console):
                done.result()

    def _session(self, number: int) -> None:
        if self.ahead is not None:
            wait_for_learning(self.store, number + 1 - self.ahead)
        with self._lock:
            if not self._pool:
                self._pool = list(self.character.questions["train"])
                self._random.shuffle(self._pool)
            question = self._pool.pop()
        headers = {"X-Session-Id": f"session-{number}"}
        messages = said(question.text)
        turn, answer, finished = self.client.ask(messages, seed=self._seed * 100_003 + number, extra_headers=headers)
        opinion = self.character.judge(question, answer, finished)
        with self._lock:
            reaction = self.character.react(opinion, question, self._random)
            self.heard.append(Heard(turn, question.text, answer, opinion.label, opinion.reason, reaction))
        messages += [{"role": "assistant", "content": answer}, *said(reaction)]
        self.client.ask(messages, max_tokens=1, extra_headers=headers | {"X-Session-Done": "1"})


def rows(store: Path, query: str) -> list[tuple[Any, ...]]:
    """What the store holds; nothing while its tables are not there yet."""
    connection = sqlite3.connect(f"file:{store}?mode=ro", uri=True, timeout=30)
    try:
        return connection.execute(query).fetchall()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return []
        raise
    finally:
        connection.close()


def learned(store: Path) -> int:
    """Turns that were part of an update."""
    found = rows(store, "select count(distinct turn) from update_turns")
    return found[0][0] if found else 0


def wait_for_learning(store: Path, least: int) -> bool:
    """Whether so many turns were learned from; False when nothing more happens."""
    best, since = learned(store), time.monotonic()
    while best < least:
        if time.monotonic() - since > STUCK_SECONDS or stopped(store):
            return False
        time.sleep(0.5)
        if (now := learned(store)) > best:
            best, since = now, time.monotonic()
    return True


def stopped(store: Path) -> str:
    """Why the learner stopped for good, if it did."""
    return "; ".join(why for (why,) in rows(store, "select stopped from lineages") if why)


def wait_for_judging(store: Path, turns: int) -> None:
    """Until the judge has read them all, or nothing more happens."""
    best, since = -1, time.monotonic()
    while best < turns and time.monotonic() - since < STUCK_SECONDS / 4:
        now = (rows(store, "select count(*) from verdicts") or [(0,)])[0][0]
        if now > best:
            best, since = now, time.monotonic()
        time.sleep(0.5)


@contextmanager
def server(folder: Path, seed: int, options: Sequence[str]) -> Generator[str]:
    """`talktune serve` on a free port; its log is in the folder."""
    command = [sys.executable, "-m", "talktune", "serve", "--port", "0", "--store", str(folder / "store.db")]
    command += ["--policies", str(folder / "policies"), "--seed", str(seed), *options]
    with (
        (folder / "server.log").open("w") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as running,
    ):
        try:
            assert running.stdout is not None
            while not (line := running.stdout.readline()).startswith("ready"):
                if not line:
                    raise SystemExit((folder / "server.log").read_text()[-2000:] or "talktune serve ended")
            threading.Thread(target=running.stdout.read, daemon=True).start()
            yield line.split()[-1]
        finally:
            running.terminate()
            try:
                running.wait(60)
            except subprocess.TimeoutExpired:
                running.kill()


def measure(run: Run, args: argparse.Namespace, console: Console) -> Run:
    """One run: a fresh server, exam, talk, exam."""
    began = time.monotonic()
    character = User(run.character)
    folder = Path(args.keep or tempfile.mkdtemp(prefix="personalize-")) / run.folder
    store = folder / "store.db"
    if store.exists():
        raise SystemExit(f"{store} is there from an earlier run: give another --keep, or remove {folder}.")
    folder.mkdir(parents=True, exist_ok=True)
    learns = run.mode != "off"
    with server(folder, run.seed, [*args.server, *MODES[run.mode]]) as url:
        client = Client(url, args.tokens or TOKENS[run.character], args.temperature)
        console.print("the held-out questions, before …", style="dim")
        run.before = exam(client, character)
        talks = Talks(client, character, run.seed, store, args.ahead if learns else None)
        try:
            talks.hold(args.turns, args.parallel, console)
        finally:
            run.heard = talks.heard
        wait_for_judging(store, args.turns)
        if learns and not wait_for_learning(store, args.turns // args.batch_turns * args.batch_turns):
            console.print(f"the learner stands still: {stopped(store) or 'see ' + str(folder)}", style="yellow")
        wait_for_gate(store)
        console.print("the held-out questions, after …", style="dim")
        run.after = exam(client, character)
    run.seconds = time.monotonic() - began
    read_store(run, store)
    return run


def wait_for_gate(store: Path) -> None:
    """Until no version waits for its gate."""
    until = time.monotonic() + STUCK_SECONDS
    while time.monotonic() < until and rows(store, "select 1 from versions where state = 'candidate'"):
        time.sleep(0.5)


def read_store(run: Run, store: Path) -> None:
    """What was judged and learned; every verdict replayed with all its votes."""
    run.learned = learned(store)
    run.metrics = [json.loads(metrics) for (metrics,) in rows(store, "select metrics from updates order by number")]
    run.updates = len(run.metrics)
    run.versions = dict(rows(store, "select state, count(*) from versions group by state"))
    run.rejected = [why for (why,) in rows(store, "select reason from versions where state = 'rejected'")]
    rewards: dict[str, float] = dict(rows(store, "select turn, reward from verdicts"))
    votes: dict[str, int] = dict(rows(store, "select turn, count(*) from votes group by turn"))
    judged = [heard for heard in run.heard if heard.turn in rewards]
    if not judged:
        return
    run.judge = {
        "judged": len(judged),
        "right": sum(rewards[h.turn] == h.label for h in judged) / len(judged),
        "votes": sum(votes.get(h.turn, 0) for h in judged),
        "saved": 1 - sum(votes.get(h.turn, 0) for h in judged) / (VOTES * len(judged)),
        "changed": sum(rewards[h.turn] != again for h, again in zip(judged, replay(judged), strict=True)),
    }


def replay(judged: Sequence[Heard]) -> list[float | None]:
    """The rewards of all m votes, none left out."""
    turns = [
        Turn(
            conversation_id=heard.turn,
            index=1,
            prompt=(Message("user", heard.question),),
            answer=Message("assistant", heard.answer),
            next_state=(Message("user", heard.reaction),),
        )
        for heard in judged
    ]
    verdicts = judge_turns(_judge(), turns, VOTES, early_stop=False)
    return [verdict.reward for verdict in verdicts]


_JUDGES: list[Any] = []


def _judge() -> Any:
    if not _JUDGES:
        _JUDGES.append(make_judge(JudgeConfig(votes=VOTES)))
    return _JUDGES[0]


def figures(run: Run) -> dict[str, Any]:
    """A row of the table."""
    assert run.before is not None
    assert run.after is not None
    before, after = (sum(one.satisfied) / len(one.satisfied) for one in (run.before, run.after))
    return {
        "character": run.character,
        "run": run.mode if run.mode != "learn" else f"seed {run.seed}",
        "seed": run.seed,
        "before": before,
        "after": after,
        "gain": after - before,
        "sessions_to_three_in_a_row": run.sessions,
        "facts_kept": run.facts_kept,
        "words_before": run.before.words,
        "words_after": run.after.words,
        "distinct_after": len(set(run.after.answers)),
        "judged": len(run.heard),
        "learned": run.learned,
        "updates": run.updates,
        "versions": run.versions,
        "judge_right": run.judge.get("right"),
        "calls_saved": run.judge.get("saved"),
        "verdicts_changed": run.judge.get("changed"),
        "minutes": run.seconds / 60,
    }


def show(found: Sequence[dict[str, Any]], console: Console) -> None:
    """The table."""
    table = Table(
        "character", "run", "satisfied", "gain", "3 in a row after", "facts kept", "words", "learned",
        "live, rejected", "judge right", "calls saved", "minutes",
    )  # fmt: skip

    def share(value: float | None) -> str:
        return "" if value is None else f"{value:.2f}"

    for row in found:
        table.add_row(
            row["character"],
            row["run"],
            f"{row['before']:.2f} → {row['after']:.2f}",
            f"{row['gain']:+.2f}",
            str(row["sessions_to_three_in_a_row"] or "never"),
            f"{row['facts_kept']:.0%}",
            f"{row['words_before']:.0f} → {row['words_after']:.0f}",
            str(row["learned"]),
            f"{row['versions'].get('published', 0)}, {row['versions'].get('rejected', 0)}",
            share(row["judge_right"]),
            share(row["calls_saved"]) + (f" ({row['verdicts_changed']} changed)" if row["verdicts_changed"] else ""),
            f"{row['minutes']:.1f}",
        )
    console.print(table)


def main() -> None:
    """Run what was asked for; the JSON is written anew after every run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--character", choices=NAMES, nargs="+", default=list(NAMES))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1])
    parser.add_argument("--modes", choices=MODES, nargs="+", default=list(MODES), help="controls take the first seed")
    parser.add_argument("--turns", type=int, default=192, help="judged turns of a run")
    parser.add_argument("--parallel", type=int, default=16, help="conversations side by side")
    parser.add_argument("--ahead", type=int, default=32, help="most turns that wait to be learned from")
    parser.add_argument("--batch-turns", type=int, default=16)
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--tokens", type=int, help="where the client stops an answer")
    parser.add_argument("--keep", type=Path, help="folder for stores, versions and logs")
    parser.add_argument("--output", type=Path, help="JSON with everything measured")
    parser.add_argument("server", nargs="*", help="after --: more options of talktune serve")
    args = parser.parse_args()
    # Nothing is held out from training here: the bench has held-out questions of its own.
    own = ["--batch-turns", str(args.batch_turns), "--votes", str(VOTES), "--holdout", "0"]
    recipe = [part for name, value in RECIPE.items() if name not in args.server for part in (name, value)]
    args.server = [*own, *recipe, *args.server]
    console = Console(width=160 if not sys.stdout.isatty() else None)
    runs: list[Run] = []
    for name in args.character:
        for mode in args.modes:
            for seed in args.seeds if mode == "learn" else args.seeds[:1]:
                console.print(f"{name}, seed {seed}, {mode} …", style="dim")
                runs.append(measure(Run(name, seed, mode), args, console))
                found = [figures(run) for run in runs]
                show(found[-1:], console)
                if args.keep:
                    console.print(f"store, versions and the server's log: {args.keep / runs[-1].folder}")
                if args.output:
                    args.output.write_text(json.dumps(_report(args, found, runs), indent=1) + "\n")
    show([figures(run) for run in runs], console)


def _report(args: argparse.Namespace, found: list[dict[str, Any]], runs: Sequence[Run]) -> dict[str, Any]:
    return {
        "machine": {
            "machine": platform.machine(),
            "system": platform.platform(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        },
        "versions": {name: version(name) for name in ("talktune", "torch", "transformers", "peft", "openai")},
        "options": {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()},
        "table": found,
        "runs": [asdict(run) for run in runs],
    }


if __name__ == "__main__":
    main()
