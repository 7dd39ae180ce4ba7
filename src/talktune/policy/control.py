"""Control tokens in what people say: `<|im_end|>` in a message, a tool's result or its description is text.

Open it to see why no message can end its own turn.

Their spellings are broken before the chat template sees them, so that all that it renders as a control token is its
own, and mended where the text between control tokens is encoded. What spells out none is not touched.
"""

import re
from collections.abc import Mapping
from typing import Any, cast

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

BREAK = "\ufdd0"
"""Stands in a broken spelling behind its first character; Unicode keeps it for such inner use."""
SAID_BY_MODELS = frozenset({"<think>", "</think>", "<tool_call>", "</tool_call>"})
"""Written by models as text, and read as text by templates."""


class Control:
    """The control tokens of one tokenizer and its chat template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, structure: str) -> None:
        """`structure` is a conversation as the template renders it: other added tokens in it count, too."""
        added = tokenizer.added_tokens_decoder.values()
        found = {token.content for token in added if token.special or token.content in structure}
        spelled = sorted((s for s in found - SAID_BY_MODELS if re.search(r"[^\w\s]", s)), key=len, reverse=True)
        self._tokenizer = tokenizer
        self._spelled = re.compile("|".join(map(re.escape, spelled)) or r"(?!)")
        broken = "|".join(re.escape(s[0] + BREAK + s[1:]) for s in spelled if len(s) > 1)
        self._broken = re.compile(broken or r"(?!)")
        self._plain: Tokenizer | None = None

    def broken(self, value: Any) -> Any:
        """Return a message, or any JSON value, with every control token in its texts broken up."""
        if isinstance(value, str):
            return self._spelled.sub(lambda found: f"{found[0][0]}{BREAK}{found[0][1:]}", value)
        if isinstance(value, Mapping):
            fields = cast(Mapping[str, Any], value)
            return {self.broken(key): self.broken(inner) for key, inner in fields.items()}
        if isinstance(value, list | tuple):
            return [self.broken(inner) for inner in cast(list[Any], value)]
        return value

    def mended(self, text: str) -> str:
        """Return the text as it was before `broken`."""
        return self._broken.sub(lambda found: found[0].replace(BREAK, "", 1), text) if BREAK in text else text

    def encode(self, text: str) -> list[int]:
        """The ids of a rendered text: control tokens where the template wrote them, text where somebody else did."""
        if BREAK not in text or self._broken.search(text) is None:
            return self._encode(text)
        ids: list[int] = []
        start = at = 0
        borders = [*((found.start(), found.end()) for found in self._spelled.finditer(text)), (len(text), len(text))]
        for end, following in borders:
            if self._broken.search(text, at, end) is not None:
                if start < at:
                    ids += self._encode(text[start:at])
                ids += self.encode_text(self.mended(text[at:end]))
                start = end
            at = following
        return ids + (self._encode(text[start:]) if start < len(text) else [])

    def encode_text(self, text: str) -> list[int]:
        """The ids of a text in which nothing is a control token."""
        if self._spelled.search(text) is None:
            return self._encode(text)
        if self._plain is None:
            self._plain = _without(self._tokenizer, self._spelled)
        return list(self._plain.encode(text, add_special_tokens=False).ids)

    def _encode(self, text: str) -> list[int]:
        # Templates write their own bos; `apply_chat_template` encodes in the same way.
        return list(self._tokenizer.encode(text, add_special_tokens=False))


def _without(tokenizer: PreTrainedTokenizerBase, spelled: re.Pattern[str]) -> Tokenizer:
    """The tokenizer's model, shared, without its control tokens; of the others those that are in its vocabulary."""
    backend: Any = cast(Any, tokenizer).backend_tokenizer
    plain: Any = Tokenizer(backend.model)
    if backend.normalizer is not None:
        plain.normalizer = backend.normalizer
    if backend.pre_tokenizer is not None:
        plain.pre_tokenizer = backend.pre_tokenizer
    added = tokenizer.added_tokens_decoder.items()
    kept = [
        token for i, token in added if not spelled.fullmatch(token.content) and plain.token_to_id(token.content) == i
    ]
    plain.add_tokens(kept)
    return plain
