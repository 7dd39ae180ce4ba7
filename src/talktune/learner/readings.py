"""Readings (what the preference model sees of an answer) as bytes, for the store and for run directories.

Open it when the form of a reading changes.
"""

import json

import torch
from safetensors.torch import load, save

from talktune.learner.preference import Reading


def reading_to_bytes(reading: Reading) -> bytes:
    """A reading as bytes, without loss: states are float32 and are kept as such."""
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
