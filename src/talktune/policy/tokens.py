"""Messages to token ids and back, through the model's own chat template.

Open it to see the exact tokens of a prompt.

No table of models: what stands around an answer and what ends it is read off the template, by rendering a
probe conversation. Needed for prompts, and for the answers of logs that never had ids; an answer that the
policy sampled keeps the ids that were sampled.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
from jinja2 import TemplateError
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from talktune.errors import UserError
from talktune.policy.control import BREAK, Control
from talktune.policy.template import render_template
from talktune.types import Message

Tools = Sequence[Mapping[str, Any]]
"""Tool definitions, as OpenAI's chat completions take them."""

_AT_ONCE = 1 << 20
"""Bytes that are counted at once: counting takes eight times their memory."""
_BORDER = 16
_PROBE = "Xprobe"
_QUESTION = Message("user", "Yquestion")
_CALL = {"id": "call00001", "type": "function", "function": {"name": "f", "arguments": {"a": _PROBE}}}


class _Shape(NamedTuple):
    """What a template puts around an answer, as text and ids."""

    header: str
    """Between the generation prompt and the text of a plain answer; empty for most templates."""
    shared: int
    """Minus the number of characters at the end of the generation prompt that finished answers lack."""
    ends: frozenset[int]
    """Ids after which the model has ended its turn."""
    end: int
    """The one of them that closes a plain answer."""


