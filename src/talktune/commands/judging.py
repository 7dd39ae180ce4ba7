"""`talktune judge-eval` and `talktune judge-train`: measure a judge, teach one its own users."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from talktune.commands.console import out, progress, table, warn
from talktune.commands.options import AsJson, LabelledFile, Output, Seed
from talktune.config import JudgeConfig, ModelConfig
from talktune.errors import UserError
from talktune.types import Label, Turn

if TYPE_CHECKING:
    from talktune.judge.evaluate import Evaluation

NAMES: dict[Label | None, str] = {-1: "bad (−1)", 0: "neutral (0)", 1: "good (+1)", None: "unscored"}


def judge_eval(
    file: LabelledFile, /, *, config: JudgeConfig = JudgeConfig(), as_json: AsJson = False, seed: Seed = 0
) -> int:
    """Measure a judge on labelled lines: accuracy, confusion, more and fewer votes."""
    from talktune.judge.evaluate import evaluate_judge, load_judge_lines
    from talktune.judge.from_config import make_judge

    lines = load_judge_lines(file)

    def truth(turn: Turn) -> Label:
        return lines[int(turn.conversation_id.removeprefix("line-"))].label

    judge = make_judge(config, truth=truth, seed=seed)
    with progress() as bar:
        task = bar.add_task("judging lines", total=len(lines))
        found = evaluate_judge(judge, lines, config.votes, lambda done, of: bar.update(task, completed=done, total=of))
    if as_json:
        out.print_json(json.dumps(_as_dict(found)), ensure_ascii=True)
    else:
        _show(found, judge.name)
    return 0


def judge_train(file: LabelledFile, /, *, output: Output, config: ModelConfig = ModelConfig(), seed: Seed = 0) -> int:
    """Fit a small verdict head for a judge from labelled lines; use it with --judge-head.

    Parameters
    ----------
    output
        The head file to write.
    """
    from talktune.judge.evaluate import load_judge_lines
    from talktune.judge.head import check_lines, fit_head, save_head
    from talktune.policy.load import load_policy

    lines = load_judge_lines(file)
    check_lines(lines)
    if output.is_dir():
        raise UserError(f"--output {output}: is a directory; name the head file to write.")
    policy = load_policy(config)
    with progress() as bar:
        task = bar.add_task("reading lines", total=len(lines))
        head = fit_head(
            policy.model, policy.tokenizer, lines, seed, lambda done, of: bar.update(task, completed=done, total=of)
        )
    save_head(head, output)
    warn(f"A head of {head.voters} voters is in {output}; measure it on lines that are not in {file}:")
    warn(f"talktune judge-eval OTHER.jsonl --judge local --judge-model {config.model} --judge-head {output}")
    return 0


def _as_dict(found: "Evaluation") -> dict[str, Any]:
    confusion = {str(label): {str(said): n for said, n in row.items()} for label, row in found.confusion.items()}
    return asdict(found) | {"confusion": confusion}


def _show(found: "Evaluation", name: str) -> None:
    rows: list[tuple[str, float]] = [(f"{name}, m = {m}", share) for m, share in found.accuracy.items()]
    if found.exact is not None:
        rows.append((f"{name}, m → ∞ (exact)", found.exact))
    rows.append((f"always {NAMES[found.common_label]}", found.common_accuracy))
    table(f"Accuracy on {found.lines} lines", ("judge", "share right"), rows)
    unscored = any(row[None] for row in found.confusion.values())
    said: tuple[Label | None, ...] = (-1, 0, 1, None) if unscored else (-1, 0, 1)
    table(
        f"Confusion at m = {found.votes}",
        ("truth", *(NAMES[s] for s in said)),
        [(NAMES[label], *(row[s] for s in said)) for label, row in found.confusion.items()],
    )
    out.print(f"Votes that agree with their verdict: {found.agreement:.2f}")
