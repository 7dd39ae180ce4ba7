"""Fit the table of `talktune.serve.side.likeness` to whole requests of clients and of people, and write it.

They are those of tests/data/side_turns.jsonl, and what people said in some of the judge's lines, half of it behind a
system prompt of tests/data/system_prompts.txt: in the first file most long system prompts are a client's.

Logistic regression with a squared penalty: it has one optimum, so that every machine finds the same table.
"""

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from talktune.config import ServeConfig
from talktune.serve.dialects.chat_request import parse_request
from talktune.serve.side.likeness import TABLE, marks
from talktune.serve.side.turn_kind import lasting, seen, shape

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data" / "side_turns.jsonl"
PEOPLE = ROOT / "src" / "talktune" / "judge" / "data" / "train.jsonl"
PROMPTS = ROOT / "tests" / "data" / "system_prompts.txt"
EVERY = 4
"""Of the judge's lines, one in so many is fitted on: the others show whether a person's word is lost."""
PENALTY = 1e-5
"""Of the squares of what the marks count."""
OFTEN = 2
"""Requests that have a mark; one that a single request has tells that request and nothing else."""
DIGITS = 2


def marks_of_request(request: dict[str, Any]) -> dict[str, float]:
    """All that a request is told by."""
    asked = parse_request(request, {}, ServeConfig())
    system, words = seen(asked.messages)
    return marks(system, lasting(words), shape(asked.messages, words, len(asked.tools), asked.limit))


def fit(requests: Sequence[Mapping[str, float]], sides: Sequence[bool]) -> dict[str, float]:
    """What each mark counts, so that the points of sides are above zero and those of others below."""
    often = Counter(mark for request in requests for mark in request)
    names = sorted(mark for mark, count in often.items() if count >= OFTEN)
    places = {name: i for i, name in enumerate(names)}
    given = torch.zeros(len(requests), len(names), dtype=torch.float64)
    for i, request in enumerate(requests):
        for mark, part in request.items():
            if mark in places:
                given[i, places[mark]] = part
    wanted = torch.tensor(sides, dtype=torch.float64)
    worth = torch.zeros(len(names), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [worth], max_iter=500, tolerance_grad=1e-7, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        found = binary_cross_entropy_with_logits(given @ worth, wanted) + PENALTY * (worth**2).sum()
        found.backward()
        return found

    optimizer.step(loss)
    return dict(zip(names, worth.detach().tolist(), strict=True))


def rounded(table: Mapping[str, float]) -> dict[str, float]:
    """The table as it is written."""
    return {mark: round(worth, DIGITS) for mark, worth in table.items() if round(worth, DIGITS)}


def people() -> list[dict[str, Any]]:
    """Requests of people: what they asked, and how they reacted, in the judge's lines."""
    lines = [json.loads(line) for line in PEOPLE.read_text(encoding="utf-8").splitlines()]
    found: list[dict[str, Any]] = []
    for line in lines:
        asked = {"role": "user", "content": line["request"]}
        found.append({"messages": [asked]})
        if line["role"] == "user":
            answer, reaction = {"role": "assistant", "content": line["response"]}, line["next_state"]
            found.append({"messages": [asked, answer, {"role": "user", "content": reaction}]})
    prompts = PROMPTS.read_text(encoding="utf-8").splitlines()
    for i, request in enumerate(found):
        if i // EVERY % 2:
            system = {"role": "system", "content": prompts[i // EVERY // 2 % len(prompts)]}
            request["messages"].insert(0, system)
        if i // EVERY % 5 == 1:  # people's clients limit answers, too
            request["max_tokens"] = 50
    return found


def known() -> tuple[list[dict[str, float]], list[bool]]:
    """The requests of the fit, and which of them are a client's."""
    rows: list[dict[str, Any]] = [json.loads(line) for line in DATA.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if len(row["request"].get("tools") or ()) <= 1]  # with more it is an agent's
    requests = [row["request"] for row in rows] + people()[::EVERY]
    sides = [row["kind"] == "side" for row in rows]
    return [marks_of_request(request) for request in requests], sides + [False] * (len(requests) - len(sides))


def main() -> None:
    """Fit and write."""
    requests, sides = known()
    found = rounded(fit(requests, sides))
    TABLE.write_text(json.dumps(found, ensure_ascii=False, indent=0, sort_keys=True) + "\n", encoding="utf-8")
    print(f"{len(requests)} requests, {len(found)} marks: {TABLE}", file=sys.stderr)


if __name__ == "__main__":
    main()
