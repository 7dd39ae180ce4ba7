"""Make tests/data/golden_distill.json: numbers of the self-distillation loss, without torch and without its formulas.

Everything is computed from logits with 50 decimal digits, loop by loop, as the method is told in docs/distill.md. The
gradient is a central difference of the loss: it knows nothing of the one that was derived by hand.

    python scripts/golden_distill.py
"""

import json
import random
from decimal import Decimal, getcontext
from pathlib import Path
from typing import Any

getcontext().prec = 50
FILE = Path(__file__).parents[1] / "tests" / "data" / "golden_distill.json"
STEP = Decimal("1e-15")

Row = list[Decimal]


def log_probs(logits: Row, temperature: Decimal) -> Row:
    """Log-softmax of logits / temperature."""
    scores = [z / temperature for z in logits]
    total = sum((s.exp() for s in scores), Decimal(0)).ln()
    return [s - total for s in scores]


def gaps(old: Row, teacher: Row, bound: Decimal) -> Row:
    """The clipped and centred gaps of one token's candidates."""
    clipped = [max(-bound, min(bound, t - o)) for t, o in zip(teacher, old, strict=True)]
    weights = [o.exp() for o in old]
    mean = sum((w * g for w, g in zip(weights, clipped, strict=True)), Decimal(0)) / sum(weights, Decimal(0))
    return [g - mean for g in clipped]


def loss_of(
    case: dict[str, Any], new_logits: list[list[Row]]
) -> tuple[Decimal, list[list[Row]], list[list[list[int]]]]:
    """The loss of one case, and at each valid place the centred gaps and the candidates."""
    temperature, bound = Decimal(case["temperature"]), Decimal(case["bound"])
    low, high = 1 - Decimal(case["eps_low"]), 1 + Decimal(case["eps_high"])
    total, tokens = Decimal(0), 0
    found: list[list[Row]] = []
    chosen: list[list[list[int]]] = []
    for b, row in enumerate(case["mask"]):
        found.append([])
        chosen.append([])
        for t, valid in enumerate(row):
            if not valid:
                continue
            old = log_probs([Decimal(z) for z in case["old_logits"][b][t]], temperature)
            teacher = log_probs([Decimal(z) for z in case["teacher_logits"][b][t]], temperature)
            new = log_probs(new_logits[b][t], temperature)
            top = sorted(range(len(old)), key=lambda v: -old[v])[: case["k"]]
            delta = gaps([old[v] for v in top], [teacher[v] for v in top], bound)
            for v, d in zip(top, delta, strict=True):
                ratio = (new[v] - old[v]).exp()
                total += old[v].exp() * min(ratio * d, max(low, min(high, ratio)) * d)
            tokens += 1
            found[-1].append(delta)
            chosen[-1].append(top)
    return -total / max(tokens, 1), found, chosen


def gradient(case: dict[str, Any]) -> list[list[list[float]]]:
    """The loss' derivative by every logit of the new policy, by central differences."""
    logits = [[[Decimal(z) for z in place] for place in row] for row in case["new_logits"]]
    result: list[list[list[float]]] = []
    for row in logits:
        result.append([])
        for place in row:
            result[-1].append([])
            for v, z in enumerate(place):
                sides: list[Decimal] = []
                for sign in (1, -1):
                    place[v] = z + sign * STEP
                    sides.append(loss_of(case, logits)[0])
                place[v] = z
                result[-1][-1].append(float((sides[0] - sides[1]) / (2 * STEP)))
    return result


def make(seed: int, lengths: list[int], vocabulary: int, k: int, spread: float, moved: float, **more: str) -> Any:
    """One case of random logits; the teacher is `spread` away from the student, the new policy `moved` from the old."""
    rng = random.Random(seed)
    width = max(lengths)

    def noise(scale: float) -> list[list[list[float]]]:
        return [[[round(rng.gauss(0, scale), 3) for _ in range(vocabulary)] for _ in range(width)] for _ in lengths]

    def add(a: Any, b: Any) -> Any:
        return [add(x, y) for x, y in zip(a, b, strict=True)] if isinstance(a, list) else round(a + b, 6)

    old = noise(1.5)
    case: dict[str, Any] = {
        "k": k, "temperature": "1", "bound": "1", "eps_low": "0.2", "eps_high": "0.28", **more,
        "mask": [[int(t < n) for t in range(width)] for n in lengths],
        "old_logits": old, "new_logits": add(old, noise(moved)), "teacher_logits": add(old, noise(spread)),
    }  # fmt: skip
    text = {name: json.loads(json.dumps(case[name]), parse_float=str) for name in case if name.endswith("logits")}
    exact = case | text
    loss, delta, chosen = loss_of(exact, [[[Decimal(z) for z in place] for place in row] for row in text["new_logits"]])
    numbers = {"loss": float(loss), "candidates": chosen, "gaps": [[[*map(float, p)] for p in row] for row in delta]}
    return case | numbers | {"gradient": gradient(exact)}


CASES = [
    make(0, [4, 2, 3], 9, 4, spread=0.4, moved=0.0),
    make(1, [3, 5], 11, 5, spread=1.5, moved=0.5),
    make(2, [2, 2, 1], 6, 6, spread=1.0, moved=0.3, temperature="0.7"),
    make(3, [4], 12, 3, spread=3.0, moved=1.0, temperature="1.3", bound="0.5", eps_low="0.1", eps_high="0.4"),
]

if __name__ == "__main__":
    FILE.write_text(json.dumps(CASES) + "\n", encoding="utf-8")
    print(f"{FILE}: {len(CASES)} cases")
