"""What `score`, `train` and `export` share: conversations read from files and stores, and judged."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from talktune.commands.console import progress, warn
from talktune.commands.stores import is_store, open_store
from talktune.config import JudgeConfig
from talktune.conversations.readers import read_conversations
from talktune.conversations.scored import ScoredWriter, is_complete
from talktune.conversations.turns import skip_reason, turns_of
from talktune.errors import UserError
from talktune.judge.make import make_judge
from talktune.judge.panel import Judge, judge_turns
from talktune.policy.load import Policy
from talktune.types import Conversation, Label, Turn

HANDFUL = 8
"""Conversations judged together."""


def load_conversations(files: Sequence[Path], strict: bool) -> tuple[Conversation, ...]:
    """Read files and stores, print every problem and note, and return what could be used."""
    stores = [path for path in files if is_store(path)]
    stored = tuple(conversation for path in stores for conversation in open_store(path).export())
    if len(stores) == len(files):
        if not stored:
            raise UserError(f"{', '.join(map(str, stores))}: holds no conversation yet.")
        return stored
    found = read_conversations([path for path in files if path not in stores], strict=strict)
    for line in (*found.problems, *found.notes):
        warn(line)
    if found.problems:
        warn(f"{len(found.problems)} line(s) could not be used, {len(found.conversations)} conversations can.")
    return (*stored, *found.conversations)


def score_conversations(
    conversations: Sequence[Conversation],
    config: JudgeConfig,
    output: Path,
    *,
    policy: Policy | None = None,
    seed: int = 0,
) -> list[Conversation]:
    """Judge every turn that has no reward yet and write each conversation to `output` as it is done.

    Conversations are judged in handfuls, so that the judge gets full batches. What `output` already holds is
    kept. Raises UserError when nothing can be scored at all.
    """
    if not any(skip_reason(turn) is None for c in conversations for turn in turns_of(c)):
        raise UserError("no turn with a next state: there is nothing that a judge could learn a reward from.")
    done: list[Conversation] = []
    with ScoredWriter(output) as writer:
        conversations = [writer.resume(c) for c in conversations]
        judge: Judge | None = None
        if not all(map(is_complete, conversations)):
            judge = make_judge(config, policy=policy, truth=_truth(conversations), seed=seed)
        with progress() as bar:
            task = bar.add_task("judging conversations", total=len(conversations))
            for first in range(0, len(conversations), HANDFUL):
                handful = conversations[first : first + HANDFUL]
                if judge is not None:
                    handful = _judged(handful, judge, config)
                for conversation in handful:
                    writer.write(conversation)
                done += handful
                bar.advance(task, len(handful))
    return done


def _judged(conversations: Sequence[Conversation], judge: Judge, config: JudgeConfig) -> list[Conversation]:
    open_turns = [
        (i, turn)
        for i, conversation in enumerate(conversations)
        for turn in turns_of(conversation)
        if skip_reason(turn) is None and (turn.verdict is None or turn.verdict.reward is None)
    ]
    verdicts = judge_turns(judge, [turn for _, turn in open_turns], config.votes, exact=config.exact)
    new = [dict(c.verdicts) for c in conversations]
    for (i, turn), verdict in zip(open_turns, verdicts, strict=True):
        new[i][turn.index] = verdict
    return [replace(c, verdicts=found) for c, found in zip(conversations, new, strict=True)]


def _truth(conversations: Sequence[Conversation]) -> Callable[[Turn], Label | None]:
    """For the oracle: the `labels` field of a conversation, {message index: label}."""
    known = {c.id: c.metadata.get("labels") or {} for c in conversations}

    def truth(turn: Turn) -> Label | None:
        label = known[turn.conversation_id].get(str(turn.index))
        return label if label in (-1, 0, 1) else None

    return truth
