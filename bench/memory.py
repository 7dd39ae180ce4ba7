"""Peak memory of an update against the tokens of one sample: as it is, with layers computed again, and in pieces.

    python bench/memory.py [--tokens 512 1024 2048 4096] [--shape smollm2]

Every measurement has a process of its own; the slope is least squares over the lengths.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

from common import keep
from learner import SHAPES, make_model, measure
from rich.console import Console
from rich.table import Table

from talktune.config import AlgorithmConfig, Config, TrainConfig
from talktune.types import Sample

PIECE = 256
SHAPES["small"] = {
    "kind": "llama", "vocab_size": 2048, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 12,
    "num_attention_heads": 8, "num_key_value_heads": 2, "tie_word_embeddings": True, "max_position_embeddings": 65536,
}  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "--checkpoint-layers": {"checkpoint_layers": True},
    f"--piece-tokens {PIECE}": {"piece_tokens": PIECE},
    "both": {"checkpoint_layers": True, "piece_tokens": PIECE},
}


def work(shape: str, variant: str, tokens: int) -> dict[str, float]:
    """Extra memory of the gradient of one sample whose second half is the answer, and the seconds it took."""
    from talktune.learner.update import Learner

    rng, vocabulary = Random(0), SHAPES[shape]["vocab_size"]
    ids = tuple(rng.randrange(10, vocabulary) for _ in range(tokens))
    sample = Sample("a", ids[: tokens // 2], ids[tokens // 2 :], 1.0, "g", tuple(-5.0 for _ in ids[tokens // 2 :]))
    train = TrainConfig(microbatch_tokens=tokens, max_tokens=tokens, **VARIANTS[variant])
    learner = Learner(make_model(shape), Config(algorithm=AlgorithmConfig(beta=0.0, group="none"), train=train), 1)
    return measure(lambda: learner.gradient([sample]))


def slope(xs: list[int], ys: list[float]) -> float:
    """Least squares."""
    mx, my = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((x - mx) * (y - my) for x, y in zip(xs, ys, strict=True)) / sum((x - mx) ** 2 for x in xs)


def command(shape: str, variant: str, tokens: int) -> list[str]:
    """The process of one measurement; a variant begins with dashes as options do, so that it stands behind a sign."""
    return [sys.executable, "-W", "ignore", __file__, "--shape", shape, f"--work={variant}", "--tokens", str(tokens)]


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[512, 1024, 2048, 4096])
    parser.add_argument("--shape", choices=list(SHAPES), default="small")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--work", choices=list(VARIANTS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        print(json.dumps(work(args.shape, args.work, args.tokens[0])))
        return
    columns = [f"MiB at {n}" for n in args.tokens]
    table = Table("variant", *columns, "MiB / 1000 tokens", f"seconds at {args.tokens[-1]}")
    found: dict[str, Any] = {}
    for variant in VARIANTS:
        rows: list[dict[str, float]] = []
        for tokens in args.tokens:
            done = subprocess.run(command(args.shape, variant, tokens), capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{variant}, {tokens}: {done.stderr[-2000:]}")
            rows.append(json.loads(done.stdout.splitlines()[-1]))
        extra = [row["extra_mib"] for row in rows]
        rise = 1000 * slope(args.tokens, extra)
        found[variant] = {"tokens": args.tokens, "extra_mib": extra, "mib_per_1000": rise}
        table.add_row(variant, *(f"{one:.0f}" for one in extra), f"{rise:.1f}", f"{rows[-1]['seconds']:.1f}")
    Console().print(table)
    keep(args.output, {"shape": args.shape, "rows": found})


if __name__ == "__main__":
    main()
