"""`talktune score`: conversations in, verdicts on every turn out."""

from talktune.commands.console import progress_shown, table, warn
from talktune.commands.options import Files, Output, Seed, Strict
from talktune.config import JudgeConfig

UNSCORED = 3
"""Exit code when some turns could not be scored: run the same command again later."""


def score(
    files: Files, /, *, output: Output, judge: JudgeConfig = JudgeConfig(), strict: Strict = False, seed: Seed = 0
) -> int:
    """Judge every turn of some conversations: conversations in, verdicts on every turn out.

    Run it again with the same output to finish turns that stayed unscored (exit code 3).

    Parameters
    ----------
    output
        The scored file to write or to go on with.
    """
    from talktune.api.conversations import load_conversations
    from talktune.api.score import score as run
    from talktune.conversations.turns import skip_reason

    conversations = load_conversations(files, strict=strict, say=warn)
    with progress_shown() as show:
        turns = run(conversations, judge, output=output, seed=seed, on_progress=show)
    rewards = [turn.verdict.reward for turn in turns if turn.verdict is not None and turn.verdict.reward is not None]
    waiting = turns.waiting()
    rows: list[tuple[str, object]] = [
        ("conversations", len(turns.conversations)),
        ("turns", len(turns)),
        ("good (+1)", sum(r == 1 for r in rewards)),
        ("neutral (0)", sum(r == 0 for r in rewards)),
        ("bad (−1)", sum(r == -1 for r in rewards)),
        ("unscored", len(waiting)),
        ("not scorable", sum(skip_reason(t) is not None for t in turns)),
    ]
    table(f"Scored by {judge.judge}, {judge.votes} votes", ("what", "number"), rows)
    warn(f"Verdicts are in {output}")
    if not waiting:
        return 0
    reasons = {v.reason for t in waiting if t.verdict for v in t.verdict.votes if v.reason}
    warn(f"{len(waiting)} turn(s) stay unscored ({'; '.join(sorted(reasons)[:3]) or 'too few valid votes'}).")
    warn("Run the same command again to finish them.")
    return UNSCORED
