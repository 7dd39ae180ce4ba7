"""`talktune train`: scored or raw conversations in, an adapter out."""

from pathlib import Path
from typing import TYPE_CHECKING

from talktune.commands.console import progress_shown, table, warn
from talktune.commands.options import Files, Output, Resume, Strict
from talktune.config import AlgorithmConfig, FreshConfig, JudgeConfig, ModelConfig, TrainConfig

if TYPE_CHECKING:
    from talktune.report.read_run import Run


def train(
    files: Files,
    /,
    *,
    output: Output = Path("runs/train"),
    model: ModelConfig = ModelConfig(),
    judge: JudgeConfig = JudgeConfig(),
    algorithm: AlgorithmConfig = AlgorithmConfig(),
    train: TrainConfig = TrainConfig(),
    fresh: FreshConfig = FreshConfig(),
    resume: Resume = False,
    strict: Strict = False,
) -> int:
    """Train on scored or raw conversations; what has no verdict yet is judged first. An adapter comes out.

    Parameters
    ----------
    output
        The run directory to make: adapter, checkpoints, metrics, report.
    """
    from talktune.api.conversations import load_conversations
    from talktune.api.train import train as run
    from talktune.learner.ranks import joined

    with joined() as ranks, progress_shown() as show:
        conversations = ranks.of_first(lambda: load_conversations(files, strict=strict, say=warn))
        made = run(
            conversations,
            output,
            model=model,
            judge=judge,
            algorithm=algorithm,
            train=train,
            fresh=fresh,
            resume=resume,
            on_progress=show,
            ranks=ranks,
        )
        if ranks.first:
            _show(made)
    return 0


def _show(run: "Run") -> None:
    turns = run.summary["turns"]
    table(
        "Turns",
        ("what", "number"),
        [
            ("main", turns["main"]),
            ("side (served, never trained)", turns["side"]),
            ("unscored", turns["unscored"]),
            *((f"skipped: {why}", n) for why, n in turns["skipped"].items()),
            ("trained on", turns["trained"]),
            ("of these re-tokenised", turns["retokenised"]),
            *([("of these with a complaint to learn from", turns["taught"])] if "taught" in turns else []),
            *([("of these with the answer that was wanted", turns["wanted"])] if "wanted" in turns else []),
        ],
    )
    last = run.metrics[-1]
    names = ("reward_mean", "loss", "kl_ref", "entropy", "response_length", "grad_norm")
    table(f"Update {last['update']:.0f}", ("metric", "value"), [(n, last[n]) for n in names if n in last])
    warn(f"Adapter: {run.path / 'adapter'}\nReport:  {run.path / 'report.html'}")
