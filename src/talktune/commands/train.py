"""`talktune train`: scored or raw conversations in, an adapter out."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from talktune.commands.console import progress, table, warn
from talktune.commands.options import Files, Output, Resume, Strict
from talktune.config import AlgorithmConfig, Config, FreshConfig, JudgeConfig, ModelConfig, TrainConfig
from talktune.errors import UserError
from talktune.files import whole_file
from talktune.types import Conversation, Sample

if TYPE_CHECKING:
    from talktune.learner.ranks import Ranks
    from talktune.learner.samples import Intake
    from talktune.policy.load import Policy


def trainable(policy: "Policy", config: Config) -> Any:
    """The policy's model ready for training: with a fresh adapter, a given one, or all weights at rank 0."""
    from talktune.policy.adapter import attach_adapter, load_adapter
    from talktune.policy.quantise import quantise_base

    model = config.model
    if model.lora_rank == 0:
        if config.algorithm.beta > 0:
            raise UserError("--beta: rank 0 trains all weights and keeps no reference to hold on to; add --beta 0.")
        if config.algorithm.distills:
            raise UserError(
                "--distill: rank 0 trains all weights and keeps no frozen model to learn from; leave it off."
            )
        if model.adapter is not None:
            raise UserError("--adapter: rank 0 trains all weights; leave the adapter out or set --lora-rank.")
        if config.train.base_4bit:
            raise UserError("--base-4bit: rank 0 trains all weights; leave it out.")
        return policy.model.train(False).requires_grad_(True)
    if model.adapter is not None:
        tuned = load_adapter(policy.model, model.adapter, trainable=True)
    else:
        tuned = attach_adapter(policy.model, model, config.train.seed)
    if config.train.base_4bit:
        quantise_base(tuned)
    return tuned


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
    from talktune.learner.ranks import joined

    config = Config(model, judge, algorithm, train, fresh=fresh)
    with joined() as ranks:
        return _train(files, output, config, ranks, resume=resume, strict=strict)


def _train(files: Sequence[Path], output: Path, config: Config, ranks: "Ranks", *, resume: bool, strict: bool) -> int:
    from talktune.commands.judged import load_conversations, score_conversations
    from talktune.conversations.turns import turns_of
    from talktune.learner.asking import Logged, make_asker
    from talktune.learner.run import open_run, run_updates
    from talktune.learner.samples import batches, samples_from
    from talktune.learner.update import Learner
    from talktune.policy.load import load_policy
    from talktune.policy.tokens import end_ids
    from talktune.report.page import make_report

    seed, scored_file = config.train.seed, output / "scored.jsonl"

    def opened() -> Sequence[Conversation]:
        conversations = load_conversations(files, strict)
        open_run(output, config, resume=resume)
        return conversations

    if ranks.count > 1 and config.train.base_4bit:
        raise UserError("--base-4bit: not on several ranks; leave it out, or train in one process.")
    conversations = ranks.of_first(opened)
    policy = load_policy(config.model, spread=ranks.count > 1)
    policy.model = trainable(policy, config)
    judge_with = policy if ranks.count == 1 else None  # it may be too large for one of several GPUs
    scored = ranks.of_first(
        lambda: score_conversations(conversations, config.judge, scored_file, policy=judge_with, seed=seed)
    )
    turns = [turn for conversation in scored for turn in turns_of(conversation)]
    intake = samples_from(
        turns, policy.tokenizer, config.algorithm.group, config.train, teach=config.algorithm.distills
    )
    ranks.of_first(lambda: _write_summary(output, intake, None))
    if not intake.samples:
        raise UserError(f"no turn can be trained on ({_reasons(intake)}); nothing was learned.")
    plan = batches(intake.samples, config.train)
    learner = Learner(policy.model, config, total_updates=len(plan), ranks=ranks, device=policy.device)
    ends = end_ids(policy.tokenizer, policy.model.generation_config)
    asker = None if ranks.count > 1 else make_asker(policy.model, policy.tokenizer, ends, config)
    if ranks.count > 1 and config.fresh is not None and config.fresh.fresh_answers:
        warn("--fresh-answers is off: several ranks sample no answers.")
    by_id = {f"{turn.conversation_id}:{turn.index}": turn for turn in turns}
    logged = None if asker is None else Logged(asker, plan, by_id, seed)
    metrics: list[dict[str, Any]] = []
    with progress() as bar:
        task = bar.add_task("updates", total=len(plan))

        def show(found: dict[str, Any]) -> None:
            metrics.append(found)
            bar.update(task, completed=learner.update, description=f"reward {found.get('reward_mean', 0):+.2f}")

        def source(update: int) -> tuple[Sequence[Sample], dict[str, float]]:
            known = [intake.agreement[s.id] for s in plan[update - 1] if s.id in intake.agreement]
            return plan[update - 1], {"votes_agreement": sum(known) / len(known)} if known else {}

        run_updates(learner, source, output, fresh=logged, on_update=show)
    if ranks.first:
        _write_summary(output, intake, learner.update)
        page = make_report(output)
        _show(intake, metrics, output, page)
    return 0


def _reasons(intake: "Intake") -> str:
    parts = [f"{n} {why}" for why, n in intake.skipped.items()]
    return ", ".join([*parts, f"{intake.unscored} unscored", f"{intake.side} side"])


def _write_summary(run: Path, intake: "Intake", updates: int | None) -> None:
    summary = {"turns": intake.as_dict()} | ({} if updates is None else {"updates": updates})
    with whole_file(run / "summary.json") as file:
        file.write(json.dumps(summary, indent=2).encode())


def _show(intake: "Intake", metrics: Sequence[dict[str, Any]], run: Path, page: Path) -> None:
    table(
        "Turns",
        ("what", "number"),
        [
            ("main", intake.main),
            ("side (served, never trained)", intake.side),
            ("unscored", intake.unscored),
            *((f"skipped: {why}", n) for why, n in intake.skipped.items()),
            ("trained on", len(intake.samples)),
            ("of these re-tokenised", intake.retokenised),
            *([("of these with a complaint to learn from", intake.taught)] if intake.taught else []),
        ],
    )
    if metrics:
        last = metrics[-1]
        names = ("reward_mean", "loss", "kl_ref", "entropy", "response_length", "grad_norm")
        table(f"Update {last['update']}", ("metric", "value"), [(n, last[n]) for n in names if n in last])
    warn(f"Adapter: {run / 'adapter'}\nReport:  {page}")
