"""A store with as many turns as a busy year leaves, written straight into its tables."""

import json
from pathlib import Path

from sqlalchemy import insert

from talktune.store import schema
from talktune.store.store import Store

BATCH = 10_000


def make_large(path: Path, turns: int, user: str = "local") -> None:
    """So many turns of a user, two to a conversation, each judged, liked more and more often."""
    store = Store(path)
    talks = [{"id": f"c{i}", "user": user, "created": float(i), "touched": float(i)} for i in range(0, turns, 2)]
    with store.engine.begin() as c:
        for first in range(0, len(talks), BATCH):
            c.execute(insert(schema.conversations), talks[first : first + BATCH])
        for first in range(0, turns, BATCH):
            numbers = range(first, min(first + BATCH, turns))
            c.execute(insert(schema.turns), [_turn(i, user) for i in numbers])
            judged = [(f"t{i:07d}", 1.0 if i * 7 % turns < i else -1.0, float(i)) for i in numbers]
            verdicts = [{"turn": id, "reward": reward, "created": at} for id, reward, at in judged]
            c.execute(insert(schema.verdicts), verdicts)
            vote = {"number": 0, "confidence": 0.9, "judge": "local", "reason": "", "cost": 0.1}
            c.execute(insert(schema.votes), [vote | {"turn": t, "label": r, "created": at} for t, r, at in judged])
    store.close()


def _turn(i: int, user: str) -> dict[str, object]:
    follows = i % 2 == 1
    return {
        "id": f"t{i:07d}",
        "conversation": f"c{i - i % 2}",
        "parent": f"t{i - 1:07d}" if follows else None,
        "user": user,
        "hash": i.to_bytes(32),
        "continued": int(not follows),
        "kind": "main",
        "state": "complete",
        "messages": json.dumps([{"role": "user", "content": f"Why is number {i} as it is?"}]),
        "answer": json.dumps({"role": "assistant", "content": f"Because it comes after number {i - 1}. " * 8}),
        "engine": "host",
        "created": float(i),
    }
