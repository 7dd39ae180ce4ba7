"""`talktune demo`: the whole loop on the shipped model, from the first exam to the report."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from talktune.commands.console import out, peak_memory_gib, progress, side_by_side, table, warn
from talktune.commands.options import Output, Resume
from talktune.config import (
    Config,
    DemoAlgorithmConfig,
    DemoConfig,
    DemoFreshConfig,
    DemoSampleConfig,
    DemoTrainConfig,
    JudgeConfig,
    ModelConfig,
)
from talktune.errors import UserError

if TYPE_CHECKING:
    from talktune.demo.loop import Demo, Exam

FIGURES = (
    ("satisfaction", "held-out questions that satisfy the user"),
    ("answer_tokens", "mean answer length, tokens"),
    ("facts_kept", "facts known before that are still right"),
    ("distinct_answers", "share of different answers"),
    ("most_repeated_answer", "questions with the commonest answer"),
)


def demo(
    *,
    output: Output = Path("runs/demo"),
    judge: JudgeConfig = JudgeConfig(),
    algorithm: DemoAlgorithmConfig = DemoAlgorithmConfig(),
    train: DemoTrainConfig = DemoTrainConfig(),
    sample: DemoSampleConfig = DemoSampleConfig(),
    rollout: DemoConfig = DemoConfig(),
    fresh: DemoFreshConfig = DemoFreshConfig(),
    model: ModelConfig = ModelConfig(),
    resume: Resume = False,
) -> int:
    """Watch the whole loop on the shipped model: a scripted user complains and praises, the model learns.

    Parameters
    ----------
    output
        The run directory to make.
    """
    from talktune.api.train import trainable
    from talktune.demo.fresh_answers import DemoFresh
    from talktune.demo.loop import Demo, first_exam, write_results
    from talktune.judge.from_config import make_judge
    from talktune.learner.asker import make_asker
    from talktune.learner.run_directory import open_run, run_updates
    from talktune.learner.update import Learner
    from talktune.policy.load import load_policy
    from talktune.report.page import make_report

    started = time.monotonic()
    config = Config(model, judge, algorithm, train, sample, rollout, fresh=fresh)
    if config.model.lora_rank == 0:
        raise UserError("--lora-rank is 0: the demo trains an adapter and judges without it; use 1 or more.")
    open_run(output, config, resume=resume)
    warn("Loading the model (the first time its weights are converted, about 20 s) …")
    policy = load_policy(config.model)
    policy.model = trainable(policy, config)
    updates = config.train.updates or 1
    with progress() as bar:
        task = bar.add_task("asking held-out questions", total=updates)
        state = {"reward": ""}

        def say(what: str) -> None:
            bar.update(task, description=f"{what}{state['reward']}")

        def show(metrics: dict[str, Any]) -> None:
            state["reward"] = f" · reward {metrics.get('reward_mean', 0):+.2f}"
            bar.update(task, completed=metrics["update"])

        partners = Demo(policy, config, on_progress=say)
        partners.judge = make_judge(
            config.judge,
            policy=policy,
            truth=lambda turn: partners.truth[turn.conversation_id],
            seed=config.train.seed,
        )
        before = first_exam(partners, output)
        learner = Learner(policy.model, config, total_updates=updates)
        asker = make_asker(policy.model, policy.tokenizer, partners.ends, config)
        again = None if asker is None else DemoFresh(asker, partners, output / "readings")
        run_updates(learner, partners.samples, output, fresh=again, on_update=show)
        say("asking held-out questions again")
        after = partners.exam()
    other = _run_figures(output) | {
        "seed": config.train.seed,
        "seconds": time.monotonic() - started,
        "peak_memory_gib": peak_memory_gib(),
    }
    summary = write_results(partners, output, before, after, other)
    page = make_report(output)
    _show(partners, before, after, summary, output, page)
    return 0


def _run_figures(run: Path) -> dict[str, Any]:
    """KL and how often the judge was right, over the last quarter of the updates."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    late = lines[-max(len(lines) // 4, 1) :]

    def mean(name: str) -> float:
        values = [line[name] for line in late if name in line]
        return sum(values) / max(len(values), 1)

    return {"updates": len(lines), "kl": mean("kl_ref"), "judge_right": mean("judge_right")}


def _show(demo: "Demo", before: "Exam", after: "Exam", summary: dict[str, Any], run: Path, page: Path) -> None:
    rows: list[tuple[object, ...]] = [(text, summary["before"][name], summary["after"][name]) for name, text in FIGURES]
    rows += [
        ("KL to the model before, nats/token", "0", summary["kl"]),
        ("verdicts that were what the user meant", "", summary["judge_right"]),
        ("minutes", "", summary["seconds"] / 60),
        ("largest memory, GiB", "", summary["peak_memory_gib"]),
    ]
    table(f"{summary['updates']} updates, seed {summary['seed']}", ("", "before", "after"), rows)
    asked = demo.questions["held-out"][:5]
    side_by_side(
        "Five held-out questions",
        ("question", "before", "after"),
        [(q.text, before.answers[i], after.answers[i]) for i, q in enumerate(asked)],
    )
    out.print(f"Adapter: {run / 'adapter'}\nReport:  {page}", markup=False, soft_wrap=True)
