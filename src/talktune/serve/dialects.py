"""How each kind of engine is asked for the tokens that it sampled, and where they stand in its replies.

All are OpenAI-compatible; beyond that:

- `host` (talktune's own) and vLLM: `return_token_ids` gives `prompt_token_ids` once and `token_ids` a choice
  (https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html).
- SGLang from 0.5.13: `return_prompt_token_ids` and `return_meta_info` give a choice its `prompt_token_ids` and
  `meta_info.output_token_logprobs`, each (log-prob, id, text); refused in streams, whose turns are text only
  (https://github.com/sgl-project/sglang/blob/main/python/sglang/srt/entrypoints/openai/serving_chat.py).
- llama.cpp: each entry of `logprobs.content` has an `id`; `/apply-template` and `/tokenize` give the prompt's ids;
  tools together with a stream leave no log-probs, so such turns are text only
  (https://github.com/ggml-org/llama.cpp/tree/master/tools/server).
- others: text only. The turn is stored and marked so.

The host's and SGLang's log-probs are of softmax(logits / temperature), those of vLLM and llama.cpp by default of
softmax(logits): at another temperature than 1 they are not those that sampled, and are left out; the learner
computes them anew.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from talktune.types import Message, Sampled

Dialect = Literal["host", "vllm", "sglang", "llama.cpp", "other"]


PROBES = ("/version", "/model_info", "/props")
"""Routes that tell engines apart."""


def detect(answers: Mapping[str, Any]) -> Dialect:
    """The dialect of an engine, from what GET on each of PROBES answered (None where there is no such route)."""
    version, info, props = (answers.get(path) for path in PROBES)
    if isinstance(version, Mapping) and "version" in version:
        return "host" if version.get("engine") == "talktune" else "vllm"
    if isinstance(info, Mapping) and "model_path" in info:
        return "sglang"
    if isinstance(props, Mapping) and "default_generation_settings" in props:
        return "llama.cpp"
    return "other"


def with_tokens(body: Mapping[str, Any], dialect: Dialect) -> dict[str, Any]:
    """The request as it goes to the engine: what the client asked, and the tokens and log-probs besides."""
    asked = dict(body)
    stream = bool(body.get("stream"))
    if dialect == "other" or (dialect == "llama.cpp" and stream and body.get("tools")):
        return asked
    if dialect == "sglang":
        return (
            asked if stream else asked | {"logprobs": True, "return_prompt_token_ids": True, "return_meta_info": True}
        )
    if not body.get("logprobs"):
        asked.pop("top_logprobs", None)
    asked["logprobs"] = True
    if dialect == "llama.cpp":
        asked["top_logprobs"] = max(body.get("top_logprobs") or 0, 1)  # without it, it sorts out the best twenty
    else:
        asked["return_token_ids"] = True
    return asked


@dataclass
class Tokens:
    """The tokens of one choice, gathered from the chunks of a stream or from a whole reply."""

    dialect: Dialect
    prompt_ids: tuple[int, ...] | None = None
    ids: list[int] = field(default_factory=list[int])
    logprobs: list[float] = field(default_factory=list[float])
    complete: bool = True
    """False once a piece came without its tokens: what was sampled is then not known."""
    spelled: bytes = b""
    """llama.cpp: the bytes of the tokens. Those that end within a character do not come in a stream."""

    def add(self, body: Mapping[str, Any], choice: Mapping[str, Any]) -> None:
        """Take in one chunk, or a whole reply, with the entry of `choices` that is this one's."""
        if self.dialect == "other":
            return
        prompt = body.get("prompt_token_ids") or choice.get("prompt_token_ids")
        if isinstance(prompt, Sequence) and prompt:
            self.prompt_ids = tuple(int(i) for i in prompt)
        content = (choice.get("logprobs") or {}).get("content") or []
        numbers = [entry.get("logprob") for entry in content]
        if self.dialect == "sglang":
            pairs = (choice.get("meta_info") or {}).get("output_token_logprobs") or []
            ids, numbers = [pair[1] for pair in pairs], [pair[0] for pair in pairs]
        elif self.dialect == "llama.cpp":
            ids = [entry.get("id") for entry in content]
            self.spelled += b"".join(bytes(entry.get("bytes") or ()) for entry in content)
        else:
            ids = list(choice.get("token_ids") or [])
        if any(type(i) is not int for i in ids) or len(numbers) != len(ids):
            self.complete = False
            return
        self.ids += ids
        self.logprobs += [float(n) for n in numbers]

    def sampled(self, answer: Message, temperature: float, version: int | None) -> Sampled | None:
        """What was sampled for an answer; None where the engine did not give all of it."""
        if self.prompt_ids is None or not self.ids or not self.complete:
            return None
        plain = not answer.tool_calls and answer.reasoning_content is None
        if self.dialect == "llama.cpp" and plain and self.spelled.decode("utf-8", "replace") != answer.content:
            return None
        as_sampled = self.dialect in ("host", "sglang") or temperature in (0.0, 1.0)
        logprobs = tuple(self.logprobs) if as_sampled else None
        return Sampled(self.prompt_ids, tuple(self.ids), logprobs, temperature or 1.0, version)


def without_tokens(body: dict[str, Any], *, logprobs: bool, token_ids: bool) -> dict[str, Any]:
    """A reply or chunk as the client gets it: nothing that it did not ask for."""
    if not token_ids:
        body.pop("prompt_token_ids", None)
    for choice in body.get("choices") or ():
        if not token_ids:
            for name in ("token_ids", "prompt_token_ids", "meta_info"):
                choice.pop(name, None)
        if not logprobs:
            choice.pop("logprobs", None)
    return body
