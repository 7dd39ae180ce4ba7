"""One line of a file (a JSON object) into a `Conversation`, and back into the line that `score` writes.

Four forms are known by their fields:

    {"messages": […]}                          OpenAI, Hugging Face; `score`, `export --format openai`
    {"conversations": [{"from", "value"}]}     ShareGPT; also with role and content, and with calls in Hermes' tags
    {"prompt": …, "completion": …, "label"}    TRL's KTO form, `export --format kto`
    {"prompt": …, "completion": …, "reward"}   `export --format grpo`

Optional beside them: "id", "tools", "metadata", "side_turns" (indices of messages that are side turns) and
"turns" (what is known of each). Fields nobody knows are kept in the metadata. An answer with "weight": 0, as in
OpenAI's data for fine-tuning, is a side turn: it stays in the talk, and is neither judged nor trained.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from talktune.conversations.files import strict_json
from talktune.conversations.hermes import from_tags
from talktune.conversations.messages import (
    BadConversation,
    check_conversation,
    message_from_dict,
    message_to_dict,
    messages_from_list,
    object_of,
)
from talktune.types import Conversation, Label, Message, Sampled, TurnKind, Verdict, Vote

KNOWN = {"id", "messages", "conversations", "system", "tools", "metadata", "turns", "side_turns"}
KNOWN_SAMPLED = {"prompt_ids", "completion_ids", "logprobs", "temperature", "policy_version"}
KNOWN_ANSWER = {"completion", "label", "reward", "finish_reason"} | KNOWN_SAMPLED
KNOWN_COMPLETION = {"id", "prompt", "tools", "metadata"} | KNOWN_ANSWER
SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
}


def conversation_from_dict(raw: object) -> Conversation:
    """The conversation of one line in any known form; raises `BadConversation`.

    Without an "id" it is named after a hash of its messages, so that the same line has the same name in
    every run, wherever it stands.
    """
    if isinstance(raw, list) and raw:  # the messages of one conversation
        raw = {"conversations": raw}
    fields = object_of(raw, "it is not a JSON object")
    if "messages" in fields:
        messages = messages_from_list(fields["messages"])
    elif "conversations" in fields:
        messages = _from_sharegpt(fields["conversations"], fields.get("system"))
    elif "prompt" in fields and "completion" in fields:
        return _from_completion(fields)
    else:
        raise BadConversation('it has none of "messages", "conversations" or "prompt" with "completion"')
    tools = _tools(fields.get("tools"))
    kinds, sampled, verdicts, prompts, finishes, wanted = _known_turns(fields.get("turns") or (), messages)
    for index in _unweighted(fields.get("messages", fields.get("conversations")), messages):
        kinds[index] = "side"
    for index in _list(fields.get("side_turns") or (), "side_turns"):
        kinds[_answer_index(index, messages, "side_turns")] = "side"
    return Conversation(
        id=_id(fields.get("id"), messages, tools),
        messages=messages,
        tools=tools,
        metadata=_metadata(fields, KNOWN),
        kinds=kinds,
        sampled=sampled,
        verdicts=verdicts,
        prompts=prompts,
        finishes=finishes,
        wanted=wanted,
    )


def conversation_to_dict(conversation: Conversation) -> dict[str, Any]:
    """The line that `score` writes; `conversation_from_dict` gives it back equal ("main" is not stored)."""
    out: dict[str, Any] = {
        "id": conversation.id,
        "messages": [message_to_dict(m) for m in conversation.messages],
    }
    if conversation.tools:
        out["tools"] = [dict(tool) for tool in conversation.tools]
    if conversation.metadata:
        out["metadata"] = dict(conversation.metadata)
    turns: list[dict[str, Any]] = []
    known = (
        conversation.kinds,
        conversation.sampled,
        conversation.verdicts,
        conversation.prompts,
        conversation.finishes,
        conversation.wanted,
    )
    for index in sorted({index for about in known for index in about}):
        entry: dict[str, Any] = {"index": index, "kind": conversation.kinds.get(index, "main")}
        if index in conversation.finishes:
            entry["finish_reason"] = conversation.finishes[index]
        if index in conversation.wanted:
            entry["better"] = conversation.wanted[index]
        verdict, sampled = conversation.verdicts.get(index), conversation.sampled.get(index)
        if verdict is not None:
            entry["votes"] = [
                {"label": v.label, "confidence": v.confidence, "judge": v.judge, "reason": v.reason}
                for v in verdict.votes
            ]
            entry["reward"] = verdict.reward
        if sampled is not None:
            entry["sampled"] = {
                "prompt_ids": list(sampled.prompt_ids),
                "answer_ids": list(sampled.answer_ids),
                "logprobs": None if sampled.logprobs is None else list(sampled.logprobs),
                "temperature": sampled.temperature,
                "policy_version": sampled.policy_version,
            }
        if index in conversation.prompts:
            entry |= _prompt_to_dict(conversation.prompts[index], conversation.messages[:index])
        turns.append(entry)
    if turns:
        out["turns"] = turns
    return out


def _prompt_to_dict(prompt: Sequence[Message], before: Sequence[Message]) -> dict[str, Any]:
    """A prompt of its own; where no more than the system prompt is another, only that."""
    system = "\n\n".join(m.content for m in prompt if m.role == "system")
    if prompt == with_system(system, before):
        return {"system": system}
    return {"prompt": [message_to_dict(m) for m in prompt]}


def with_system(system: str, messages: Sequence[Message]) -> tuple[Message, ...]:
    """Messages under another system prompt."""
    rest = tuple(m for m in messages if m.role != "system")
    return (Message("system", system), *rest) if system else rest


def digest(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> str:
    """Twelve hexadecimal digits of the SHA-256 of messages and tools, equal for equal content."""
    form = [[message_to_dict(m) for m in messages], [dict(t) for t in tools]]
    return hashlib.sha256(json.dumps(form, sort_keys=True).encode()).hexdigest()[:12]


def _id(raw: object, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> str:
    if raw is None or raw == "":
        return f"conv-{digest(messages, tools)}"
    if isinstance(raw, str | int) and not isinstance(raw, bool):
        return str(raw)
    raise BadConversation('"id" is neither text nor a whole number')


def _tools(raw: object) -> tuple[Mapping[str, Any], ...]:
    """Tool definitions; some exports (LLaMA-Factory, our Parquet) hold the list as JSON text."""
    tools = _list(_unpacked(raw, "tools") or (), "tools")
    return tuple(object_of(tool, '"tools" holds something that is not an object') for tool in tools)


def _metadata(fields: Mapping[str, Any], known: set[str]) -> dict[str, Any]:
    own = object_of(_unpacked(fields.get("metadata"), "metadata") or {}, '"metadata" is not an object')
    return {**{k: v for k, v in fields.items() if k not in known}, **own}


def _known_turns(
    raw: object, messages: Sequence[Message]
) -> tuple[
    dict[int, TurnKind],
    dict[int, Sampled],
    dict[int, Verdict],
    dict[int, tuple[Message, ...]],
    dict[int, str],
    dict[int, str],
]:
    """Side marks, ids, verdicts, own prompts, finish reasons, wanted answers of a line's "turns", by message index."""
    kinds: dict[int, TurnKind] = {}
    sampled: dict[int, Sampled] = {}
    verdicts: dict[int, Verdict] = {}
    prompts: dict[int, tuple[Message, ...]] = {}
    finishes: dict[int, str] = {}
    wanted: dict[int, str] = {}
    for entry in _list(_unpacked(raw, "turns"), "turns"):
        turn = object_of(entry, '"turns" holds something that is not an object')
        index = _answer_index(turn.get("index"), messages, "turns")
        kind = turn.get("kind") or "main"
        if kind not in ("main", "side"):
            raise BadConversation(f'turn {index}: the kind {kind!r} is neither "main" nor "side"')
        if kind == "side":
            kinds[index] = "side"
        finish = turn.get("finish_reason")
        if finish is not None:
            if not isinstance(finish, str):
                raise BadConversation(f"turn {index}: finish_reason is not text")
            finishes[index] = finish
        better = turn.get("better")
        if better is not None:
            if not isinstance(better, str):
                raise BadConversation(f"turn {index}: better is not text")
            wanted[index] = better
        if turn.get("sampled") is not None:
            sampled[index] = _sampled(turn["sampled"], f"turn {index}")
        if turn.get("votes") is not None or turn.get("reward") is not None:
            votes = tuple(_vote(v, f"turn {index}") for v in _list(turn.get("votes") or (), "votes"))
            reward = turn.get("reward")
            verdicts[index] = Verdict(votes, None if reward is None else _number(reward, f"turn {index}: reward"))
        if turn.get("prompt") is not None:
            own = enumerate(_list(turn["prompt"], "prompt"), start=1)
            prompts[index] = tuple(message_from_dict(m, f"turn {index}: message {i} of its prompt") for i, m in own)
        elif isinstance(turn.get("system"), str):
            prompts[index] = with_system(turn["system"], messages[:index])
    return kinds, sampled, verdicts, prompts, finishes, wanted


