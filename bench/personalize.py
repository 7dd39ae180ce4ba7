"""A scripted user talks to `talktune serve` and reacts in words only: how fast does the served model become theirs?

Three characters (short answers; no lists or bold; a friendly word) with a rule that neither the server nor its judge is
told. Conversations run side by side through the `openai` client; the server judges what was said with the shipped head,
learns, gates and swaps while it serves. A person is slower than an update: nobody talks on while `--ahead` turns wait
for one, or a version for its gate (with 32, most answers were one version old when they were learned from). After so
many judged turns the user asks 40 held-out questions and 44 facts through the server itself: a curve over judged turns,
and the area under its gain.

arms   learn      as `talktune serve` learns by default: fresh answers to the prompts of judged turns
       today      from the verdicts alone (--fresh-answers 0)
       distill    as learn, and a tenth of self-distillation from complaints (--distill 0.1)
       wanted     as learn, and the user writes what they wanted in place of the first ten answers that they disliked
       memory     no learning: the user's last complaints stand in the system prompt
       off        no learning
       shuffled   as learn, verdicts dealt out anew within each update
       random     as learn, and a user whose reactions say nothing
"""

import argparse
import json
import random
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import httpx2
import matplotlib.pyplot as plt
from common import keep, started, talktune
from matplotlib.lines import Line2D
from openai import OpenAI
from rich.console import Console
from rich.progress import track
from rich.table import Table

from talktune.config import JudgeConfig
from talktune.demo.loop import SHORTLY
from talktune.demo.user import NAMES, Name, Opinion, Question, User, is_right, phrasings
from talktune.judge.from_config import make_judge
from talktune.judge.panel import judge_turns
from talktune.types import Message, Turn

VOTES = 5
SIDE = {"X-Turn-Type": "side"}
TOKENS: dict[Name, int] = {"short": 64, "plain": 64, "friendly": 48}
"""Where this user's client stops an answer."""
FACT_TOKENS = 24
ASKED_AT_ONCE = 32
"""Questions of an exam side by side."""
STUCK_SECONDS = 1800.0
"""Without a step forward for so long, nothing more happens: an update may take minutes on a busy machine."""
PASSES = ("--microbatch-tokens", "512")
"""Long passes take half of the time, and more memory than the default."""
ARMS: dict[str, tuple[str, ...]] = {
    "learn": (),
    "today": ("--fresh-answers", "0"),
    "distill": ("--distill", "0.1"),
    "wanted": (),
    "memory": ("--no-learn",),
    "off": ("--no-learn",),
    "shuffled": ("--shuffle-rewards",),
    "random": (),
}
"""Options of the server."""
WANTED = 10
"""Answers that the user of `wanted` writes."""
REMEMBERED = 4
"""Complaints in the system prompt of `memory`."""


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
    arm: str
    exams: dict[int, Exam] = field(default_factory=dict[int, Exam])
    """By judged turns."""
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
        return f"{self.character}-{self.seed}-{self.arm}"

    @property
    def curve(self) -> dict[int, float]:
        """The share of held-out answers that please, by judged turns."""
        return {turns: statistics.mean(exam.satisfied) for turns, exam in self.exams.items()}

    @property
    def area(self) -> float:
        """Mean gain over the judged turns: the area between the curve and its start, over their number."""
        points = list(self.curve.items())
        start, total = points[0][1], points[-1][0] - points[0][0]
        parts = [(b - a) * ((x + y) / 2 - start) for (a, x), (b, y) in pairwise(points)]
        return sum(parts) / total if total else 0.0

    @property
    def facts_kept(self) -> float:
        """Share of the facts known before that are still right."""
        before, after = (list(self.exams.values())[i].facts for i in (0, -1))
        known = [now for was, now in zip(before, after, strict=True) if was]
        return sum(known) / max(len(known), 1)


class Client:
    """One person's program."""

    def __init__(self, url: str, tokens: int, temperature: float) -> None:
        self._url = url
        self._openai = OpenAI(base_url=f"{url}/v1", api_key="none", timeout=600, max_retries=5)
        self._model = self._openai.models.list().data[0].id
        self.tokens, self.temperature = tokens, temperature

    def tell_wanted(self, turn: str, text: str) -> None:
        """Say what an answer should have been."""
        httpx2.post(f"{self._url}/v1/feedback", json={"completion_id": turn, "better": text}).raise_for_status()

    def ask(self, messages: list[dict[str, str]], **more: Any) -> tuple[str, str, bool]:
        """The answer's id, its text, and whether the model ended it by itself."""
        sent: dict[str, Any] = {"temperature": self.temperature, "max_tokens": self.tokens} | more
        reply = self._openai.chat.completions.create(model=self._model, messages=messages, **sent)  # type: ignore[call-overload]
        choice = reply.choices[0]
        return reply.id, (choice.message.content or "").strip(), choice.finish_reason == "stop"


def said(text: str) -> list[dict[str, str]]:
    """A conversation's first message."""
    return [{"role": "user", "content": text}]


