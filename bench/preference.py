"""Which features foretell a scripted user's verdict from few judged answers? Training questions only.

224 answers of the bare model to each user's training questions, judged by the user with 3 % of the verdicts wrong. A
fit on n of them is tried on the answers to other prompts (a quarter of the prompts, drawn anew each time): the AUC over
all pairs of answers with different verdicts, the AUC over those pairs that answer one prompt, and the log loss saved
against the base rate, in nats. `mixture` is what is shipped; its last figure is the trust that it earned.
Verdicts at random must give 0.5, no gain and no trust.
"""

import argparse
import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from talktune.config import ModelConfig, SampleConfig
from talktune.demo.user import NAMES, Name, User
from talktune.learner.preference import (
    DEVIATIONS,
    VIEWS,
    Answer,
    Reading,
    View,
    folds_of,
    foretell,
    foretold,
    judge_experts,
    read_answers,
    state_view,
)
from talktune.policy.load import load_policy
from talktune.policy.sample import sample_answers
from talktune.policy.tokens import decode_answer, end_ids, render_prompt
from talktune.rl.trust import earned_trust, log_losses, mixed
from talktune.types import Message

ANSWERS = 224
TOKENS: dict[Name, int] = {"short": 64, "plain": 64, "friendly": 48}
WRONG = 0.03
LABELLED = (16, 32, 64, 96)
OTHERS = (
    View("mean and last of layers 12, 16, 20", state_view((1, 0), (1, 1), (2, 0), (2, 1), (3, 0), (3, 1))),
    View("mean of layer 6", state_view((0, 0))),
    View("mean of layers 12, 20", state_view((1, 0), (3, 0))),
)
"""Views that were tried beside those of the mixture."""


class Data(NamedTuple):
    """One user's answers."""

    readings: list[Reading]
    heard: Tensor
    """Classes 0…2 as they arrived (N,)."""
    meant: Tensor
    """As the user meant them."""


def collect(name: Name, folder: Path, policy: Any) -> list[tuple[Reading, int]]:
    """The user's answers with their true labels, sampled and read once."""
    file = folder / f"{name}.pt"
    if not file.exists():
        user, rng = User(name), random.Random(f"collect/{name}")
        ends = end_ids(policy.tokenizer, policy.model.generation_config)
        pool: list[Any] = []
        while len(pool) < ANSWERS:
            pool += rng.sample(user.questions["train"], len(user.questions["train"]))
        prompts = [render_prompt(policy.tokenizer, [Message("user", q.text)]) for q in pool[:ANSWERS]]
        answers: list[Answer] = []
        for start in range(0, ANSWERS, 56):
            config = SampleConfig(max_new_tokens=TOKENS[name])
            drawn = sample_answers(policy.model, prompts[start : start + 56], config, end_ids=ends, seed=start + 7)
            for question, one in zip(pool[start:], drawn, strict=False):
                text = decode_answer(policy.tokenizer, list(one.answer_ids)).strip()
                ended = one.answer_ids[-1] in ends
                answers.append(Answer(one.prompt_ids, one.answer_ids, question.text, text, ended))
        labels = [user.judge(q, a.text, a.ended).label for q, a in zip(pool, answers, strict=False)]
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(list(zip(read_answers(policy.model, answers), labels, strict=True)), file)
    return torch.load(file, weights_only=False)


def data_of(pairs: Sequence[tuple[Reading, int]], name: str, *, noise: bool) -> Data:
    """With 3 % of the verdicts wrong, or all of them at random."""
    rng = random.Random(f"{name}/heard")
    heard: list[int] = []
    for _, label in pairs:
        wrong = rng.random() < WRONG
        heard.append(rng.choice([x for x in (-1, 0, 1) if x != label]) if wrong else label)
    if noise:
        rng.shuffle(heard)
    meant = heard if noise else [label for _, label in pairs]
    return Data([reading for reading, _ in pairs], torch.tensor(heard) + 1, torch.tensor(meant) + 1)


