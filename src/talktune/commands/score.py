"""`talktune score`: conversations in, verdicts on every turn out."""

from talktune.commands.console import table, warn
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
    from talktune.commands.judged import load_conversations, score_conversations
    from talktune.conversations.turns import skip_reason, turns_of

    scored = score_conversations(load_conversations(files, strict), judge, output, seed=seed)
    turns = [turn for c in scored for turn in turns_of(c)]
    rewards = [turn.verdict.reward for turn in turns if turn.verdict is not None and turn.verdict.reward is not None]
    waiting = [t for t in turns if skip_reason(t) is None and (t.verdict is None or t.verdict.reward is None)]
    rows: list[tuple[str, object]] = [
        ("conversations", len(scored)),
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
