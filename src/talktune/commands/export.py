"""`talktune export`: conversations as JSONL or Parquet for other trainers."""

from talktune.commands.console import table, warn
from talktune.commands.options import Files, Output, Strict
from talktune.config import ExportFormat


def export(files: Files, /, *, format: ExportFormat, output: Output, strict: Strict = False) -> int:
    """Write conversations for other trainers: JSONL, or Parquet when the output ends in .parquet.

    Parameters
    ----------
    format
        `openai` messages, `kto` for TRL's KTO trainer, `grpo` with rewards, groups, token ids and log-probs.
    output
        The file to write.
    """
    from talktune.api.conversations import load_conversations
    from talktune.conversations.export import export as write
    from talktune.conversations.turns import turns_of

    conversations = load_conversations(files, strict=strict, say=warn)
    result = write((turn for c in conversations for turn in turns_of(c)), format, output)
    rows = [("rows", result.rows), ("turns", result.turns)]
    rows += [(f"left out: {why}", n) for why, n in result.left_out.items()]
    table(f"Exported as {format}", ("what", "number"), rows)
    warn(f"Written to {output}")
    return 0
