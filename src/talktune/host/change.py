"""Compares an adapter with the bare model: how much likelier it makes each token of an answer.

Open it to see where the page's colours of a changed answer come from.
"""

from collections.abc import Sequence
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from talktune.host.lora import Lora, LoraRows
from talktune.policy.turnstile import Role, Turnstile
from talktune.policy.view import view_of

MOST_TOKENS = 2048
"""Of prompt and answer together: what one look costs is bounded."""
MOST_ANSWER = 512
"""Tokens of an answer that are looked at, its first ones: each takes room for two rows of the vocabulary."""
_CHUNK = 64


class Change:
    """Scores given tokens on a view of its own, one answer at a time, in its role's turn."""

    def __init__(self, model: Any, turnstile: Turnstile) -> None:
        """To be made before an adapter is put on `model`."""
        self._model = view_of(model)
        self._loras = LoraRows(self._model)
        # Somebody waits for it, so that learning lets it pass between two layers.
        self._lane = turnstile.lane(Role.JUDGE)
        self._lane.stop_between_layers(self._model)
        self._one = Lock()

    def logprobs(
        self, prompt: Sequence[int], answer: Sequence[int], temperature: float, lora: Lora | None
    ) -> tuple[list[float], list[float]]:
        """Log-probs of the answer's tokens, in nats at this temperature: of the bare model, and with the adapter.

        ValueError where prompt and answer are empty or have more than `MOST_TOKENS`.
        """
        answer = answer[:MOST_ANSWER]
        if not prompt or not answer or len(prompt) + len(answer) > MOST_TOKENS:
            raise ValueError(f"a prompt and an answer of 1 to {MOST_TOKENS} tokens together are looked at")
        rows = [None] if lora is None else [None, lora]
        device = next(self._model.parameters()).device
        ids = torch.tensor([[*prompt, *answer[:-1]]] * len(rows), device=device)
        wanted = torch.tensor(answer, device=device)
        with self._one, self._lane, torch.inference_mode(), self._loras.rows(rows):
            logits = self._model(input_ids=ids, use_cache=False, logits_to_keep=len(answer)).logits
            found = [_chosen(row, wanted, temperature) for row in logits]
        return found[0], found[-1]

    def forget(self, lora: Lora) -> None:
        """Drop what is cached of an adapter that was unloaded."""
        with self._one:
            self._loras.forget(lora)


def _chosen(logits: Tensor, wanted: Tensor, temperature: float) -> list[float]:
    """Log-probs of the wanted tokens (T,) under logits (T, V), a few rows at a time: nothing else is so large."""
    told: list[float] = []
    for part, ids in zip(logits.split(_CHUNK), wanted.split(_CHUNK), strict=True):
        scores = torch.log_softmax(part.float() / temperature, dim=-1)
        told += scores.gather(1, ids[:, None]).squeeze(1).tolist()
    return told