def _vote(raw: object, where: str) -> Vote:
    vote = object_of(raw, f"{where}: a vote is not an object")
    label, confidence = vote.get("label"), vote.get("confidence")
    if label is not None and (isinstance(label, bool) or label not in (-1, 0, 1)):
        raise BadConversation(f"{where}: the vote {label!r} is not -1, 0, 1 or null")
    if confidence is not None:
        confidence = _number(confidence, f"{where}: confidence")
        if not 0 < confidence <= 1:
            raise BadConversation(f"{where}: the confidence {confidence} is not in (0, 1]")
    judge, reason = vote.get("judge") or "", vote.get("reason") or ""
    if not isinstance(judge, str) or not isinstance(reason, str):
        raise BadConversation(f"{where}: a vote's judge and reason are text")
    return Vote(None if label is None else cast(Label, int(label)), confidence, judge, reason)


def _sampled(raw: object, where: str) -> Sampled:
    fields = object_of(raw, f'{where}: "sampled" is not an object')
    prompt_ids, answer_ids = _ids(fields, "prompt_ids", where), _ids(fields, "answer_ids", where)
    logprobs = fields.get("logprobs")
    if logprobs is not None:
        logprobs = tuple(_number(p, f"{where}: logprobs") for p in _list(logprobs, "logprobs"))
        if len(logprobs) != len(answer_ids):
            raise BadConversation(f"{where}: {len(logprobs)} logprobs for {len(answer_ids)} answer_ids")
    temperature = _number(fields.get("temperature", 1.0), f"{where}: temperature")
    version = fields.get("policy_version")
    if temperature < 0:
        raise BadConversation(f"{where}: the temperature is negative")
    if version is not None and (isinstance(version, bool) or not isinstance(version, int)):
        raise BadConversation(f"{where}: policy_version is not a whole number")
    return Sampled(prompt_ids, answer_ids, logprobs, temperature, version)


