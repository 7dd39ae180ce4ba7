"""Asks the gate's probes of the engine that serves, for a learner on another machine: what is examined will answer.

Open it to see what `--gate-upstream` does.

vLLM's routes: adapters come and go by `/v1/load_lora_adapter`, and `/v1/completions` takes a prompt as token ids and
gives back those that it sampled (https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html).
"""

from collections.abc import Callable, Collection, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any

import httpx2

from talktune.config import SampleConfig
from talktune.errors import UserError
from talktune.live.engine_answers import AT_ONCE
from talktune.serve.engines.advice import advice
from talktune.serve.engines.upstream import base_url
from talktune.store.policies import Version
from talktune.types import Sampled

SILENCE_SECONDS = 600.0
"""Longest silence of the engine before an answer."""


class GateEngineError(UserError):
    """The engine cannot be asked right now, so the candidate waits; the message is for whoever runs the engine."""


class GateEngine:
    """Gets answers to the gate's probes from one engine."""

    def __init__(
        self, url: str, key: str | None, end_ids: Collection[int], name: Callable[[int], str], context: int
    ) -> None:
        """`name` is what engines call a version of this store; `context` is the trainer's, in tokens. UserError."""
        self._url = base_url(url, "--gate-upstream")
        self._ends = sorted(end_ids)
        self._name = name
        self._context = context
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    @property
    def context(self) -> int:
        """The most tokens that a prompt and its answer may have, both here and at the engine."""
        return min(self._context, self._model.get("max_model_len") or self._context)

    def answers(
        self, prompts: Sequence[Sequence[int]], samples: Sequence[SampleConfig], version: Version | None
    ) -> list[Sampled]:
        """One answer to each prompt by a version (None: the base model), drawn from the prompt's place as its seed.

        Without log-probs: those of the trainer's weights are exact. Raises GateEngineError.
        """

        def answer(i: int) -> Sampled:
            how = samples[i]
            asked = {
                "model": model,
                "prompt": list(prompts[i]),
                "max_tokens": how.max_new_tokens,
                "temperature": how.temperature,
                "top_p": 1.0,
                "top_k": -1,
                "min_p": 0.0,
                "repetition_penalty": 1.0,
                "seed": i,
                "stop_token_ids": self._ends,
                "return_token_ids": True,
            }
            ids = self._ask(client, "/v1/completions", asked)["choices"][0].get("token_ids")
            if not ids:
                raise GateEngineError(
                    f"--gate-upstream {self._url}: gives no token ids; it must be vLLM 0.10.2 or newer."
                )
            return Sampled(tuple(prompts[i]), tuple(ids), None, how.temperature or 1.0, None)

        with self._client() as client, self._loaded(client, version) as model, ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(answer, range(len(prompts))))

    @cached_property
    def _model(self) -> dict[str, Any]:
        """The base model as the engine lists it."""
        with self._client() as client:
            listed = self._ask(client, "/v1/models").get("data") or []
        for one in listed:
            if not one.get("parent"):
                return one
        raise self._trouble("it lists no model")

    @contextmanager
    def _loaded(self, client: httpx2.Client, version: Version | None) -> Generator[str]:
        """Within, the engine has the version, under a name that servers leave alone; yields what to call it."""
        if version is None:
            yield str(self._model["id"])
            return
        name = f"gate-{self._name(version.number)}"
        with suppress(GateEngineError):  # from an exam that was killed
            self._ask(client, "/v1/unload_lora_adapter", {"lora_name": name})
        self._ask(
            client, "/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(version.path)}, str(version.path)
        )
        try:
            yield name
        finally:
            with suppress(GateEngineError):
                self._ask(client, "/v1/unload_lora_adapter", {"lora_name": name})

    def _client(self) -> httpx2.Client:
        return httpx2.Client(headers=self._headers, timeout=httpx2.Timeout(SILENCE_SECONDS, connect=5.0))

    def _ask(
        self, client: httpx2.Client, route: str, body: dict[str, Any] | None = None, path: str = ""
    ) -> dict[str, Any]:
        """`path` is of an adapter that is given: what the engine says of it is told with what to do."""
        try:
            reply = client.request("POST" if body else "GET", self._url + route, json=body)
        except httpx2.HTTPError as error:
            raise self._trouble(f"cannot be asked ({type(error).__name__})") from error
        try:
            said: Any = reply.json()
        except ValueError:
            said = reply.text
        if reply.is_success:
            return said if isinstance(said, dict) else {}
        error = said.get("error") or said if isinstance(said, dict) else said
        words = str((error.get("message") or error.get("detail")) if isinstance(error, dict) else error)
        raise self._trouble(advice(reply.status_code, words, path) if path else f"{reply.status_code}, {words[:200]}")

    def _trouble(self, why: str) -> GateEngineError:
        return GateEngineError(f"--gate-upstream {self._url}: {why}")