def exam(client: Client, character: User, told: Sequence[dict[str, str]]) -> Exam:
    """Side turns: stored, never judged, never learned from; `told` stands before the held-out questions."""

    def held_out(i: int) -> tuple[Question, str, bool]:
        question = character.questions["held-out"][i]
        return question, *client.ask([*told, *said(question.text)], seed=1000 + i, extra_headers=SIDE)[1:]

    def fact(question: Question) -> bool:
        more: dict[str, Any] = {"temperature": 0, "max_tokens": FACT_TOKENS, "extra_headers": SIDE}
        return is_right(question, client.ask(said(question.text + SHORTLY), **more)[1])

    with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
        answered = list(pool.map(held_out, range(len(character.questions["held-out"]))))
        facts = list(pool.map(fact, character.questions["fact"]))
    opinions = [character.judge(*one) for one in answered]
    return Exam(
        satisfied=[o.label == 1 for o in opinions],
        reasons=dict(Counter(o.reason for o in opinions)),
        facts=facts,
        words=statistics.mean(len(answer.split()) for _, answer, _ in answered),
        answers=[answer for _, answer, _ in answered],
    )


class Talks:
    """Sessions side by side: a question, its answer, a reaction in words; the user waits when learning lags."""

    def __init__(self, client: Client, character: User, run: Run, store: Path, ahead: int | None) -> None:
        """At most `ahead` turns wait to be learned from; None does not wait."""
        self.client, self.character, self.store, self.ahead = client, character, store, ahead
        self.arm, seed = run.arm, run.seed
        self.heard: list[Heard] = []
        self.wanted = 0
        self._random = random.Random(f"{character.name}/{seed}")
        self._seed = seed
        self._lock = threading.Lock()
        self._pool: list[Question] = []

    def hold(self, turns: int, parallel: int) -> None:
        """Judged turns, until there are so many of them."""
        with ThreadPoolExecutor(parallel) as pool:
            for done in as_completed([pool.submit(self._session, n) for n in range(len(self.heard), turns)]):
                done.result()

    def _wanted(self, question: Question, answer: str, opinion: Opinion) -> str | None:
        """What the user writes in place of this answer, if anything."""
        if self.arm != "wanted" or opinion.label >= 0 or self.wanted == WANTED:
            return None
        text = self.character.wants(question, answer, self._random)
        self.wanted += text is not None
        return text

    def told(self) -> list[dict[str, str]]:
        """What `memory` says before a question."""
        complaints = [heard.reaction for heard in self.heard if heard.label < 0][-REMEMBERED:]
        if self.arm != "memory" or not complaints:
            return []
        text = "\n".join(f"- {complaint}" for complaint in complaints)
        return [{"role": "system", "content": f"What this user said to earlier answers:\n{text}"}]

    def _session(self, number: int) -> None:
        if self.ahead is not None:
            wait_for_learning(self.store, number + 1 - self.ahead)
            wait_for_gate(self.store)
        with self._lock:
            if not self._pool:
                self._pool = list(self.character.questions["train"])
                self._random.shuffle(self._pool)
            question = self._pool.pop()
            messages = [*self.told(), *said(question.text)]
        headers = {"X-Session-Id": f"session-{number}"}
        turn, answer, finished = self.client.ask(messages, seed=self._seed * 100_003 + number, extra_headers=headers)
        opinion = self.character.judge(question, answer, finished)
        with self._lock:
            if self.arm == "random":
                reasons = phrasings(self.character.name)
                opinion = Opinion(opinion.label, self._random.choice(sorted(reasons)))
            reaction = self.character.react(opinion, question, self._random)
            wanted = self._wanted(question, answer, opinion)
            self.heard.append(Heard(turn, question.text, answer, opinion.label, opinion.reason, reaction))
        if wanted is not None:
            self.client.tell_wanted(turn, wanted)
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
    while best < turns and time.monotonic() - since < STUCK_SECONDS / 30:
        heard = "select turn from verdicts union select turn from feedback"
        now = (rows(store, f"select count(*) from ({heard})") or [(0,)])[0][0]
        if now > best:
            best, since = now, time.monotonic()
        time.sleep(0.5)


