"""Samples answers with their token ids and log-probs, in the process that holds the model.

Open it to see how a token is drawn; the server's answers come from the host's engine.

The prompts of one group are read once, finished rows leave the batch, the head runs on the last position
only, and weights are laid out for decoding meanwhile, a LoRA adapter merged into them. Log-probs are of
softmax(logits / temperature), before any top-k or top-p cut.
"""

from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from talktune.config import SampleConfig
from talktune.policy.cache import make_cache
from talktune.policy.linear import ready_to_decode
from talktune.types import Sampled

BLOCK = 256
"""Tokens of the vocabulary whose chances are added up before one of them is picked."""

OnTokens = Callable[[list[int], list[int]], None]
"""Hears of every step: the rows that got a token, and the tokens."""


@torch.inference_mode()
def sample_answers(
    model: Any,
    prompts: Sequence[Sequence[int]],
    config: SampleConfig,
    *,
    end_ids: Collection[int],
    seed: int,
    copies: int = 1,
    policy_version: int | None = None,
    on_tokens: OnTokens | None = None,
    merge: bool = True,
) -> list[Sampled]:
    """Sample `copies` answers to each prompt; answer i*copies + j belongs to prompt i.

    An answer ends with one of `end_ids` (kept: it was sampled) or at `config.max_new_tokens`. Temperature 0
    is greedy and its log-probs count as temperature 1. The draws of a row come from (seed, row) alone, so
    they do not depend on which rows finish earlier. `on_tokens(rows, tokens)` hears of every step.
    Without `merge` the adapter stays beside the weights: slower, and no second copy of them.
    """
    device = next(model.parameters()).device
    rows = len(prompts) * copies
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(rows, config.max_new_tokens, generator=generator, dtype=torch.float64).to(device)
    with ready_to_decode(model, rows) if merge else nullcontext():
        state = _prefill(model, prompts, copies, config.max_new_tokens, device)
        ids, logprobs = _decode(model, *state, config, draws, torch.tensor(sorted(end_ids), device=device), on_tokens)
    temperature = config.temperature or 1.0
    return [
        Sampled(tuple(prompts[row // copies]), tuple(ids[row]), tuple(logprobs[row]), temperature, policy_version)
        for row in range(rows)
    ]


def _decode(
    model: Any,
    logits: Tensor,
    cache: DynamicCache,
    mask: Tensor,
    config: SampleConfig,
    draws: Tensor,
    ends: Tensor,
    on_tokens: OnTokens | None,
) -> tuple[list[list[int]], list[list[float]]]:
    """Token ids and log-probs of every row, one token a step for the rows that are not finished."""
    ids: list[list[int]] = [[] for _ in range(len(mask))]
    logprobs: list[list[float]] = [[] for _ in range(len(mask))]
    alive = torch.arange(len(mask), device=mask.device)
    for step in range(config.max_new_tokens):
        scores = torch.log_softmax(logits.float() / (config.temperature or 1.0), dim=-1)  # (alive, V)
        chosen = choose(scores, config, draws[alive, step])
        taken = scores.gather(1, chosen[:, None]).squeeze(1)
        for row, token, logprob in zip(alive.tolist(), chosen.tolist(), taken.tolist(), strict=True):
            ids[row].append(token)
            logprobs[row].append(logprob)
        if on_tokens is not None:
            on_tokens(alive.tolist(), chosen.tolist())
        going = ~torch.isin(chosen, ends)
        if step + 1 == config.max_new_tokens or not bool(going.any()):
            break
        if not bool(going.all()):
            stay = _fill_gaps(going)
            alive, chosen, mask = alive[stay], chosen[stay], mask[stay]
            cache.batch_select_indices(stay)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        logits = model(
            input_ids=chosen[:, None],
            attention_mask=mask,
            position_ids=mask.sum(dim=1, keepdim=True) - 1,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
    return ids, logprobs


def _fill_gaps(going: Tensor) -> Tensor:
    """Indices of the rows that go on, in an order that moves few: the last ones take the places that fall free."""
    stay = going.nonzero().squeeze(1)
    head, tail = stay[stay < len(stay)], stay[stay >= len(stay)]
    order = torch.arange(len(stay), device=stay.device)
    free = torch.ones_like(order, dtype=torch.bool)
    free[head] = False
    order[free] = tail
    return order


def choose(scores: Tensor, config: SampleConfig, draws: Tensor) -> Tensor:
    """Pick one token a row from log-probs `scores` (B, V) by inverse CDF at `draws` (B,) in [0, 1) -> (B,)."""
    if config.temperature == 0:
        return scores.argmax(dim=-1)
    if config.top_k == 0 and config.top_p >= 1.0:
        return _pick(scores.exp(), draws)
    ordered, order = scores.sort(dim=-1, descending=True)
    probs = ordered.exp().double()
    if config.top_k > 0:
        probs[:, config.top_k :] = 0.0
    if config.top_p < 1.0:
        before = probs.cumsum(dim=-1) - probs
        probs[before >= config.top_p] = 0.0
    return order.gather(1, _pick(probs, draws)[:, None]).squeeze(1)


def _pick(probs: Tensor, draws: Tensor) -> Tensor:
    """Inverse CDF of probs (B, V), which need not add up to 1: first among blocks of tokens, then within one.

    Two short running sums in place of one over the whole vocabulary.
    """
    missing = -probs.shape[1] % BLOCK  # pad copies even where it adds nothing
    blocks = (torch.nn.functional.pad(probs, (0, missing)) if missing else probs).unflatten(1, (-1, BLOCK))
    row = torch.arange(len(probs), device=probs.device)
    ends = blocks.sum(2).double().cumsum(1)
    block, rest = _invert(ends, draws[:, None] * ends[:, -1:])
    token, _ = _invert(blocks[row, block].cumsum(1, dtype=torch.float64), rest)
    return block * BLOCK + token


def _invert(ends: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The first place (B,) at which the running sum `ends` (B, n) exceeds `target` (B, 1), and what is left of it."""
    target = torch.minimum(target, ends[:, -1:] * (1 - 2**-40))  # rounding must not lead past what has a chance
    place = torch.searchsorted(ends, target, right=True)
    before = torch.where(place > 0, ends.gather(1, (place - 1).clamp_(min=0)), 0.0)
    return place.squeeze(1), target - before


def _prefill(
    model: Any, prompts: Sequence[Sequence[int]], copies: int, room: int, device: torch.device
) -> tuple[Tensor, DynamicCache, Tensor]:
    """Read each prompt once (left-padded), then repeat its state `copies` times."""
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros(len(prompts), longest, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    ids, mask = ids.to(device), mask.to(device)
    cache = make_cache(model, room)
    logits = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(dim=1) - 1).clamp_(min=0),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1]
    if copies > 1:
        cache.batch_repeat_interleave(copies)
        logits, mask = logits.repeat_interleave(copies, 0), mask.repeat_interleave(copies, 0)
    return logits, cache, mask
