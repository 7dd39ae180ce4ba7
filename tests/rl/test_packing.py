"""Samples as trees: nothing is lost, nothing is doubled, and each node sees its own past and nothing else."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from talktune.rl.packing import pack
from talktune.types import Sample

Tokens = tuple[int, ...]
few = st.integers(0, 2)
tokens = st.lists(few, min_size=1, max_size=6).map(tuple)
pairs = st.lists(st.tuples(tokens, tokens), min_size=1, max_size=10)


def make(found: list[tuple[Tokens, Tokens]]) -> list[Sample]:
    return [Sample(str(i), prompt, answer, 0.0, "") for i, (prompt, answer) in enumerate(found)]


@given(pairs, st.integers(1, 40))
def test_every_sample_is_a_path_and_its_answer_is_scored_once(found: list[tuple[Tokens, Tokens]], budget: int) -> None:
    samples = make(found)
    packs = pack(samples, budget)
    assert sorted(i for p in packs for i in p.samples) == list(range(len(samples)))
    for p in packs:
        mask = p.attention_mask()
        assert sum(p.lengths) == len(p.target) == len(p.source)
        rows = zip(p.samples, p.rows(p.source), p.rows(p.target), strict=True)
        for i, source, target in rows:
            sample = samples[i]
            assert tuple(target.tolist()) == sample.answer_ids
            for k, node in enumerate(source.tolist()):
                seen = mask[node].nonzero().squeeze(1)
                before = sample.prompt_ids + sample.answer_ids[:k]
                assert tuple(p.ids[seen].tolist()) == before
                assert p.positions[seen].tolist() == list(range(len(before)))


@given(pairs, st.integers(1, 40))
def test_packs_keep_to_the_budget_or_the_longest_sample(found: list[tuple[Tokens, Tokens]], budget: int) -> None:
    samples = make(found)
    longest = max(len(prompt) + len(answer) for prompt, answer in found)
    for p in pack(samples, budget):
        assert len(p.ids) <= max(budget, longest)


def test_a_conversation_longer_than_the_budget_is_not_read_turn_by_turn() -> None:
    samples = [Sample(str(n), tuple(range(n)), (n, n + 1), 0.0, "") for n in range(10, 100, 3)]
    [p] = pack(samples, 20)
    assert len(p.ids) < 150


@given(pairs)
def test_with_room_enough_every_prefix_is_one_node(found: list[tuple[Tokens, Tokens]]) -> None:
    samples = make(found)
    [p] = pack(samples, 10_000)
    paths = [sample.prompt_ids + sample.answer_ids for sample in samples]
    assert len(p.ids) == len({path[:n] for path in paths for n in range(1, len(path) + 1)})


def test_a_conversation_costs_its_own_length() -> None:
    history: Tokens = ()
    samples: list[Sample] = []
    for turn in range(8):
        user, answer = ((turn, side, 7) for side in (0, 1))
        samples.append(Sample(str(turn), history + user, answer, 0.0, ""))
        history += user + answer
    [p] = pack(samples, 1000)
    assert len(p.ids) == len(history)


def test_a_pack_moves_as_a_whole() -> None:
    (packed,) = pack(make([((0, 1), (2,)), ((0, 1), (1, 1))]), 100)
    moved = packed.to(torch.device("meta"))
    tensors = ("ids", "positions", "end", "source", "target")
    assert {getattr(moved, name).device.type for name in tensors} == {"meta"}
    assert [getattr(moved, name).shape for name in tensors] == [getattr(packed, name).shape for name in tensors]
    assert (moved.samples, moved.lengths) == (packed.samples, packed.lengths)
