"""`talktune export`: conversations as JSONL or Parquet for other trainers."""

from collections.abc import Sequence
from pathlib import Path

from talktune.commands.console import table, warn
from talktune.commands.score import load_conversations
from talktune.config import ExportFormat
from talktune.conversations.export import export as write
from talktune.conversations.turns import turns_of


def export(files: Sequence[Path], format: ExportFormat, output: Path, strict: bool) -> int:
    """The command: write the file, then say what went in and what was left out."""
    conversations = load_conversations(files, strict)
    result = write((turn for c in conversations for turn in turns_of(c)), format, output)
    rows = [("rows", result.rows), ("turns", result.turns)]
    rows += [(f"left out: {why}", n) for why, n in result.left_out.items()]
    table(f"Exported as {format}", ("what", "number"), rows)
    warn(f"Written to {output}")
    return 0
