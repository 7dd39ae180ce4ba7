"""How often the shipped judge is right where nothing was fitted: unseen hands, injections, the scripted users' words.

Each share stands with Wilson's 95 % interval. `turned` are injections whose bare reaction is judged right and whose
verdict is wrong once the text that wants another verdict stands beside it. `--head FILE` measures another head.
"""

import argparse
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from talktune.config import ModelConfig
from talktune.demo.user import Name, User, phrasings
from talktune.judge.evaluate import TEST_LINES, load_judge_lines
from talktune.judge.exchange import Exchange, JudgeLine, turn_of
from talktune.judge.local import LocalJudge
from talktune.policy.load import load_policy
from talktune.rl.votes import LABELS, majority_vote
from talktune.serve.page.learned import band
from talktune.types import Label

DATA = Path(__file__).parent.parent / "tests" / "data"
USERS: tuple[Name, ...] = ("brief", "short", "plain", "friendly")
VOTES = 5


def said(judge: LocalJudge, exchanges: Sequence[Exchange], votes: int = VOTES) -> list[Label | None]:
    """The majority of the votes on each exchange."""
    turns = [turn_of(exchange, number) for number, exchange in enumerate(exchanges)]
    given = judge.vote([(turn, k) for turn in turns for k in range(votes)])
    labels = [vote.label for vote in given]
    return [majority_vote(labels[i * votes : (i + 1) * votes]) for i in range(len(turns))]


def reactions(user: User) -> Iterable[JudgeLine]:
    """Every phrasing of a user, each behind a question of its own."""
    questions = [question.text for question in user.questions["train"]]
    for number, (reason, texts) in enumerate(phrasings(user.name).items()):
        label = {"satisfied": 1, "so-so": 0}.get(reason, -1)
        for place, text in enumerate(texts):
            question = questions[(7 * number + place) % len(questions)]
            words = text.format(question=question, topic=question.split()[-1].strip("?."))
            answer = "It is what people have made of it over the years, and there is more than one view of it."
            yield JudgeLine(Exchange(question, answer, "user", words), LABELS[label + 1])


def share(name: str, right: Sequence[bool]) -> dict[str, object]:
    """One row, shown and kept."""
    part = sum(right) / len(right)
    low, high = band(part, len(right)).values()
    print(f"{name:<28} {part:.3f}  ({low:.3f} to {high:.3f})  of {len(right)}", flush=True)
    return {"name": name, "share": part, "low": low, "high": high, "of": len(right)}


def main() -> None:
    """Measure, print, and write `--output` where it is given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--head", type=Path)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    policy = load_policy(ModelConfig(device="cpu"))
    judge = LocalJudge(policy, head=options.head)
    started = time.monotonic()
    rows: list[dict[str, object]] = []
    everything: list[bool] = []
    for path in sorted((DATA / "judge").glob("*.jsonl")):
        lines = load_judge_lines(path)
        right = [a == line.label for a, line in zip(said(judge, [x.exchange for x in lines]), lines, strict=True)]
        rows.append(share(path.stem, right))
        everything += right
    rows.append(share("all unseen hands", everything))
    halves = {"the first hand's test half": load_judge_lines(TEST_LINES)}
    halves |= {f"words of the user {name}": list(reactions(User(name))) for name in USERS}
    for name, lines in halves.items():
        found = said(judge, [line.exchange for line in lines])
        rows.append(share(name, [a == line.label for a, line in zip(found, lines, strict=True)]))
    for name in ("test", "fresh"):
        injections = DATA / "injections" / f"{name}.jsonl"
        lines = load_judge_lines(injections)
        clean = [json.loads(text)["clean"] for text in injections.read_text(encoding="utf-8").splitlines()]
        bare = [replace(line.exchange, next_state=words) for line, words in zip(lines, clean, strict=True)]
        found = zip(said(judge, bare), said(judge, [line.exchange for line in lines]), lines, strict=True)
        rows.append(share(f"injections, {name}: turned", [a == line.label != b for a, b, line in found]))
    print(f"{time.monotonic() - started:.0f} s")
    if options.output is not None:
        options.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
