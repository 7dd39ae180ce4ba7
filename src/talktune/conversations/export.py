"""Turns out of talktune, for other trainers: JSONL, or Parquet when the file's name ends in .parquet.

- `openai`: a line a conversation, as `score` writes it: messages, tools, and what is known of each turn.
- `kto`: a line a turn, {"prompt", "completion", "label"} as TRL's KTOTrainer takes it; a neutral turn has no
  label and is left out.
- `grpo`: a line a turn with its reward (from the votes, before length shaping), the ids of prompt and answer
  and the log-probs where they were captured (named as TRL names them), and "group", equal for answers to
  the same prompt: advantages can be taken over it.

In `kto` and `grpo` the arguments of tool calls are objects, as chat templates read them; in Parquet they are JSON
text, like everything free-form, since typed columns have no room for it.

Turns that hold images are left out of all three, as the images were never kept; `kto` and `grpo` leave out
side and unscored turns as well. What is left out is counted by reason.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from talktune.config import ExportFormat
from talktune.conversations.files import json_line, parquet_module
from talktune.conversations.messages import sent_form
from talktune.conversations.records import conversation_to_dict, digest
from talktune.conversations.turns import skip_reason
from talktune.errors import UserError
from talktune.files import whole_file
from talktune.types import Conversation, Message, Turn

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ExportResult:
    """How much was written, and how many turns were left out, by reason."""

    rows: int
    turns: int
    left_out: Mapping[str, int] = field(default_factory=dict[str, int])


def export(turns: Iterable[Turn], format: ExportFormat, path: Path) -> ExportResult:
    """Writes the turns to `path` at once; raises `UserError` when it cannot, or when no turn fits."""
    used: list[Turn] = []
    left_out: Counter[str] = Counter()
    for turn in turns:
        reason = _left_out(turn, format)
        if reason is None:
            used.append(turn)
        else:
            left_out[reason] += 1
    if not used:
        why = ", ".join(f"{n} {reason}" for reason, n in left_out.items()) or "there are none"
        raise UserError(f"No turn can be exported as {format} ({why}); `talktune score` gives turns their rewards.")
    if format == "openai":
        rows = _openai_rows(used)
    else:
        row = _kto_row if format == "kto" else _grpo_row
        rows = [row(turn) for turn in used]
    _write(rows, path)
    return ExportResult(len(rows), len(used), dict(left_out))


def _left_out(turn: Turn, format: ExportFormat) -> str | None:
    """Why the format has no place for a turn; None when it has."""
    reason = skip_reason(turn)
    if format == "openai":
        return reason if reason == "image" else None
    if reason is not None:
        return reason
    if turn.verdict is None or turn.verdict.reward is None:
        return "unscored"
    return "neutral" if format == "kto" and turn.verdict.reward == 0 else None


def _openai_rows(turns: Sequence[Turn]) -> list[Row]:
    """One line a conversation, rebuilt from its last turn, which has all the others in its prompt."""
    by_conversation: dict[str, list[Turn]] = {}
    for turn in turns:
        by_conversation.setdefault(turn.conversation_id, []).append(turn)
    rows: list[Row] = []
    for name, own in by_conversation.items():
        last = max(own, key=lambda turn: turn.index)
        conversation = Conversation(
            id=name,
            messages=(*(last.prompt if last.before is None else last.before), last.answer, *last.next_state),
            tools=last.tools,
            kinds={t.index: t.kind for t in own},
            sampled={t.index: t.sampled for t in own if t.sampled is not None},
            verdicts={t.index: t.verdict for t in own if t.verdict is not None},
            prompts={t.index: t.prompt for t in own if t.before is not None},
            finishes={t.index: t.finish for t in own if t.finish is not None},
            wanted={t.index: t.wanted for t in own if t.wanted is not None},
        )
        rows.append(conversation_to_dict(conversation))
    return rows


def _kto_row(turn: Turn) -> Row:
    assert turn.verdict is not None
    assert turn.verdict.reward is not None
    row: Row = {
        "prompt": to_chat(turn.prompt),
        "completion": to_chat([turn.answer]),
        "label": turn.verdict.reward > 0,
    }
    return {**row, "tools": [dict(tool) for tool in turn.tools]} if turn.tools else row


def _grpo_row(turn: Turn) -> Row:
    assert turn.verdict is not None
    sampled = turn.sampled
    row: Row = {
        "id": f"{turn.conversation_id}/{turn.index}",
        "conversation": turn.conversation_id,
        "group": f"prompt-{digest(turn.prompt, turn.tools)}",
        "prompt": to_chat(turn.prompt),
        "completion": to_chat([turn.answer]),
        "reward": turn.verdict.reward,
        "prompt_ids": None if sampled is None else list(sampled.prompt_ids),
        "completion_ids": None if sampled is None else list(sampled.answer_ids),
        "logprobs": None if sampled is None or sampled.logprobs is None else list(sampled.logprobs),
        "temperature": None if sampled is None else sampled.temperature,
        "policy_version": None if sampled is None else sampled.policy_version,
        "finish_reason": turn.finish,
    }
    return {**row, "tools": [dict(tool) for tool in turn.tools]} if turn.tools else row


def to_chat(messages: Sequence[Message]) -> list[Row]:
    """Messages in OpenAI's form, but for the arguments of tool calls: objects, where they are a JSON object."""
    found = [sent_form(message) for message in messages]
    for call in (call for message in found for call in message.get("tool_calls", ())):
        try:
            arguments = json.loads(call["function"]["arguments"])
        except (ValueError, RecursionError):
            continue
        if isinstance(arguments, dict):
            call["function"] = {**call["function"], "arguments": arguments}
    return found


def _as_text(messages: Sequence[Row]) -> list[Row]:
    """The inverse, for Parquet."""
    out = [dict(message) for message in messages]
    for message in out:
        calls = [dict(call) for call in message.get("tool_calls", ())]
        for call in calls:
            arguments = call["function"]["arguments"]
            text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
            call["function"] = {**call["function"], "arguments": text}
        if calls:
            message["tool_calls"] = calls
    return out


def _write(rows: Sequence[Row], path: Path) -> None:
    if path.suffix != ".parquet":
        with whole_file(path) as file:
            file.writelines(map(json_line, rows))
        return
    parquet = parquet_module()
    import pyarrow

    # Tool definitions are free-form JSON, which typed columns have no room for: they go in as JSON text.
    keys = dict.fromkeys(chain.from_iterable(rows))
    free = {"tools", "metadata"}
    rows = [row | {k: _as_text(row[k]) for k in ("prompt", "completion") if k in row} for row in rows]
    flat = [{k: json.dumps(row[k]) if k in free and k in row else row.get(k) for k in keys} for row in rows]
    sink: Any = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_pylist(flat), sink)
    with whole_file(path) as file:
        file.write(sink.getvalue().to_pybytes())
