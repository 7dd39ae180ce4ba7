"""Which slot of the KV cache belongs to which answer, and where a finished one stays as a cached prefix.

Open it to see how many answers fit in memory at once. Slots hold, in this order: rows that decode, rows whose prompt
is being read, cached prefixes of finished rows. So the rows of one pass are always neighbours, and old keys and values
are used again until their slot is needed.
"""

from dataclasses import dataclass, field

from talktune.host.cache import SlotCache
from talktune.host.lora import Lora
from talktune.host.sampling_request import SamplingSequence
from talktune.rl.packing import common_length

LENGTH_STEP = 64
"""Slots grow by multiples of this many positions."""
MAX_ROWS = 64
"""Answers sampled at once; more wait."""
KEPT = 8
"""Slots that are made, as they are needed, for what finished rows leave."""
MIN_SHARED = 8
"""Shared tokens from which a prompt's beginning is copied from another slot instead of read."""


@dataclass
class CachedPrefix:
    """The keys and values that a finished answer left in its slot: the next turn begins with them."""

    ids: list[int] = field(default_factory=list[int])
    lora: Lora | None = None
    since: int = 0


class Slots:
    """The live rows in the order of their slots, behind them the cached prefixes of finished ones.

    `budget` is slots × length of the cache, in tokens; a row that would break it waits, the youngest first.
    `spare` positions stay free behind the longest row when it is admitted: a pass may be padded that far.
    """

    def __init__(self, cache: SlotCache, *, budget: int, spare: int) -> None:
        self.cache = cache
        self.budget = budget
        self.spare = spare
        self.rows: list[SamplingSequence] = []
        self.decoding = 0
        """How many of `rows`, the first ones, decode; the others are being read."""
        self.prefixes: list[CachedPrefix] = []
        self.clock = 0

    def admit(self, row: SamplingSequence) -> bool:
        """Give `row` the slot behind the live rows, to be read; False when there is no room for it now."""
        live = len(self.rows)
        longest = _round_up(max(len(other.ids) for other in [row, *self.rows]) + 1 + self.spare)
        length = longest if (live + 1) * self.cache.length > self.budget else max(self.cache.length, longest)
        most = max(self.budget // length, 1)  # a row alone is always admitted
        if live >= min(most, MAX_ROWS):
            return False
        slots = self.cache.slots
        if live + len(self.prefixes) >= slots:
            slots = max(slots, min(2 * slots, live + KEPT), live + 1)
        self._resize(min(slots, most), length)
        while live + len(self.prefixes) >= self.cache.slots:
            self._evict()
        if self.prefixes:  # the first of them stands where the row goes: it moves behind the last
            first = self.prefixes.pop(0)
            self.prefixes.append(first)
            self.cache.copy(live, live + len(self.prefixes), len(first.ids))
        self.rows.append(row)
        return True

    def share(self, slot: int) -> None:
        """Copy the longest beginning of a row's ids that another slot holds for the same adapter, if any."""
        row, start = self.rows[slot], len(self.rows)
        live = [(i, other.ids[: other.cached], other.request.lora) for i, other in enumerate(self.rows) if i != slot]
        cached = [(start + i, prefix.ids, prefix.lora) for i, prefix in enumerate(self.prefixes)]
        held = [(common_length(row.ids[:-1], ids), i) for i, ids, lora in [*live, *cached] if lora is row.request.lora]
        length, source = max(held, default=(0, slot))
        if length >= MIN_SHARED:
            self.cache.copy(source, slot, length)
            row.cached = length

    def lengthen(self) -> list[SamplingSequence]:
        """Make room for one more token in every decoding row; returns the rows, if any, that had to leave for it."""
        left: list[SamplingSequence] = []
        while self.decoding:
            needed = max(row.cached for row in self.rows[: self.decoding]) + 1
            if needed <= self.cache.length:
                break
            length = min(_round_up(2 * needed), self.budget // len(self.rows))
            if length >= needed or len(self.rows) == 1:
                length = max(length, needed)
                self._resize(max(len(self.rows), min(self.cache.slots, self.budget // length)), length)
                break
            row = self.rows[-1]
            self.retire(row)
            row.cached = 0
            left.append(row)
        return left

    def retire(self, row: SamplingSequence) -> None:
        """Take a row out: it moves behind the live rows, and its slot's contents stay as a cached prefix."""
        slot = self.rows.index(row)
        if slot < self.decoding:
            self.decoding -= 1
            self._swap(slot, self.decoding)
            slot = self.decoding
        self._swap(slot, len(self.rows) - 1)
        self.rows.pop()
        self.clock += 1
        self.prefixes.insert(0, CachedPrefix(row.ids[: row.cached], row.request.lora, self.clock))

    def forget(self, lora: Lora) -> None:
        """Drop the cached prefixes that this adapter computed: it was unloaded."""
        for prefix in self.prefixes:
            if prefix.lora is lora:
                prefix.lora, prefix.ids = None, []

    def clear(self) -> None:
        """Drop all rows and prefixes, and free their memory."""
        self.rows, self.decoding, self.prefixes = [], 0, []
        self.cache.reserve(0, 0, 0)

    def _resize(self, slots: int, length: int) -> None:
        while self.prefixes and len(self.rows) + len(self.prefixes) > slots:
            self._evict()
        for prefix in self.prefixes:
            del prefix.ids[length:]
        self.cache.reserve(slots, length, len(self.rows) + len(self.prefixes))

    def _evict(self) -> None:
        """Forget the oldest cached prefix; the last one takes its slot."""
        oldest = min(range(len(self.prefixes)), key=lambda i: self.prefixes[i].since)
        last = self.prefixes.pop()
        if oldest < len(self.prefixes):
            live = len(self.rows)
            self.cache.copy(live + len(self.prefixes), live + oldest, len(last.ids))
            self.prefixes[oldest] = last

    def _swap(self, one: int, other: int) -> None:
        if one != other:
            rows = self.rows
            self.cache.swap(one, other, max(rows[one].cached, rows[other].cached))
            rows[one], rows[other] = rows[other], rows[one]


def _round_up(length: int) -> int:
    return -(-length // LENGTH_STEP) * LENGTH_STEP
