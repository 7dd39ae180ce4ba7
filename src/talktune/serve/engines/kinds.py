"""The kinds of engines: how each is asked for the tokens that it sampled, and where its replies have them.

Open it to add an inference engine, or when turns are stored as text only.

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

The host's and SGLang's log-probs are of softmax(logits / temperature), and so are vLLM's when it was started with
`--logprobs-mode processed_logprobs`, which is found out by asking. Those of llama.cpp, and of vLLM by default, are of
softmax(logits): at another temperature than 1 they are not those that sampled, and are left out; the learner computes
them anew. So it does where something else than the temperature decided what was sampled: a cut (`top_p`, `top_k`,
`min_p`), a penalty, a form that the answer must have. Where a client asks for no cut, vLLM and SGLang are told to use
none, whatever the model's generation config says; llama.cpp keeps its own defaults, which leave out unlikely tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from talktune.serve.dialects.wire import LOWEST
from talktune.types import Message, Sampled

EngineKind = Literal["host", "vllm", "sglang", "llama.cpp", "other"]


PROBES = ("/version", "/model_info", "/props")
"""Routes that tell engines apart."""


NEUTRAL: Mapping[str, float] = {
    "top_p": 1.0,
    "min_p": 0.0,
    "typical_p": 1.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "repetition_penalty": 1.0,
    "repeat_penalty": 1.0,
    "min_tokens": 0,
}
"""Fields that change what is sampled, with the value that changes nothing; so does a `top_k` over 0."""
STEERING = ("logit_bias", "response_format", "guided_json", "guided_regex", "guided_choice", "guided_grammar",
            "structured_outputs", "structural_tag", "regex", "ebnf", "json_schema", "grammar", "bad_words",
            "allowed_token_ids", "samplers", "mirostat", "dynatemp_range", "xtc_probability",
            "dry_multiplier")  # fmt: skip
"""Fields that change it by being there."""
HIGHEST = 1e-3
"""A log-prob above it is none, rounding aside."""


def whole_distribution(kind: EngineKind) -> dict[str, Any]:
    """The fields that keep an engine's own defaults from cutting the distribution that is sampled from."""
    if kind in ("vllm", "sglang"):
        return {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
    return {}


def steered(body: Mapping[str, Any]) -> bool:
    """Whether anything but the temperature changed the distribution that this request was sampled from."""
    if any(body.get(key) not in (None, neutral) for key, neutral in NEUTRAL.items()):
        return True
    top_k, form = body.get("top_k"), body.get("response_format")
    if isinstance(top_k, int | float) and top_k > 0:
        return True
    plain = form in (None, {}) or (isinstance(form, Mapping) and form.get("type") == "text")
    choice = body.get("tool_choice")
    required = choice not in (None, "auto", "none") and bool(body.get("tools"))
    return required or not plain or any(body.get(key) for key in STEERING if key != "response_format")


def detect(answers: Mapping[str, Any]) -> EngineKind:
    """The kind of an engine, from what GET on each of PROBES answered (None where there is no such route)."""
    version, info, props = (answers.get(path) for path in PROBES)
    if isinstance(version, Mapping) and "version" in version:
        return "host" if version.get("engine") == "talktune" else "vllm"
    if isinstance(info, Mapping) and "model_path" in info:
        return "sglang"
    if isinstance(props, Mapping) and "default_generation_settings" in props:
        return "llama.cpp"
    return "other"


def with_tokens(body: Mapping[str, Any], kind: EngineKind) -> dict[str, Any]:
    """The request as the engine gets it: what the client asked for, and token ids and log-probs besides."""
    asked = dict(body)
    stream = bool(body.get("stream"))
    if kind == "other" or (kind == "llama.cpp" and stream and body.get("tools")):
        return asked
    if kind == "sglang":
        return (
            asked if stream else asked | {"logprobs": True, "return_prompt_token_ids": True, "return_meta_info": True}
        )
    if not body.get("logprobs"):
        asked.pop("top_logprobs", None)
    asked["logprobs"] = True
    if kind == "llama.cpp":
        asked["top_logprobs"] = max(body.get("top_logprobs") or 0, 1)  # without it, it sorts out the best twenty
    else:
        asked["return_token_ids"] = True
    return asked


@dataclass
class Tokens:
    """The tokens of one choice, gathered from the chunks of a stream or from a whole reply."""

    kind: EngineKind
    prompt_ids: tuple[int, ...] | None = None
    ids: list[int] = field(default_factory=list[int])
    logprobs: list[float] = field(default_factory=list[float])
    complete: bool = True
    """False once a piece came without its tokens: what was sampled is then not known."""
    spelled: bytes = b""
    """llama.cpp: the bytes of the tokens. Those that end within a character do not come in a stream."""

    def add(self, body: Mapping[str, Any], choice: Mapping[str, Any]) -> None:
        """Take in one chunk, or a whole reply, with the entry of `choices` that is this one's."""
        if self.kind == "other":
            return
        try:
            self._add(body, choice)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError, OverflowError):
            self.complete = False  # an engine's slip costs the tokens, not the answer

    def _add(self, body: Mapping[str, Any], choice: Mapping[str, Any]) -> None:
        prompt = body.get("prompt_token_ids") or choice.get("prompt_token_ids")
        if isinstance(prompt, Sequence) and prompt:
            read = tuple(int(i) for i in prompt)
            if self.prompt_ids is None or not self.ids:
                self.prompt_ids = read
            elif read not in (self.prompt_ids, (*self.prompt_ids, *self.ids)):
                self.complete = False  # another engine goes on, and read the beginning otherwise than it was sampled
        content = (choice.get("logprobs") or {}).get("content") or []
        numbers = [entry.get("logprob") for entry in content]
        if self.kind == "sglang":
            pairs = (choice.get("meta_info") or {}).get("output_token_logprobs") or []
            ids, numbers = [pair[1] for pair in pairs], [pair[0] for pair in pairs]
        elif self.kind == "llama.cpp":
            ids = [entry.get("id") for entry in content]
            self.spelled += b"".join(bytes(entry.get("bytes") or ()) for entry in content)
        else:
            ids = list(choice.get("token_ids") or [])
        if any(type(i) is not int or not 0 <= i < 2**32 for i in ids) or len(numbers) != len(ids):
            self.complete = False
            return
        self.ids += ids
        self.logprobs += [float("nan") if n is None else float(n) for n in numbers]

    def sampled(
        self, answer: Message, temperature: float, version: int | None, *, scaled: bool = False, cut: bool = False
    ) -> Sampled | None:
        """The sampled tokens of an answer; None where the engine did not give all of them.

        Its log-probs are kept where they are those that sampled: `scaled` says that this engine's are of
        softmax(logits / temperature), `cut` that something else decided, too.
        """
        if self.prompt_ids is None or not self.ids or not self.complete:
            return None
        plain = not answer.tool_calls and answer.reasoning_content is None
        if self.kind == "llama.cpp" and plain and self.spelled.decode("utf-8", "replace") != answer.content:
            return None
        as_sampled = scaled or self.kind in ("host", "sglang") or temperature in (0.0, 1.0)
        real = all(LOWEST < n <= HIGHEST for n in self.logprobs)  # false for NaN
        logprobs = tuple(self.logprobs) if as_sampled and real and not cut else None
        return Sampled(self.prompt_ids, tuple(self.ids), logprobs, temperature or 1.0, version)
