import torch
from hypothesis import given
from hypothesis import strategies as st

from talktune.rl.blocks import block_mask, cut_blocks
from talktune.rl.packing import Pack, pack
from talktune.types import Sample

tokens = st.lists(st.integers(0, 2), min_size=1, max_size=8).map(tuple)
forests = st.lists(st.tuples(tokens, tokens), min_size=1, max_size=10)


def one_pack(found: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> Pack:
    [made] = pack([Sample(str(i), prompt, answer, 0.0, "") for i, (prompt, answer) in enumerate(found)], 10_000)
    return made


@given(forests, st.sampled_from([1, 2, 5, 256]), st.sampled_from([None, 1, 3, 100]))
def test_blocks_partition_the_nodes_and_see_what_the_mask_says(
    found: list[tuple[tuple[int, ...], tuple[int, ...]]], dense: int, window: int | None
) -> None:
    p = one_pack(found)
    blocks = cut_blocks(p.end.tolist(), dense)
    assert [i for block in blocks for i in range(block.start, block.stop)] == list(range(len(p.ids)))
    seen = torch.zeros(len(p.ids), len(p.ids), dtype=torch.bool)
    for block in blocks:
        keys = [*block.ancestors, blocks.index(block)]
        columns = torch.cat([torch.arange(blocks[i].start, blocks[i].stop) for i in keys])
        mask = block_mask(block, blocks, p.end, p.positions, window)
        assert mask.shape == (block.stop - block.start, len(columns))
        for row, node in enumerate(range(block.start, block.stop)):
            seen[node, columns] = mask[row]
    expected = p.attention_mask()
    if window is not None:
        expected &= p.positions[:, None] - p.positions[None, :] < window
    assert torch.equal(seen, expected)


@given(forests, st.sampled_from([1, 2, 5]))
def test_a_chain_is_causal_and_sees_all_of_its_ancestors(
    found: list[tuple[tuple[int, ...], tuple[int, ...]]], dense: int
) -> None:
    p = one_pack(found)
    blocks = cut_blocks(p.end.tolist(), dense)
    for block in blocks:
        assert block.chain or block.stop - block.start <= dense
        if block.chain:
            mask = block_mask(block, blocks, p.end, p.positions, None)
            above = mask.shape[1] - mask.shape[0]
            assert mask[:, :above].all()
            assert torch.equal(mask[:, above:], torch.ones(len(mask), len(mask)).tril().bool())