def auc(scores: Tensor, classes: Tensor, prompts: Sequence[Any] | None = None) -> float:
    """Share of pairs with different verdicts that scores put in their order; within `prompts` where they are given."""
    ahead = scores[:, None] - scores[None, :]
    pairs = classes[:, None] > classes[None, :]
    if prompts is not None:
        place = {ids: i for i, ids in enumerate(dict.fromkeys(prompts))}
        group = torch.tensor([place[ids] for ids in prompts])
        pairs &= group[:, None] == group[None, :]
    right = (ahead > 0).double() + 0.5 * (ahead == 0).double()
    return float(right[pairs].mean()) if pairs.any() else math.nan


def trial(data: Data, n: int, seed: int, views: Sequence[View]) -> dict[str, list[float]]:
    """One fit on n answers, tried on those to other prompts: by view AUC, AUC within prompts, gain (and trust)."""
    rng = random.Random(seed)
    prompts = sorted({r.prompt for r in data.readings})
    held = set(rng.sample(prompts, len(prompts) // 4))
    order = rng.sample(range(len(data.readings)), len(data.readings))
    train = [i for i in order if data.readings[i].prompt not in held][:n]
    test = [i for i in order if data.readings[i].prompt in held]
    known, others = [data.readings[i] for i in train], [data.readings[i] for i in test]
    heard, meant = data.heard[train], data.meant[test]
    told = foretell(known, heard, others, views)
    folds = folds_of(known)
    weights, scores, _ = judge_experts(foretold(known, heard, folds, VIEWS), heard, folds)
    mine = mixed(foretell(known, heard, others, VIEWS), weights)
    wide = len(DEVIATIONS)
    every = {view.name: told[:, i * wide : (i + 1) * wide].mean(1) for i, view in enumerate(views)} | {"mixture": mine}
    base = float(log_losses(told[:, -1:], meant).mean())
    found: dict[str, list[float]] = {}
    for name, p in every.items():
        score = p[:, 2] - p[:, 0]
        gain = base - float(log_losses(p[:, None], meant).mean())
        found[name] = [auc(score, meant), auc(score, meant, [r.prompt for r in others]), gain]
    found["mixture"] += [earned_trust(scores, heard), *weights.tolist()]
    return found


def main() -> None:
    """The tables, as JSON and as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", choices=NAMES, nargs="+", default=list(NAMES))
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--cache", type=Path, default=Path("build/preference"))
    parser.add_argument("--output", type=Path, help="file without its ending: .json and .md are written")
    args = parser.parse_args()
    policy = None
    if not all((args.cache / f"{name}.pt").exists() for name in args.users):
        policy = load_policy(ModelConfig(device="cpu"))
    rows: list[dict[str, Any]] = []
    for name in args.users:
        pairs = collect(name, args.cache, policy)
        for noise in (False, True):
            data = data_of(pairs, name, noise=noise)
            views = VIEWS if noise else (*VIEWS, *OTHERS)
            for n in LABELLED:
                trials = [trial(data, n, seed, views) for seed in range(args.trials)]
                for view in trials[0]:
                    if noise and view != "mixture":
                        continue
                    means = torch.tensor([one[view] for one in trials], dtype=torch.float64).nanmean(0).tolist()
                    numbers = dict(zip(("auc", "auc_within", "gain", "trust"), means, strict=False))
                    user = f"{name}, verdicts shuffled" if noise else name
                    rows.append({"user": user, "features": view, "n": n} | numbers | {"weights": means[4:]})
    text = table(rows)
    print(text)
    if args.output:
        args.output.with_suffix(".json").write_text("[\n" + ",\n".join(json.dumps(_rounded(r)) for r in rows) + "\n]\n")
        args.output.with_suffix(".md").write_text(text + "\n")


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(row), parse_float=lambda number: round(float(number), 4))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A line for each user and set of features."""
    lines = ["AUC / AUC within a prompt / nats saved, after n judged answers; trust in brackets.", ""]
    lines += ["| user | features | " + " | ".join(f"n = {n}" for n in LABELLED) + " |", "|---|---|" + "---|" * 4]
    for user, features in dict.fromkeys((row["user"], row["features"]) for row in rows):
        cells: list[str] = []
        for row in (r for r in rows if (r["user"], r["features"]) == (user, features)):
            trust = f" ({row['trust']:.2f})" if "trust" in row else ""
            cells.append(f"{row['auc']:.2f} / {row['auc_within']:.2f} / {row['gain']:+.3f}{trust}")
        lines.append(f"| {user} | {features} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
