"""Writes replies as vLLM's OpenAI-compatible server does: chat completions, whole and in chunks.

Open it to change what a reply holds.

With `return_token_ids`, `prompt_token_ids` stands in the whole reply or in the first chunk, and each choice
has the `token_ids` that were sampled for it, the end-of-turn token included.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase

from talktune.host.answer_parser import AnswerParser, Delta, TextStream
from talktune.host.chat_request import ChatRequest
from talktune.host.sampling_request import Token


@dataclass
class Chunk:
    """The part of a choice that one token, or the end, adds."""

    choice: int
    deltas: list[Delta]
    tokens: list[Token]
    finish: str | None = None
    stop_reason: str | None = None


@dataclass
class Choice:
    """One choice while it grows: tokens go in, chunks come out."""

    index: int
    text: TextStream
    parser: AnswerParser
    end_ids: frozenset[int]
    named: bool
    """True when the client named the tool: OpenAI's finish_reason is `stop` then."""
    chunks: list[Chunk] = field(default_factory=list[Chunk])

    def feed(self, token: Token) -> Chunk:
        """The chunk of one token; its `finish` is set when the answer ends here."""
        text = "" if token.id in self.end_ids else self.text.feed(token.id)
        deltas = self.parser.feed(text)
        done = token.finish or ("stop" if self.parser.stopped is not None or self.parser.complete else None)
        if done:
            deltas += self.parser.feed(self.text.close())
            deltas += self.parser.close()
            if self.parser.stopped is not None or self.parser.complete:
                done = "stop"
            if done == "stop" and self.parser.calls and not self.named:
                done = "tool_calls"
        chunk = Chunk(self.index, deltas, [token], done, self.parser.stopped if done else None)
        self.chunks.append(chunk)
        return chunk


class Replies:
    """Makes the bodies of one request's reply."""

    def __init__(
        self,
        request: ChatRequest,
        tokenizer: PreTrainedTokenizerBase,
        *,
        id: str,
        created: int,
        model: str,
        prompt_ids: Sequence[int],
    ) -> None:
        self.request = request
        self.tokenizer = tokenizer
        self.head = {"id": id, "created": created, "model": model}
        self.prompt_ids = list(prompt_ids)

    def first(self, choice: int) -> dict[str, Any]:
        """The chunk that opens a choice: the role, and once the prompt's ids."""
        body = self._chunk([{"index": choice, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
        if self.request.token_ids:
            body["prompt_token_ids"] = self.prompt_ids if choice == 0 else None
        return body

    def chunk(self, chunk: Chunk, calls_before: int) -> dict[str, Any] | None:
        """The body of a chunk; None when there is nothing in it that the client asked for."""
        delta: dict[str, Any] = {}
        calls: list[dict[str, Any]] = []
        for piece in chunk.deltas:
            if piece.kind == "call":
                calls.append({"index": calls_before + len(calls), **_call(piece)})
            else:
                key = "content" if piece.kind == "content" else "reasoning_content"
                delta[key] = delta.get(key, "") + piece.text
        if calls:
            delta["tool_calls"] = calls
        if not delta and chunk.finish is None and not self.request.token_ids and not self.request.logprobs:
            return None
        choice = {"index": chunk.choice, "delta": delta, "finish_reason": chunk.finish}
        if chunk.finish is not None:
            choice["stop_reason"] = chunk.stop_reason
        return self._chunk([choice | self._details(chunk.tokens)])

    def usage_chunk(self, answered: int) -> dict[str, Any]:
        """The last chunk of a stream with `include_usage`; `answered` counts the tokens of all choices."""
        return self._chunk([]) | {"usage": self._usage(answered)}

    def whole(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """The reply that is not streamed."""
        body: dict[str, Any] = {**self.head, "object": "chat.completion", "choices": [self._choice(c) for c in choices]}
        body["usage"] = self._usage(sum(len(choice.chunks) for choice in choices))
        if self.request.token_ids:
            body["prompt_token_ids"] = self.prompt_ids
        return body

    def _choice(self, choice: Choice) -> dict[str, Any]:
        deltas = [delta for chunk in choice.chunks for delta in chunk.deltas]
        calls = [_call(delta) for delta in deltas if delta.kind == "call"]
        text = {
            kind: "".join(delta.text for delta in deltas if delta.kind == kind) for kind in ("content", "reasoning")
        }
        message: dict[str, Any] = {
            "role": "assistant",
            "content": text["content"] if text["content"] or not calls else None,
        }
        if text["reasoning"]:
            message["reasoning_content"] = text["reasoning"]
        if calls:
            message["tool_calls"] = calls
        last = choice.chunks[-1]
        tokens = [token for chunk in choice.chunks for token in chunk.tokens]
        body = {
            "index": choice.index,
            "message": message,
            "finish_reason": last.finish,
            "stop_reason": last.stop_reason,
        }
        return body | {"logprobs": None} | self._details(tokens)

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self.head, "object": "chat.completion.chunk", "choices": choices}

    def _details(self, tokens: Sequence[Token]) -> dict[str, Any]:
        """Ids and log-probs of tokens, where they were asked for."""
        out: dict[str, Any] = {}
        if self.request.logprobs:
            out["logprobs"] = {"content": [self._logprob(token) for token in tokens]}
        if self.request.token_ids:
            out["token_ids"] = [token.id for token in tokens]
        return out

    def _logprob(self, token: Token) -> dict[str, Any]:
        top = [self._named(id, logprob) for id, logprob in token.top]
        return {**self._named(token.id, token.logprob), "top_logprobs": top}

    def _named(self, id: int, logprob: float) -> dict[str, Any]:
        text = str(self.tokenizer.decode([id], skip_special_tokens=False, clean_up_tokenization_spaces=False))
        shown = f"token_id:{id}" if self.request.tokens_as_ids else text
        # JSON has no infinities: vLLM, too, writes -9999 for a token that could not come.
        return {"token": shown, "logprob": max(logprob, -9999.0), "bytes": list(text.encode())}

    def _usage(self, answered: int) -> dict[str, int]:
        asked = len(self.prompt_ids)
        return {"prompt_tokens": asked, "completion_tokens": answered, "total_tokens": asked + answered}


def _call(delta: Delta) -> dict[str, Any]:
    return {"id": delta.id, "type": "function", "function": {"name": delta.name, "arguments": delta.text}}
