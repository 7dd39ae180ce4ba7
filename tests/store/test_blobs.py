import pytest
from hypothesis import given
from hypothesis import strategies as st

from talktune.store.blobs import floats_from_bytes, floats_to_bytes, ids_from_bytes, ids_to_bytes


@given(st.lists(st.integers(0, 2**32 - 1)))
def test_ids(ids: list[int]) -> None:
    data = ids_to_bytes(ids)
    assert len(data) == 4 * len(ids)
    assert ids_from_bytes(data) == tuple(ids)


@given(st.lists(st.floats(width=32, allow_nan=False)))
def test_floats(values: list[float]) -> None:
    assert floats_from_bytes(floats_to_bytes(values)) == tuple(values)


def test_the_bytes_are_the_same_on_every_machine() -> None:
    assert ids_to_bytes([1, 256]) == b"\x01\0\0\0\0\x01\0\0"
    assert floats_to_bytes([-0.5]) == b"\0\0\0\xbf"


@pytest.mark.parametrize("bad", [-1, 2**32])
def test_an_id_that_is_none(bad: int) -> None:
    with pytest.raises(OverflowError):
        ids_to_bytes([bad])
