"""A reading as bytes: safetensors of its states, its shape, its prompt's ids and its words."""

import json

import torch
from safetensors.torch import load, save

from talktune.learner.preference import Reading


def reading_to_bytes(reading: Reading) -> bytes:
    """All of it, exactly: states are float32 to begin with, and kept as such."""
    words = json.dumps(sorted(reading.words)).encode()
    return save(
        {
            "states": reading.states.float().contiguous(),
            "shape": torch.tensor(reading.shape, dtype=torch.float64),
            "prompt": torch.tensor(reading.prompt, dtype=torch.int64),
            "words": torch.frombuffer(bytearray(words), dtype=torch.uint8),
        }
    )


def reading_from_bytes(data: bytes) -> Reading:
    """The inverse of `reading_to_bytes`."""
    parts = load(data)
    return Reading(
        prompt=tuple(parts["prompt"].tolist()),
        words=frozenset(json.loads(bytes(parts["words"].tolist()))),
        shape=tuple(parts["shape"].tolist()),
        states=parts["states"].double(),
    )