def _from_sharegpt(raw: object, system: object) -> tuple[Message, ...]:
    """ShareGPT's list, in which messages may be OpenAI's; `function_call` and `observation` as in LLaMA-Factory."""
    items = _list(raw, "conversations")
    messages: list[Message] = []
    if system:
        messages.append(message_from_dict({"role": "system", "content": system}, "system"))
    for i, item in enumerate(items, start=1):
        where = f"message {i}"
        fields: Mapping[str, Any] = cast(Mapping[str, Any], item) if isinstance(item, Mapping) else {}
        speaker, value = fields.get("from"), fields.get("value")
        if speaker is None and "role" in fields:
            messages.append(message_from_dict(fields, where))
        elif speaker == "function_call":
            calls: object = _unpacked(value, f"{where}: value")
            listed = cast(list[object], calls) if isinstance(calls, list) else [calls]
            wrapped = [{"function": call} for call in listed]
            messages.append(message_from_dict({"role": "assistant", "tool_calls": wrapped}, where))
        elif isinstance(speaker, str) and speaker in SHAREGPT_ROLES:
            messages.append(message_from_dict({"role": SHAREGPT_ROLES[speaker], "content": value}, where))
        else:
            known = ", ".join([*SHAREGPT_ROLES, "function_call"])
            raise BadConversation(f'{where} has "from": {speaker!r}; known are {known}')
    if any(m.role == "tool" for m in messages) and not any(m.tool_calls for m in messages):
        messages = [one for message in messages for one in from_tags(message)]
    check_conversation(messages)
    return tuple(messages)


