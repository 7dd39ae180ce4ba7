"""A cache with room gives what transformers' own gives, whatever is done to it in which order."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.cache_utils import DynamicLayer

from talktune.policy.cache import RoomyLayer

steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 4)),
        st.tuples(st.just("repeat"), st.integers(1, 3)),
        st.tuples(st.just("select"), st.integers(0, 2**16)),
    ),
    max_size=14,
)


@given(st.integers(1, 3), st.integers(1, 5), st.integers(0, 8), steps)
def test_as_the_plain_layer(rows: int, first: int, room: int, found: list[tuple[str, int]]) -> None:
    torch.manual_seed(0)
    plain, roomy = DynamicLayer(), RoomyLayer(room)
    for kind, n in [("append", first), *found]:
        if kind == "append":
            new = torch.randn(2, rows, 2, n, 3)
            for a, b in zip(plain.update(*new), roomy.update(*new), strict=True):
                assert torch.equal(a, b)
        elif kind == "repeat":
            plain.batch_repeat_interleave(n)
            roomy.batch_repeat_interleave(n)
            rows *= n
        else:
            stay = torch.randperm(rows, generator=torch.Generator().manual_seed(n))[: max(1, rows - n % 3)]
            stay = _few_moves(stay)
            plain.batch_select_indices(stay)
            roomy.batch_select_indices(stay)
            rows = len(stay)
        assert plain.get_seq_length() == roomy.get_seq_length()
        assert torch.equal(plain.keys, roomy.keys)
        assert torch.equal(plain.values, roomy.values)


def _few_moves(stay: torch.Tensor) -> torch.Tensor:
    """The same rows as the sampler orders them: no row moves onto one that is still to be moved."""
    kept = sorted(stay.tolist())
    order = [i if i in kept else -1 for i in range(len(kept))]
    tail = iter([i for i in kept if i >= len(kept)])
    return torch.tensor([next(tail) if i < 0 else i for i in order])


def test_any_order_of_rows() -> None:
    torch.manual_seed(0)
    plain, roomy = DynamicLayer(), RoomyLayer(4)
    new = torch.randn(2, 4, 2, 3, 3)
    plain.update(*new)
    roomy.update(*new)
    for order in ([3, 2, 1, 0], [1, 1, 0], [2, 0]):
        plain.batch_select_indices(torch.tensor(order))
        roomy.batch_select_indices(torch.tensor(order))
        assert torch.equal(plain.keys, roomy.keys)
