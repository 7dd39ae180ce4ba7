"""Verdicts on conversations: what can be scored is judged, and kept in a file where one is named."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from talktune.config import JudgeConfig, check_config
from talktune.conversations.scored import ScoredTurns, ScoredWriter, is_complete
from talktune.conversations.turns import skip_reason, turns_of
from talktune.errors import UserError
from talktune.judge.from_config import make_judge
from talktune.judge.function import Answer, CallJudge
from talktune.judge.panel import Judge, judge_turns
from talktune.types import Conversation, Label, Turn

HANDFUL = 8
"""Conversations judged together."""
Progress = Callable[[str, int, int], object]
"""Hears what is being done, how many of them are done, and of how many."""


def score(
    conversations: Sequence[Conversation] | ScoredTurns,
    judge: JudgeConfig | Judge | Callable[[Turn], Answer] = JudgeConfig(),
    *,
    votes: int | None = None,
    output: Path | str | None = None,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> ScoredTurns:
    """Judge every turn that was reacted to and has no reward yet; all turns come back, in order.

    `judge` is a `LocalJudge`, an `EndpointJudge`, anything else that votes, a function that is given a turn and
    returns 1, 0 or −1, or options. It is asked for at most `votes` votes a turn: 5 by default, or as the options say.
    With `output` each conversation is written to that scored file as it is done, and what the file already holds is
    kept: call it again to finish what was interrupted, or stayed unscored because the judge was down.

    Raises UserError when nothing can be scored at all, and for a judge that cannot be had.

    >>> conversations = load_conversations("examples/conversations.jsonl")
    >>> def judge(turn):
    ...     return 1 if "thank" in turn.next_state[-1].content.lower() else 0
    >>> turns = score(conversations, judge, votes=1)
    >>> turns[1].answer.content, turns[1].verdict.reward
    ('Glad to hear it. Seven minutes gives you a jammy yolk.', 1.0)
    """
    if not isinstance(judge, JudgeConfig | Judge) and not callable(judge):
        raise UserError(f"the judge is {judge!r}: give a judge, a function, or options, as JudgeConfig(judge=…).")
    config = judge if isinstance(judge, JudgeConfig) else JudgeConfig(judge="python")
    config = check_config(config if votes is None else replace(config, votes=votes))
    if isinstance(conversations, ScoredTurns):
        conversations = conversations.conversations

    def make() -> Judge:
        if isinstance(judge, JudgeConfig):
            return make_judge(config, truth=truth_of(conversations), seed=seed)
        return judge if isinstance(judge, Judge) else CallJudge(judge)

    return judge_conversations(conversations, config, make, output, on_progress)


def judge_conversations(
    conversations: Sequence[Conversation],
    config: JudgeConfig,
    make: Callable[[], Judge],
    output: Path | str | None,
    on_progress: Progress | None,
) -> ScoredTurns:
    """The same with a judge that `make` makes, if it is needed; handfuls give the judge full batches."""
    if not any(skip_reason(turn) is None for c in conversations for turn in turns_of(c)):
        raise UserError("no turn with a next state: there is nothing that a judge could learn a reward from.")
    done: list[Conversation] = []
    with nullcontext() if output is None else ScoredWriter(Path(output)) as writer:
        if writer:
            conversations = [writer.resume(c) for c in conversations]
        judge = None if all(map(is_complete, conversations)) else make()
        for first in range(0, len(conversations), HANDFUL):
            handful = conversations[first : first + HANDFUL]
            if judge is not None:
                handful = _judged(handful, judge, config)
            for conversation in handful:
                if writer:
                    writer.write(conversation)
            done += handful
            if on_progress is not None:
                on_progress("judging conversations", len(done), len(conversations))
    return ScoredTurns(done)


def _judged(conversations: Sequence[Conversation], judge: Judge, config: JudgeConfig) -> list[Conversation]:
    open_turns = [(i, turn) for i, c in enumerate(conversations) for turn in ScoredTurns([c]).waiting()]
    verdicts = judge_turns(judge, [turn for _, turn in open_turns], config.votes, exact=config.exact)
    new = [dict(c.verdicts) for c in conversations]
    for (i, turn), verdict in zip(open_turns, verdicts, strict=True):
        new[i][turn.index] = verdict
    return [replace(c, verdicts=found) for c, found in zip(conversations, new, strict=True)]


def truth_of(conversations: Sequence[Conversation]) -> Callable[[Turn], Label | None]:
    """For the oracle: the `labels` field of a conversation, {message index: label}."""
    known = {c.id: c.metadata.get("labels") or {} for c in conversations}

    def truth(turn: Turn) -> Label | None:
        label = known[turn.conversation_id].get(str(turn.index))
        return label if label in (-1, 0, 1) else None

    return truth
