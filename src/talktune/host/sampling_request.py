"""What the engine is asked for, and what it gives back: a request, its sequences, their tokens.

Open it to see what can be asked of the engine. A sequence is one answer; in a batch it is one row.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from talktune.config import SampleConfig
from talktune.host.grammar import Guide
from talktune.host.lora import Lora
from talktune.policy.turnstile import Role

Finish = Literal["stop", "length"]


class Token(NamedTuple):
    """One sampled token; its log-prob is of softmax(logits / temperature) before any cut."""

    choice: int
    id: int
    logprob: float
    top: list[tuple[int, float]]
    """The likeliest (id, log-prob) pairs, where asked for."""
    finish: Finish | None
    """Why this was the last one: an end-of-turn token or the length; None when more may come."""


@dataclass(eq=False)
class SamplingRequest:
    """One request: a prompt and how to answer it. The two callbacks run in the engine's thread."""

    prompt_ids: tuple[int, ...]
    sample: SampleConfig
    end_ids: frozenset[int]
    on_token: Callable[[Token], bool]
    """Hears of every token; True ends that answer (a stop string was found)."""
    on_failure: Callable[[str], None]
    """Hears, instead of further tokens, that the request cannot be finished, in a sentence."""
    copies: int = 1
    seed: int | None = None
    lora: Lora | None = None
    top: int = 0
    guides: Sequence[Guide] = ()
    """One for each copy where the answers must have a form."""
    role: Role = Role.ANSWERS
    """For whom it is sampled: how urgent it is beside others who compute."""
    cancelled: bool = False
    """Set by anyone at any time: its rows are dropped before the next step."""


@dataclass(eq=False)
class SamplingSequence:
    """One answer while it is sampled; it waits, or it is one row of the batch."""

    request: SamplingRequest
    choice: int
    ids: list[int]
    """Prompt and answer so far."""
    draws: random.Random
    cached: int = 0
    """How many of `ids` have their keys and values in the row's slot."""

    @property
    def guide(self) -> Guide | None:
        """The guide that allows the next tokens, where the answer has a grammar."""
        return self.request.guides[self.choice] if self.request.guides else None

    @property
    def left(self) -> int:
        """How many tokens must be read before the next one can be sampled."""
        return len(self.ids) - self.cached
