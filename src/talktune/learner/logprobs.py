"""Log-probs of given answer tokens under a policy: one forward pass over a pack of samples."""

from typing import Any

import torch
from torch import Tensor

from talktune.rl.packing import Pack


def token_logprobs(
    model: Any, pack: Pack, temperature: Tensor, *, with_entropy: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Log-probs (K,) of a pack's answer tokens under softmax(logits / temperature), and the entropy (K,).

    `temperature` is (K,). The head runs on the scored positions only. Units: nats. The entropy is a metric
    and carries no gradient.
    """
    device = pack.ids.device
    mask = pack.attention_mask()[None, None]
    bias = torch.zeros(mask.shape, dtype=next(model.parameters()).dtype, device=device)
    bias.masked_fill_(~mask, torch.finfo(bias.dtype).min)
    logits = model(
        input_ids=pack.ids[None],
        attention_mask=bias,
        position_ids=pack.positions[None],
        use_cache=False,
        logits_to_keep=pack.source,
    ).logits[0]
    scores = torch.log_softmax(logits.float() / temperature[:, None], dim=-1)  # (K, V)
    chosen = scores.gather(1, pack.target[:, None]).squeeze(1)
    if not with_entropy:
        return chosen, None
    with torch.no_grad():
        entropy = -(scores.exp() * scores).sum(dim=-1)
    return chosen, entropy
