"""Reads the sentences of a reaction one by one, so that a sure complaint counts beside praise.

Open it when a complaint is judged as good.

Praise that is written beside a complaint, in whatever form, would turn the verdict on the whole text; it does not make
the sentence that complains any better. The cautious verdict wins: praise has no such way around a complaint.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from talktune.judge.exchange import Exchange
from talktune.judge.heard import sentences

GOOD = 2
"""The place of a good verdict in a distribution."""
SURE = 0.9
"""How likely a sentence must be bad, by the mean of the voters."""
SENTENCES = 4
"""The first so many of a next state are read by themselves."""


def with_complaints(probs: Tensor, exchanges: Sequence[Exchange], read: Callable[[list[Exchange]], Tensor]) -> Tensor:
    """Probabilities (N, voters, 3) of exchanges, those of its surest complaint in place of a whole that is good.

    `read` gives the probabilities of further exchanges, as `probs` are those of the first.
    """
    parts = [
        (place, replace(exchange, next_state=sentence))
        for place, exchange in enumerate(exchanges)
        if probs[place].mean(0).argmax() == GOOD
        for sentence in sentences(exchange.next_state)[:SENTENCES]
    ]
    parts = [part for part in parts if part[1].next_state != exchanges[part[0]].next_state.strip()]
    if not parts:
        return probs
    found = probs.clone()
    surest = torch.full((len(exchanges),), SURE, dtype=probs.dtype)
    for (place, _), row in zip(parts, read([part for _, part in parts]), strict=True):
        if (bad := row.mean(0)[0]) >= surest[place]:
            surest[place], found[place] = bad, row
    return found
