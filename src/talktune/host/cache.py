"""The KV cache of all answers that are being sampled: one slot for each sequence, written in place.

Open it to see where the engine's memory goes.

A cache that is concatenated anew for each token copies everything that was said so far; here a pass writes
its own positions and reads a view. Rows of one pass lie in neighbouring slots, so the view needs no copy.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

from talktune.errors import UserError

KNOWN_LAYERS = {"full_attention", "sliding_attention"}


class SlotLayer(CacheLayerMixin):
    """Keys and values of one layer, (slots, heads, length, dim); made when the first pass tells the shape."""

    is_sliding = False

    def __init__(self, cache: "SlotCache") -> None:
        super().__init__()
        self.cache = cache
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate zeros: what was never written is masked, and must still be finite."""
        shape = (self.cache.slots, key_states.shape[1], self.cache.length)
        self.keys = key_states.new_zeros((*shape, key_states.shape[3]))
        self.values = value_states.new_zeros((*shape, value_states.shape[3]))
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write (rows, heads, width, dim) at the pass's slots and positions; return views of all of these rows."""
        if self.keys is None or self.values is None:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        cache = self.cache
        self.keys[cache.rows, :, cache.positions] = key_states.transpose(1, 2)
        self.values[cache.rows, :, cache.positions] = value_states.transpose(1, 2)
        return self.keys[cache.window], self.values[cache.window]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of what a mask covers (masks are given ready, so nothing asks in practice)."""
        return self.cache.seen, 0

    def get_seq_length(self) -> int:
        """0: positions are always given with the pass."""
        return 0

    def get_max_length(self) -> int:
        """-1: there is no limit here; the engine keeps to the budget."""
        return -1


class SlotCache(Cache):
    """Slots 0 … `slots` − 1 of `length` positions each, for all layers of a model.

    `aim` says where the next pass writes and reads. `reserve` changes the size, keeping what is there.
    Raises UserError for a model whose layers keep another state than keys and values.
    """

    def __init__(self, config: Any) -> None:
        text = config.get_text_config(decoder=True)
        kinds = getattr(text, "layer_types", None) or ["full_attention"] * text.num_hidden_layers
        if strange := sorted(set(kinds) - KNOWN_LAYERS):
            raise UserError(
                f"model type {text.model_type}: its layers of kind {', '.join(strange)} cannot be served here; "
                "serve it with vLLM or llama.cpp and give --upstream."
            )
        self.slots = 0
        self.length = 0
        self.seen = 0
        self.rows = torch.zeros(0, dtype=torch.long)
        self.positions = self.rows
        self.window = (slice(0, 0), slice(None), slice(0, 0))
        window = getattr(text, "sliding_window", None)
        self.sliding = window if isinstance(window, int) and getattr(text, "use_sliding_window", True) else None
        self.mixed = self.sliding is not None and getattr(text, "layer_types", None) is not None
        super().__init__(layers=[SlotLayer(self) for _ in range(text.num_hidden_layers)])

    def aim(self, first: int, positions: Tensor) -> Any:
        """Place the next pass: row i in slot first + i, at positions[i] (rows, width). Returns its attention mask.

        The mask is True where position j ≤ the token's own position, (rows, 1, width, seen); for a model with
        sliding windows also j > position − window, in the form that transformers takes for it.
        """
        count = len(positions)
        self.rows = torch.arange(first, first + count, device=positions.device)[:, None]
        self.positions = positions
        self.seen = int(positions.max()) + 1
        self.window = (slice(first, first + count), slice(None), slice(0, self.seen))
        there = torch.arange(self.seen, device=positions.device)
        mine = positions[:, None, :, None]
        full = there <= mine
        if self.sliding is None:
            return full
        near = full & (there > mine - self.sliding)
        return {"full_attention": full, "sliding_attention": near} if self.mixed else near

    @torch.inference_mode()
    def reserve(self, slots: int, length: int, used: int) -> None:
        """Resize to `slots` × `length`; the first `used` slots keep what they hold, up to the new length."""
        if (slots, length) == (self.slots, self.length):
            return
        self.slots, self.length = slots, length
        for layer in self.layers:
            for name in ("keys", "values"):
                old: Tensor | None = getattr(layer, name)
                if old is None:
                    continue
                new = old.new_zeros((slots, old.shape[1], length, old.shape[3]))
                rows, columns = min(used, slots, len(old)), min(length, old.shape[2])
                new[:rows, :, :columns] = old[:rows, :, :columns]
                setattr(layer, name, new)

    @torch.inference_mode()
    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of one slot to another."""
        for stored in self._tensors():
            stored[target, :, :length] = stored[source, :, :length]

    @torch.inference_mode()
    def swap(self, one: int, other: int, length: int) -> None:
        """Exchange the first `length` positions of two slots."""
        for stored in self._tensors():
            kept = stored[one, :, :length].clone()
            stored[one, :, :length] = stored[other, :, :length]
            stored[other, :, :length] = kept

    def _tensors(self) -> list[Tensor]:
        both = [tensor for layer in self.layers for tensor in (layer.keys, layer.values)]  # pyright: ignore[reportAttributeAccessIssue]
        return [tensor for tensor in both if tensor is not None]
