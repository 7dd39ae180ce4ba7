"""A KV cache with room to grow: a step writes one token, where transformers' own cache copies all that came before.

Open it to see how sampling in one process keeps its keys and values; the host has a cache of its own.
"""

from typing import Any

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


def make_cache(model: Any, room: int) -> DynamicCache:
    """Make a cache for `model` whose full-attention layers have room for the prompt and `room` more tokens.

    Layers with a sliding window keep transformers' own class, which holds no more than the window.
    """
    cache = DynamicCache(config=model.config)
    cache.layers = [RoomyLayer(room) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


class RoomyLayer(DynamicLayer):
    """Keys and values (B, heads, T, D) of one layer: views of buffers that are larger than what is in them."""

    def __init__(self, room: int) -> None:
        """`room` tokens are expected after the first that are written."""
        super().__init__()
        self.room = room
        self.buffers: list[Tensor] = []

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values (B, heads, n, D); return all of the layer's, as views."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        before, added = self.get_seq_length(), key_states.shape[-2]
        if not self.buffers or before + added > self.buffers[0].shape[-2]:
            self._make_room(key_states, value_states, before + added)
        full: list[Tensor] = []
        for buffer, new in zip(self.buffers, (key_states, value_states), strict=True):
            view = buffer[: len(new), :, : before + added]
            view[:, :, before:] = new
            full.append(view)
        self.keys, self.values = full
        return self.keys, self.values

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row, as for several answers to one prompt."""
        super().batch_repeat_interleave(repeats)
        self.buffers = []  # the repeated rows are new tensors, without room

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep row indices[i] as row i. Only rows that change their place are copied."""
        if not self.buffers:
            super().batch_select_indices(indices)
            return
        place = indices.new_tensor(range(len(indices)))
        moved = indices != place
        length = self.get_seq_length()
        for buffer in self.buffers:
            if bool(moved.any()):
                buffer[place[moved], :, :length] = buffer[indices[moved], :, :length]
        self.keys, self.values = (buffer[: len(indices), :, :length] for buffer in self.buffers)

    def _make_room(self, key_states: Tensor, value_states: Tensor, needed: int) -> None:
        buffers: list[Tensor] = []
        for old, new in zip((self.keys, self.values), (key_states, value_states), strict=True):
            batch, heads, _, width = new.shape
            buffer = new.new_empty(batch, heads, needed + self.room, width)
            if old is not None and old.numel():
                buffer[:, :, : old.shape[-2]] = old
            buffers.append(buffer)
        self.buffers = buffers