def to_chat(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages as the dicts that chat templates read; fields that are not set are left out.

    The arguments of tool calls become objects, because templates print them as JSON: what OpenAI sends as a
    string of JSON would come out quoted twice. Arguments that are not a JSON object stay as they are.
    """
    return [_chat_message(message) for message in messages]


class TooLongError(UserError):
    """A prompt that need not be tokenised to know that it is too long."""


def render_prompt(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], tools: Tools = (), *, most: int | None = None
) -> list[int]:
    """The ids of a prompt: the template's own tokens, with its generation prompt.

    Raises UserError when the template refuses the messages (a role that it does not know, say), and TooLongError for a
    text that cannot have as few as `most` tokens: it is not tokenised then, which takes seconds and gigabytes.
    """
    text = _render(tokenizer, messages, tools, generation_prompt=True)
    if most is not None:
        check_length(tokenizer, text, most)
    return _encode(tokenizer, text)


def check_length(tokenizer: PreTrainedTokenizerBase, text: str, most: int) -> None:
    """Raise TooLongError for a text that cannot have as few as `most` tokens.

    Its beginning mostly tells, and a normaliser may take seconds for the whole. Where that is cut, the normaliser may
    have joined a few characters with the next ones: `_BORDER` tokens are not counted.
    """
    for size in (64 * most, 256 * most, len(text)):
        border = _BORDER if size < len(text) else 0
        if (fewest := fewest_tokens(tokenizer, text[:size]) - border) > most:
            raise TooLongError(f"The prompt has {len(text)} characters, which are more than {fewest - 1} tokens")
        if not border:
            return


def fewest_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    """How many tokens a text has at the least: ⌈sum over its bytes b of 1 / n(b)⌉, n(b) the longest token with b in it.

    No text has fewer, however it is made: in byte-level BPE, and in BPE that falls back to bytes, the tokens of a text
    spell out all of it, as it is after the normaliser, and the bytes of one token, n of them, have n(b) >= n each: they
    add 1 at the most. Long tokens are made of few bytes (spaces, dashes), so that words weigh much more than by the
    longest token of all. Of any other kind of tokenizer, which may read a whole word as one unknown token, nothing is
    known: 0.
    """
    shares = _shares(tokenizer)
    if shares is None:
        return 0
    normalizer = cast(Any, tokenizer).backend_tokenizer.normalizer
    said = text.replace(BREAK, "")
    said = said if normalizer is None else normalizer.normalize_str(said)
    letters = np.frombuffer(said.encode("utf-8", "replace"), dtype=np.uint8)
    counts = np.zeros(256)
    for start in range(0, len(letters), _AT_ONCE):
        counts += np.bincount(letters[start : start + _AT_ONCE], minlength=256)
    return math.ceil(float(counts @ shares) * (1 - 1e-9))  # less than float noise: a sum that is whole stays whole


@lru_cache(maxsize=16)
def _shares(tokenizer: PreTrainedTokenizerBase) -> npt.NDArray[np.float64] | None:
    """1 / n(b) for each byte b (256); None where tokens need not spell out the text.

    A token counts by its spelling in the file and, where that is byte-level BPE's, by the bytes that it stands for.
    """
    model = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    if not isinstance(model, BPE) or not (model.byte_fallback or model.unk_token is None):
        return None
    longest = [1] * 256
    bytes_of = {letter: byte for byte, letter in bytes_to_unicode().items()}
    for token in tokenizer.get_vocab():
        spelled = [token.encode("utf-8", "replace")]
        with suppress(KeyError):
            spelled.append(bytes(bytes_of[letter] for letter in token))
        for said in spelled:
            for byte in set(said):
                longest[byte] = max(longest[byte], len(said))
    shares = 1 / np.array(longest)
    added: Any = getattr(tokenizer, "added_tokens_decoder", {})
    if any(token.lstrip or token.rstrip for token in added.values()):  # such a token takes the gaps beside it along
        shares[list(b" \t\n\r\v\f")] = 0.0
    return shares


def render_answer(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Sequence[Message],
    answer: Message,
    tools: Tools = (),
    *,
    cut_off: bool = False,
) -> list[int]:
    """The ids that the model would have had to produce after `render_prompt(prompt)` to give this answer.

    They are what the template adds for the answer, up to and with the token that ends the turn; without that one
    where the answer was `cut_off`: nobody sampled it. A template
    that rewrites earlier messages once an answer follows them (gpt-oss drops their reasoning) is asked again
    with the last user message alone before the answer. After a generation prompt that rules reasoning out,
    the answer has none; one that opens a block which finished answers lack (`<think>`) gets it closed.

    Raises UserError when the template refuses the messages, or leaves a part of the answer out (its text, or
    one of its tool calls), or when the answer spells out a token that ends a turn: half an answer is never
    trained on. Reasoning is different: where the template has no place for it, it is left out.
    """
    before = _render(tokenizer, prompt, tools, generation_prompt=True)
    text = _answer_text(tokenizer, prompt, answer, tools, before)
    _check_whole(tokenizer, prompt, answer, tools, text)
    shape = _shape(tokenizer, _template(tokenizer))
    before_ids = _encode(tokenizer, before)
    ids = _encode(tokenizer, before + text)
    kept = ids[: len(before_ids)] == before_ids
    # Else a token straddles the border: a model that has read the prompt's own tokens cannot produce it.
    ids = ids[len(before_ids) :] if kept else _encode(tokenizer, text)
    first_end, end = next(((i, token) for i, token in enumerate(ids) if token in shape.ends), (None, shape.end))
    ids = ids if first_end is None else ids[:first_end]
    return ids if cut_off else [*ids, end]


def end_ids(tokenizer: PreTrainedTokenizerBase, generation_config: Any = None) -> frozenset[int]:
    """All ids that end a turn: the chat template's, the tokenizer's and the generation config's."""
    ends = _shape(tokenizer, _template(tokenizer)).ends
    extra = getattr(generation_config, "eos_token_id", None)
    if extra is None:
        return ends
    return ends | frozenset(extra if isinstance(extra, list | tuple) else [extra])


def decode_answer(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of an answer, without the token that ended it and without special tokens.

    What the template puts before the text of a plain answer is no part of that text either: an empty thinking
    block at the start is dropped, and where special tokens mark the text (the final channel of gpt-oss), only
    what follows them is returned. Reasoning and tool calls stay in the text as the model wrote them.
    """
    shape = _shape(tokenizer, _template(tokenizer))
    header = _encode(tokenizer, shape.header)
    answer = [*ids]
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    starts = [i for i in range(len(answer)) if header and answer[i : i + len(header)] == header]
    if starts and (starts[-1] == 0 or header[-1] in special):
        answer = answer[starts[-1] + len(header) :]
    answer = [token for token in answer if token not in shape.ends and token not in special]
    return str(tokenizer.decode(answer, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _chat_message(message: Message) -> dict[str, Any]:
    chat: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        chat["tool_calls"] = [_chat_call(call) for call in message.tool_calls]
    for field in ("tool_call_id", "reasoning_content", "name"):
        if getattr(message, field):
            chat[field] = getattr(message, field)
    return chat


def _chat_call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = dict(call.get("function", {}))
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            parsed = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            parsed = arguments
        function["arguments"] = parsed if isinstance(parsed, dict) else arguments
    return {**call, "function": function}


def _template(tokenizer: PreTrainedTokenizerBase) -> str:
    if not tokenizer.chat_template:
        raise UserError(f"model {_name(tokenizer)} has no chat template; use an instruct model.")
    return str(tokenizer.chat_template)


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The ids of a text that somebody wrote: what spells out a control token is text, too."""
    return _control(tokenizer, _template(tokenizer)).encode_text(text)


def _render(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], tools: Tools, *, generation_prompt: bool
) -> str:
    """The template's rendering, in which the control tokens that others spelled out are broken."""
    control = _control(tokenizer, _template(tokenizer))
    try:
        chat = [{k: v if k == "role" else control.broken(v) for k, v in m.items()} for m in to_chat(messages)]
        return _apply(tokenizer, chat, control.broken(list(tools)), generation_prompt)
    except RecursionError as error:
        raise UserError("the tools, or the arguments of a call, are nested too deeply.") from error


@lru_cache(maxsize=16)
def _control(tokenizer: PreTrainedTokenizerBase, template: str) -> Control:
    """`template` is part of the key because it can be set."""
    probe = to_chat([_QUESTION, Message("assistant", _PROBE), _QUESTION])
    try:
        structure = _apply(tokenizer, probe, [], True)
    except UserError:  # whoever renders real messages hears of it
        structure = ""
    return Control(tokenizer, structure)


def _apply(
    tokenizer: PreTrainedTokenizerBase, chat: list[dict[str, Any]], tools: list[Any], generation_prompt: bool
) -> str:
    if "reasoning_content" not in _template(tokenizer):  # gpt-oss and LFM2 read the same thing as `thinking`
        chat = [{("thinking" if k == "reasoning_content" else k): v for k, v in m.items()} for m in chat]

    try:
        try:
            return render_template(tokenizer, chat, tools, generation_prompt)
        except TypeError:  # DeepSeek's templates join the arguments of a call to a string: give them one
            for call in (call for message in chat for call in message.get("tool_calls", ())):
                call["function"]["arguments"] = json.dumps(call["function"]["arguments"], ensure_ascii=False)
            return render_template(tokenizer, chat, tools, generation_prompt)
    except (TemplateError, TypeError, ValueError) as error:
        roles = ", ".join(dict.fromkeys(str(message["role"]) for message in chat))
        raise UserError(
            f"the chat template of {_name(tokenizer)} refuses these messages (roles: {roles}): {error}"
        ) from error


def _answer_text(
    tokenizer: PreTrainedTokenizerBase, prompt: Sequence[Message], answer: Message, tools: Tools, before: str
) -> str:
    """What follows the generation prompt in the template's rendering of the answer."""
    whole = _render(tokenizer, [*prompt, answer], tools, generation_prompt=False)
    if whole.startswith(before):
        return whole[len(before) :]
    short = _shortest(prompt)
    before = _render(tokenizer, short, tools, generation_prompt=True)
    for said in (answer, replace(answer, reasoning_content=None)):
        whole = _render(tokenizer, [*short, said], tools, generation_prompt=False)
        if whole.startswith(before):
            return whole[len(before) :]
    shared = len(before) + _shape(tokenizer, _template(tokenizer)).shared
    control = _control(tokenizer, _template(tokenizer))
    return control.broken(_close_block(control.mended(before[shared:]), answer)) + whole[shared:]


def _shortest(prompt: Sequence[Message]) -> list[Message]:
    """The system message and the last user message: nothing is left in it that a template rewrites."""
    system = [message for message in prompt[:1] if message.role == "system"]
    user = [message for message in prompt if message.role == "user"]
    return [*system, *(user[-1:] or [_QUESTION])]


def _close_block(forced: str, answer: Message) -> str:
    """Reasoning and closing tag of a block that the generation prompt opens and finished answers lack."""
    opened = re.search(r"<([A-Za-z_]+)>\s*$", forced)
    if opened is None:
        return ""
    reasoning = (answer.reasoning_content or "").strip("\n")
    return f"{reasoning}\n</{opened[1]}>\n\n"


def _check_whole(
    tokenizer: PreTrainedTokenizerBase, prompt: Sequence[Message], answer: Message, tools: Tools, text: str
) -> None:
    """Raise UserError when the template has left out a part, or the answer itself holds an end of turn."""
    control = _control(tokenizer, _template(tokenizer))
    if _squeeze(answer.content) not in _squeeze(control.mended(text)):
        raise UserError(f"the chat template of {_name(tokenizer)} leaves out the text of this answer.")
    if answer.tool_calls:
        short = _shortest(prompt)
        with_and_without_last = [
            _render(tokenizer, [*short, replace(answer, tool_calls=calls)], tools, generation_prompt=False)
            for calls in (answer.tool_calls, answer.tool_calls[:-1])
        ]
        if with_and_without_last[0] == with_and_without_last[1]:
            raise UserError(f"the chat template of {_name(tokenizer)} leaves out a tool call of this answer.")
    said = [answer.content, answer.reasoning_content or "", json.dumps([dict(c) for c in answer.tool_calls])]
    held = end_ids(tokenizer).intersection(_encode(tokenizer, "\n".join(said)))
    if held:
        raise UserError(f"the answer spells out {tokenizer.decode([min(held)])!r}, which ends a turn.")


@lru_cache(maxsize=16)
def _shape(tokenizer: PreTrainedTokenizerBase, template: str) -> _Shape:
    """Read off the template what surrounds an answer; `template` is part of the key because it can be set."""
    before = _render(tokenizer, [_QUESTION], (), generation_prompt=True)
    whole = _render(tokenizer, [_QUESTION, Message("assistant", _PROBE)], (), generation_prompt=False)
    start = whole.rfind(_PROBE)
    if start < 0:
        raise UserError(f"the chat template of {_name(tokenizer)} does not render messages of plain text.")
    shared = 0 if whole.startswith(before) else _common(before, whole) - len(before)
    header = whole[len(before) : start] if shared == 0 else ""
    eos = tokenizer.eos_token_id
    added = tokenizer.added_tokens_decoder
    own = [token for token in _encode(tokenizer, whole[start + len(_PROBE) :]) if token in added]
    ends = {*own[:1], *([eos] if isinstance(eos, int) else [])}
    if not ends:
        raise UserError(
            f"the chat template of {_name(tokenizer)} ends an answer with no token, and the tokenizer has no "
            "eos token: set one of them."
        )
    end = own[0] if own else next(iter(ends))
    call = Message("assistant", "", (_CALL,))
    try:
        called = _render(tokenizer, [_QUESTION, call], (), generation_prompt=False)
    except UserError:  # no tool calls in this template
        called = ""
    if own and _PROBE in called:
        tail = _encode(tokenizer, called[called.rindex(_PROBE) + len(_PROBE) :])
        special = [token for token in tail if token in added and added[token].special]
        if special and not ends & set(special):  # gpt-oss ends a call with a token of its own
            ends.add(special[-1])
    return _Shape(header, shared, frozenset(ends), end)


def _common(a: str, b: str) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return _control(tokenizer, _template(tokenizer)).encode(text)


def _squeeze(text: str) -> str:
    """`text` without white space: templates trim, and re-break, what they print."""
    return "".join(text.split())


def _name(tokenizer: PreTrainedTokenizerBase) -> str:
    return tokenizer.name_or_path or "this model"
