"""Deals packs to ranks that compute in step: a round lasts as long as its largest pack.

Open it when ranks wait for each other.
"""

from collections.abc import Sequence


def deal(sizes: Sequence[int], ranks: int) -> list[tuple[int | None, ...]]:
    """Rounds in which each rank has one pack (a position in `sizes`, in tokens), or None where it has none left.

    Every layer gathers its weights from all ranks, so that all of them make the same passes and a round takes

        max over ranks of size,    summed over ⌈packs / ranks⌉ rounds

    which is smallest when packs of like size share a round: sorted, the largest first, and dealt out in turn. One rank
    has all of them in their own order. ValueError for no rank.
    """
    if ranks < 1:
        raise ValueError(f"ranks is {ranks}: it must be 1 or more")
    order = sorted(range(len(sizes)), key=lambda i: -sizes[i]) if ranks > 1 else range(len(sizes))
    dealt: list[int | None] = [*order, *[None] * (-len(sizes) % ranks)]
    return [tuple(dealt[i : i + ranks]) for i in range(0, len(dealt), ranks)]