def measure(run: Run, args: argparse.Namespace, console: Console) -> Run:
    """One run: a fresh server, exam, talk, exam."""
    began = time.monotonic()
    character = User(run.character)
    folder = Path(args.keep or tempfile.mkdtemp(prefix="personalize-")) / run.folder
    store = folder / "store.db"
    if store.exists():
        raise SystemExit(f"{store} is there from an earlier run: give another --keep, or remove {folder}.")
    folder.mkdir(parents=True, exist_ok=True)
    learns = "--no-learn" not in ARMS[run.arm]
    own = ["--store", str(store), "--policies", str(folder / "policies"), "--seed", str(run.seed)]
    command = talktune("serve", "--port", "0", *own, *args.server, *ARMS[run.arm])
    with started(*command, log=folder / "server.log") as (_, url):
        client = Client(url, args.tokens or TOKENS[run.character], args.temperature)
        talks = Talks(client, character, run, store, args.ahead if learns else None)
        run.heard = talks.heard
        for turns in track(args.points, f"{run.folder}", console=console):
            talks.hold(turns, args.parallel)
            wait_for_judging(store, turns)
            if learns and not wait_for_learning(store, turns // args.batch_turns * args.batch_turns):
                console.print(f"the learner stands still: {stopped(store) or 'see ' + str(folder)}", style="yellow")
            wait_for_gate(store)
            run.exams[turns] = exam(client, character, talks.told())
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
    words = [exam.words for exam in run.exams.values()]
    return {
        "character": run.character,
        "arm": run.arm,
        "seed": run.seed,
        "curve": run.curve,
        "area": run.area,
        "facts_kept": run.facts_kept,
        "words": [words[0], words[-1]],
        "distinct_after": len(set(list(run.exams.values())[-1].answers)),
        "judged": len(run.heard),
        "learned": run.learned,
        "updates": run.updates,
        "trust": [row.get("trust") for row in run.metrics],
        "versions": run.versions,
        "judge_right": run.judge.get("right"),
        "calls_saved": run.judge.get("saved"),
        "verdicts_changed": run.judge.get("changed"),
        "minutes": run.seconds / 60,
    }


def show(found: Sequence[dict[str, Any]], console: Console) -> None:
    """The table: a row for each arm, the mean of its seeds and their range."""
    points = list(found[0]["curve"])
    table = Table("character", "arm", "seeds", *[str(turns) for turns in points], "area", "facts kept", "minutes")
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in found:
        rows.setdefault((row["character"], row["arm"]), []).append(row)
    for (character, arm), mine in rows.items():

        def spread(values: Sequence[float]) -> str:
            mean = f"{statistics.mean(values):.2f}"
            return mean if len(values) == 1 else f"{mean} ({min(values):.2f} to {max(values):.2f})"

        table.add_row(
            character,
            arm,
            str(len(mine)),
            *[spread([row["curve"][turns] for row in mine]) for turns in points],
            spread([row["area"] for row in mine]),
            f"{min(row['facts_kept'] for row in mine):.0%}",
            f"{statistics.mean(row['minutes'] for row in mine):.1f}",
        )
    console.print(table)


def draw(found: Sequence[dict[str, Any]], path: Path) -> None:
    """The curves of each character: the mean of an arm's seeds, and the band between the lowest and the highest."""
    characters = list(dict.fromkeys(row["character"] for row in found))
    colors = {arm: f"C{i}" for i, arm in enumerate(dict.fromkeys(row["arm"] for row in found))}
    figure, panels = plt.subplots(1, len(characters), figsize=(4 * len(characters), 3), squeeze=False, sharey=True)
    for panel, character in zip(panels[0], characters, strict=True):
        for arm in dict.fromkeys(row["arm"] for row in found if row["character"] == character):
            curves = [row["curve"] for row in found if (row["character"], row["arm"]) == (character, arm)]
            points = list(curves[0])
            values = [[curve[turns] for curve in curves] for turns in points]
            panel.plot(points, [statistics.mean(one) for one in values], color=colors[arm])
            low, high = [min(one) for one in values], [max(one) for one in values]
            panel.fill_between(points, low, high, alpha=0.15, color=colors[arm])
        panel.set(title=character, xlabel="judged turns", ylim=(0, 1))
    panels[0][0].set_ylabel("held-out answers that please")
    panels[0][-1].legend(handles=[Line2D([], [], color=c, label=arm) for arm, c in colors.items()], fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run what was asked for; the JSON is written anew after every run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--character", choices=NAMES, nargs="+", default=list(NAMES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", choices=ARMS, nargs="+", default=list(ARMS))
    parser.add_argument("--points", type=int, nargs="+", default=[0, 16, 32, 48, 64, 96], help="judged turns to ask at")
    parser.add_argument("--parallel", type=int, default=16, help="conversations side by side")
    parser.add_argument("--ahead", type=int, default=16, help="most turns that wait to be learned from")
    parser.add_argument("--batch-turns", type=int, default=16)
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--tokens", type=int, help="where the client stops an answer")
    parser.add_argument("--keep", type=Path, help="folder for stores, versions and logs")
    parser.add_argument("--output", type=Path, help="JSON with everything measured")
    parser.add_argument("server", nargs="*", help="after --: more options of talktune serve")
    args = parser.parse_args()
    # Nothing is held out from training here: the bench has held-out questions of its own.
    own = ["--batch-turns", str(args.batch_turns), "--votes", str(VOTES), "--holdout", "0"]
    args.server = [*own, *(() if PASSES[0] in args.server else PASSES), *args.server]
    console = Console(width=160 if not sys.stdout.isatty() else None)
    runs: list[Run] = []
    for name, arm, seed in product(args.character, args.arms, args.seeds):
        runs.append(measure(Run(name, seed, arm), args, console))
        found = [figures(run) for run in runs]
        show(found[-1:], console)
        if args.keep:
            console.print(f"store, versions and the server's log: {args.keep / runs[-1].folder}")
        if args.output:
            options = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
            keep(args.output, {"options": options, "table": found, "runs": [asdict(one) for one in runs]})
            draw(found, args.output.with_suffix(".png"))
    show([figures(run) for run in runs], console)


if __name__ == "__main__":
    main()