def _unweighted(raw: object, messages: Sequence[Message]) -> list[int]:
    """Indices of the answers whose weight is 0."""
    items = [cast(Mapping[str, Any], item) for item in cast(list[Any], raw if isinstance(raw, list) else [])]
    weights: list[object] = []
    for item in items:
        speaker = item.get("role", item.get("from"))
        if SHAREGPT_ROLES.get(str(speaker)) == "assistant" or speaker == "function_call":
            weights.append(item.get("weight"))
    answers = [i for i, message in enumerate(messages) if message.role == "assistant"]
    for index, weight in zip(answers, weights, strict=False):
        if weight is not None and (isinstance(weight, bool) or weight not in (0, 1)):
            raise BadConversation(f"message {index + 1}: the weight {weight!r} is neither 0 nor 1")
    return [index for index, weight in zip(answers, weights, strict=False) if weight == 0 and weight is not None]


def _from_completion(fields: Mapping[str, Any]) -> Conversation:
    """A prompt and its completion, with the label or reward as that answer's verdict."""
    prompt, completion = _as_list(fields["prompt"], "user"), _as_list(fields["completion"], "assistant")
    messages = messages_from_list([*prompt, *completion], "prompt")
    index = len(prompt)
    if index == len(messages) or messages[index].role != "assistant":
        raise BadConversation('"completion" does not start with an assistant message')
    label, reward = fields.get("label"), fields.get("reward")
    if label is not None and not isinstance(label, bool):
        raise BadConversation('"label" is neither true nor false')
    if reward is None and label is not None:
        reward = 1.0 if label else -1.0
    tools = _tools(fields.get("tools"))
    sampled: dict[int, Sampled] = {}
    if fields.get("completion_ids") is not None:
        renamed = {**fields, "answer_ids": fields["completion_ids"]}
        renamed["temperature"] = 1.0 if fields.get("temperature") is None else fields["temperature"]
        sampled[index] = _sampled(renamed, "the completion")
    return Conversation(
        id=_id(fields.get("id"), messages, tools),
        messages=messages,
        tools=tools,
        metadata=_metadata(fields, KNOWN_COMPLETION),
        sampled=sampled,
        verdicts={} if reward is None else {index: Verdict((), _number(reward, "reward"))},
        finishes={index: finish} if isinstance(finish := fields.get("finish_reason"), str) else {},
    )


def _as_list(raw: object, role: str) -> list[Any]:
    """A prompt or completion as messages; plain text is one message of `role`."""
    return [{"role": role, "content": raw}] if isinstance(raw, str) else list(_list(raw, "prompt"))


def _answer_index(raw: object, messages: Sequence[Message], field: str) -> int:
    if isinstance(raw, bool) or not isinstance(raw, int):
        raise BadConversation(f'"{field}": the index {raw!r} is not a whole number')
    if not 0 <= raw < len(messages) or messages[raw].role != "assistant":
        raise BadConversation(f'"{field}": index {raw} (counted from 0) is not an assistant message')
    return raw


def _list(raw: object, field: str) -> Sequence[Any]:
    if isinstance(raw, str | bytes) or not isinstance(raw, Sequence):
        raise BadConversation(f'"{field}" is not a list')
    return cast(Sequence[Any], raw)


def _unpacked(raw: object, field: str) -> Any:
    """JSON text unpacked, anything else as it is."""
    if not isinstance(raw, str):
        return raw
    try:
        return strict_json(raw)
    except ValueError:
        raise BadConversation(f'"{field}" is text, but not JSON') from None


def _number(raw: object, what: str) -> float:
    if isinstance(raw, bool) or not isinstance(raw, int | float) or not math.isfinite(raw):
        raise BadConversation(f"{what} is not a finite number")
    return float(raw)


def _ids(fields: Mapping[str, Any], key: str, where: str) -> tuple[int, ...]:
    ids = tuple(_list(fields.get(key), key))
    if not all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in ids):
        raise BadConversation(f"{where}: {key} holds something that is not a token id")
    return ids
