"""Structured output: at each step only those tokens are allowed with which a JSON schema can still be kept.

Open it when `response_format` does not do what it says.

llguidance (https://github.com/guidance-ai/llguidance) follows the schema. It is imported for the first such request.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from talktune.serve.dialects.wire import BadRequest

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

MAX_SCHEMA = 1 << 16
"""Characters of a schema: what is longer can take seconds to compile."""
MAX_MULTIPLE = 10_000
"""What the `multipleOf`s of a schema may have as their least common multiple: it compiles to so many states."""


class BrokenForm(Exception):
    """The grammar became too complex to follow while the answer was sampled."""


class Guide:
    """The state of one answer in its grammar."""

    def __init__(self, matcher: LLMatcher, end_ids: Collection[int]) -> None:
        self._matcher = matcher
        self._ends = sorted(end_ids)

    def allowed(self, size: int) -> Tensor:
        """True (V,) for each id that may come next; once the form is complete, that is the end of the turn, too."""
        found = torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8)[:size] != 0
        allowed = torch.zeros(size, dtype=torch.bool)
        allowed[: len(found)] = found
        allowed[self._ends] = self._matcher.is_accepting()
        # Where nothing may come, the matcher has failed: `take` says so.
        return allowed if bool(allowed.any()) else ~allowed

    def take(self, token: int) -> None:
        """Advance the grammar by the sampled token; raises BrokenForm."""
        if not (token in self._ends and self._matcher.is_accepting()) and not self._matcher.consume_token(token):
            raise BrokenForm(self._matcher.get_error())


class Grammars:
    """Makes guides for the answers of one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, end_ids: Collection[int]) -> None:
        self._tokenizer = tokenizer
        self._end_ids = end_ids
        self._made: LLTokenizer | None = None
        self._making = threading.Lock()

    def guides(
        self, schema: Mapping[str, Any], copies: int, call: Mapping[str, Any] | None = None, *, marked: bool = True
    ) -> list[Guide]:
        """A guide for each of `copies` answers; raises BadRequest for a schema that cannot be followed.

        With `call` tool calls may come in its place, each of that schema; `marked` ones stand in tags (Hermes' form).
        The first call reads the vocabulary, which takes a second or two.
        """
        from llguidance import LLMatcher, LLParserLimits

        # Written as models write JSON. Free white space would be an invitation to write nothing else.
        style: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
        try:
            text = json.dumps(schema)
            if len(text) > MAX_SCHEMA:
                raise _refused(f"it has {len(text)} characters, and at most {MAX_SCHEMA} are taken")
            if call is None:
                grammar = LLMatcher.grammar_from_json_schema(text, overrides=style)
            else:
                own = {"x-guidance": style}
                grammar = LLMatcher.grammar_from_lark(self._either(dict(schema) | own, dict(call) | own, marked))
        except (ValueError, RecursionError) as error:
            raise _refused(str(error)) from error
        if math.lcm(*_multiples(schema)) > MAX_MULTIPLE:
            raise _refused(f"the least common multiple of its multipleOf is over {MAX_MULTIPLE}")
        matcher = LLMatcher(self._vocabulary(), grammar, log_level=0, limits=LLParserLimits(verbose_errors=False))
        matcher.compute_logit_bias()  # some are too large for the first token
        if matcher.is_error():
            raise _refused(matcher.get_error().removesuffix("<non-verbose/>"))
        return [Guide(matcher.deep_copy(), self._end_ids) for _ in range(copies)]

    def _either(self, schema: Mapping[str, Any], call: Mapping[str, Any], marked: bool) -> str:
        """The grammar of one form or the other, in llguidance's language."""
        bodies = f"form: %json {json.dumps(schema)}\nbody: %json {json.dumps(call)}\n"
        if not marked:
            return f"start: form | body\n{bodies}"
        opened, closed = self._mark("<tool_call>"), self._mark("</tool_call>")
        calls = f'start: form | call ("\\n" call)*\ncall: {opened} "\\n" body "\\n" {closed}\n'
        return calls + bodies

    def _mark(self, text: str) -> str:
        """A mark as the tokenizer has it: one token of its own, or text."""
        ids = self._tokenizer.encode(text, add_special_tokens=False)
        return f"<[{ids[0]}]>" if len(ids) == 1 else json.dumps(text)

    def _vocabulary(self) -> LLTokenizer:
        from llguidance.hf import from_tokenizer

        with self._making:
            if self._made is None:
                tokenizer: Any = self._tokenizer
                self._made = from_tokenizer(tokenizer, eos_token=min(self._end_ids))
            return self._made


def steer(scores: Tensor, guides: Sequence[Guide | None]) -> Tensor:
    """Mask the log-probs (B, V) by each row's guide; rows without a guide stay as they are."""
    guided = [(i, guide) for i, guide in enumerate(guides) if guide is not None]
    if not guided:
        return scores
    rows = [i for i, _ in guided]
    allowed = torch.stack([guide.allowed(scores.shape[1]) for _, guide in guided]).to(scores.device)
    steered = scores.clone()
    steered[rows] = torch.log_softmax(scores[rows].masked_fill(~allowed, float("-inf")), dim=-1)
    return steered


def _multiples(value: Any) -> Iterator[int]:
    """The digits of every `multipleOf` in a schema, as whole numbers."""
    inner: Any = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    step: Any = value.get("multipleOf") if isinstance(value, dict) else None
    if type(step) in (int, float):
        yield int("".join(map(str, Decimal(str(step)).as_tuple().digits)))
    for one in inner:
        yield from _multiples(one)


def _refused(reason: str) -> BadRequest:
    shown = " ".join(reason.split())[:300].rstrip(".")
    return BadRequest(f"The JSON schema of response_format cannot be followed: {shown}.", param="response_format")
