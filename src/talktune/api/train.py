"""Training: scored or raw conversations in, a run with an adapter out."""

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from talktune.api.score import Progress, judge_conversations, truth_of
from talktune.config import AlgorithmConfig, Config, FreshConfig, JudgeConfig, ModelConfig, TrainConfig, check_config
from talktune.conversations.scored import ScoredTurns
from talktune.errors import UserError
from talktune.files import whole_file
from talktune.judge.from_config import make_judge
from talktune.learner.asker import Logged, make_asker
from talktune.learner.ranks import ALONE, Ranks
from talktune.learner.run_directory import open_run, run_updates
from talktune.learner.samples import Intake, batches, samples_from
from talktune.learner.update import Learner
from talktune.policy.adapter import attach_adapter, load_adapter
from talktune.policy.load import Policy, load_policy
from talktune.policy.quantise import quantise_base
from talktune.report.page import make_report
from talktune.report.read_run import Run, read_run
from talktune.types import Conversation, Sample, Turn

log = logging.getLogger(__name__)


def train(
    conversations: Sequence[Conversation] | ScoredTurns,
    output: Path | str = Path("runs/train"),
    *,
    model: ModelConfig | str = ModelConfig(),
    judge: JudgeConfig = JudgeConfig(),
    algorithm: AlgorithmConfig = AlgorithmConfig(),
    train: TrainConfig = TrainConfig(),
    fresh: FreshConfig = FreshConfig(),
    resume: bool = False,
    on_progress: Progress | None = None,
    ranks: Ranks = ALONE,
) -> Run:
    """Train a policy on how its answers were received: a run directory comes out, with adapter, metrics and report.

    What `score` returned is taken as it is, corrections included; turns of conversations that have no verdict yet are
    judged first. With `resume` a run that was killed goes on and ends with the weights of one that was not. `ranks`
    share the work where torchrun started several processes; all of them give the same conversations and options.

    Raises UserError when `output` is a run already, when the model or a judge cannot be had, and when no turn can be
    trained on.

    >>> conversations = load_conversations("examples/conversations.jsonl")
    >>> turns = score(conversations, lambda turn: 1 if len(turn.answer.content) < 80 else -1, votes=1)
    >>> run = train(turns.corrected(turns[1], -1), "run", model=tiny_model, train=TrainConfig(updates=1))
    >>> len(run.metrics), (run.path / "adapter").is_dir()
    (1, True)
    """
    output = Path(output)
    model = ModelConfig(model=model) if isinstance(model, str) else model
    config = check_config(Config(model, judge, algorithm, train, fresh=fresh))
    ranks.of_first(lambda: open_run(output, config, resume=resume))
    policy = load_policy(config.model, spread=ranks.count > 1)
    policy.model = trainable(policy, config)
    if isinstance(conversations, ScoredTurns):
        scored = conversations
    else:
        given, own = conversations, policy if ranks.count == 1 else None  # too large for one of several GPUs, perhaps
        scored = ranks.of_first(lambda: _judged(given, config, own, output / "scored.jsonl", on_progress))
    intake = samples_from(
        scored, policy.tokenizer, config.algorithm.group, config.train, teach=config.algorithm.distills
    )
    ranks.of_first(lambda: _write_summary(output, intake, None))
    if not intake.samples:
        raise UserError(f"no turn can be trained on ({_reasons(intake)}); nothing was learned.")
    updates = _learn(intake, scored, policy, config, output, ranks, on_progress)

    def ended() -> Run:
        _write_summary(output, intake, updates)
        make_report(output)
        return read_run(output)

    return ranks.of_first(ended)


def trainable(policy: Policy, config: Config) -> Any:
    """The policy's model ready for training: with a fresh adapter, a given one, or all weights at rank 0."""
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


def _judged(
    conversations: Sequence[Conversation],
    config: Config,
    policy: Policy | None,
    file: Path,
    on_progress: Progress | None,
) -> ScoredTurns:
    """Judged by the `policy` in training, its adapter off, where that is the judge's model: one copy in memory."""

    def make() -> Any:
        return make_judge(config.judge, policy=policy, truth=truth_of(conversations), seed=config.train.seed)

    return judge_conversations(conversations, config.judge, make, file, on_progress)


def _learn(
    intake: Intake,
    turns: Sequence[Turn],
    policy: Policy,
    config: Config,
    output: Path,
    ranks: Ranks,
    on_progress: Progress | None,
) -> int:
    """Take the updates; how many there are by now."""
    plan = batches(intake.samples, config.train)
    learner = Learner(policy.model, config, total_updates=len(plan), ranks=ranks, device=policy.device)
    asking = config if ranks.count == 1 else replace(config, fresh=None)
    asker = make_asker(policy.model, policy.tokenizer, policy.end_ids, asking)
    if ranks.count > 1 and ranks.first and config.fresh is not None and config.fresh.fresh_answers:
        log.warning("--fresh-answers is off: several ranks sample no answers.")
    logged = None if asker is None else Logged(asker, plan, {turn.id: turn for turn in turns}, config.train.seed)

    def source(update: int) -> tuple[Sequence[Sample], dict[str, float]]:
        known = [intake.agreement[s.id] for s in plan[update - 1] if s.id in intake.agreement]
        return plan[update - 1], {"votes_agreement": sum(known) / len(known)} if known else {}

    def show(found: dict[str, Any]) -> None:
        if on_progress is not None:
            on_progress(f"reward {found.get('reward_mean', 0):+.2f}", learner.update, len(plan))

    run_updates(learner, source, output, fresh=logged, on_update=show)
    return learner.update


def _reasons(intake: Intake) -> str:
    parts = [f"{n} {why}" for why, n in intake.skipped.items()]
    return ", ".join([*parts, f"{intake.unscored} unscored", f"{intake.side} side"])


def _write_summary(run: Path, intake: Intake, updates: int | None) -> None:
    summary = {"turns": intake.as_dict()} | ({} if updates is None else {"updates": updates})
    with whole_file(run / "summary.json") as file:
        file.write(json.dumps(summary, indent=2).encode())
