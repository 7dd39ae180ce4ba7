"""Packs dealt out: each once, and rounds as short as they can be."""

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talktune.rl.dealing import deal


@given(sizes=st.lists(st.integers(1, 50), max_size=40), ranks=st.integers(1, 9))
def test_every_pack_is_dealt_once_in_as_few_rounds_as_there_can_be(sizes: list[int], ranks: int) -> None:
    dealt = deal(sizes, ranks)
    assert sorted(i for one in dealt for i in one if i is not None) == list(range(len(sizes)))
    assert all(len(one) == ranks and any(i is not None for i in one) for one in dealt)
    assert len(dealt) == -(-len(sizes) // ranks)
    if ranks == 1:
        assert [i for one in dealt for i in one] == list(range(len(sizes)))


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6), ranks=st.integers(2, 3))
def test_no_other_way_of_dealing_takes_less_time(sizes: list[int], ranks: int) -> None:
    def cost(rounds: list[tuple[int | None, ...]]) -> int:
        return sum(max(sizes[i] for i in one if i is not None) for one in rounds)

    def cut(order: tuple[int, ...]) -> list[tuple[int | None, ...]]:
        return [order[i : i + ranks] for i in range(0, len(order), ranks)]

    assert cost(deal(sizes, ranks)) == min(cost(cut(order)) for order in permutations(range(len(sizes))))


def test_there_is_at_least_one_rank() -> None:
    with pytest.raises(ValueError, match="1 or more"):
        deal([1], 0)
