"""Attention over trees against one dense mask."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention as sdpa

from talktune.learner import attention
from talktune.learner.attention import Trees, tree_attention
from talktune.rl.packing import Pack, pack
from talktune.types import Sample

LAYER = SimpleNamespace(training=False)
tokens = st.lists(st.integers(0, 2), min_size=1, max_size=9).map(tuple)
forests = st.lists(st.tuples(tokens, tokens), min_size=1, max_size=8)


def one_pack(found: Any) -> Pack:
    [made] = pack([Sample(str(i), prompt, answer, 0.0, "") for i, (prompt, answer) in enumerate(found)], 10_000)
    return made


@settings(max_examples=60)
@given(forests, st.sampled_from([2, 4, 256]), st.sampled_from([None, 2, 5]), st.integers(0, 2**16))
def test_values_and_gradients_equal_one_dense_mask(found: Any, dense: int, window: int | None, seed: int) -> None:
    p = one_pack(found)
    torch.manual_seed(seed)
    leaves = [torch.randn(1, h, len(p.ids), 4, dtype=torch.float64, requires_grad=True) for h in (4, 2, 2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "cut_blocks", lambda end: attention_cut(end, dense))
        trees = Trees(p)
    out, _ = tree_attention(LAYER, *leaves, None, scaling=0.4, trees=trees, sliding_window=window)
    mask = p.attention_mask()
    if window is not None:
        mask &= p.positions[:, None] - p.positions[None, :] < window
    q, k, v = leaves
    true = sdpa(q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1), attn_mask=mask[None, None], scale=0.4)
    torch.testing.assert_close(out, true.transpose(1, 2), atol=1e-12, rtol=1e-12)
    weights = torch.randn_like(out)
    mine = torch.autograd.grad((out * weights).sum(), leaves)
    theirs = torch.autograd.grad((true.transpose(1, 2) * weights).sum(), leaves)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-12)


attention_cut = attention.cut_blocks


def test_the_block_mask_of_the_gpu_kernel_says_the_same() -> None:
    from torch.nn.attention.flex_attention import create_mask

    p = one_pack([((1, 2), (3, 4)), ((1, 2), (3, 5, 6)), ((1,), (7,)), ((2,), (2, 2))])
    for window in (None, 2):
        block = Trees(p).sparse(window)
        n = len(p.ids)
        expected = p.attention_mask()
        if window is not None:
            expected &= p.positions[:, None] - p.positions[None, :] < window
        made = create_mask(block.mask_mod, None, None, n, n, device="cpu")[0, 0]
        assert torch.equal(made, expected)


@pytest.mark.parametrize(
    "asked", [{"softcap": 30.0}, {"s_aux": torch.zeros(2)}, {"attention_mask": torch.ones(1)}, {"trees": None}]
)
def test_what_is_not_known_is_refused(asked: dict[str, Any]) -> None:
    p = one_pack([((1,), (2,))])
    q = torch.randn(1, 2, 2, 4)
    options = {"attention_mask": None, "trees": Trees(p)} | asked
    with pytest.raises(TypeError, match="attention over trees cannot do"):
        tree_attention(LAYER, q, q, q, **options)
