"""Log-probs of given answer tokens under a policy: one forward pass over a pack of samples, and no (K, V) logits."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from talktune.errors import UserError
from talktune.learner.attention import Trees, over_trees
from talktune.learner.pieces import run_through
from talktune.policy.linear import forwards_kept
from talktune.rl.head import chosen_logprobs
from talktune.rl.packing import Pack, pack
from talktune.types import Sample


@dataclass(frozen=True)
class Pass:
    """What one forward pass found, and the way back through it."""

    logprobs: Tensor
    """(K,), in nats."""
    entropy: Tensor
    """(K,), in nats; a metric, which carries no gradient."""
    cuts: list[tuple[Tensor, Tensor]] = field(default_factory=list[tuple[Tensor, Tensor]])
    """Hidden states between two parts of the layers: as the one gave them, and, detached, as the next took them."""

    def backward(self, loss: Tensor) -> Generator[None]:
        """Add the gradient of `loss` to the parameters; one part of the layers is one piece."""
        loss.backward()
        while self.cuts:  # what lies above is freed on the way
            yield
            given, taken = self.cuts.pop()
            given.backward(taken.grad)


@dataclass(frozen=True)
class Reader:
    """How a model's log-probs are computed: which ways of saving work are valid for it. Made by `make_reader`."""

    model: Any
    """The causal language model (inside of its adapter, where it has one)."""
    packed: bool
    """Samples of a pack share one pass as trees; otherwise every pack holds one sample."""
    fused_head: bool
    """The logits are hidden·weightᵀ + bias and nothing else, so that they need not exist."""
    parted: bool = False
    """The layers may run in parts: each takes what the one before gave, and nothing else."""

    def token_logprobs(self, pack: Pack, temperature: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probs (K,) of a pack's answer tokens under softmax(logits / temperature), and the entropy (K,).

        `temperature` is (K,). The head runs on the scored positions only. Units: nats. The entropy is a metric
        and carries no gradient.
        """
        found = run_through(self.pieces(pack, temperature))
        return found.logprobs, found.entropy

    def pieces(self, pack: Pack, temperature: Tensor, parts: int = 1) -> Generator[None, None, Pass]:
        """The same pass, piece by piece: `parts` equal parts of the layers, and the head; in one if not `parted`."""
        run = self._runner(pack)
        if not self.fused_head:
            logits = run(self.model, input_ids=pack.ids[None], logits_to_keep=pack.source).logits[0]
            scores = torch.log_softmax(logits.float() / temperature[:, None], dim=-1)  # (K, V)
            chosen = scores.gather(1, pack.target[:, None]).squeeze(1)
            return Pass(chosen, -torch.einsum("kv,kv->k", scores.detach().exp(), scores.detach()))
        decoder, head = self.model.get_decoder(), self.model.get_output_embeddings()
        parts = min(parts, len(decoder.layers)) if self.parted else 1
        cuts: list[tuple[Tensor, Tensor]] = []
        taken = {"input_ids": pack.ids[None]}
        for i in range(parts - 1):
            with _part(decoder, i, parts):
                given: Tensor = run(decoder, **taken).last_hidden_state
            hidden = given.detach().requires_grad_(given.requires_grad)
            taken = {"inputs_embeds": hidden}
            if given.requires_grad:
                cuts.append((given, hidden))
            yield
        with _part(decoder, parts - 1, parts):
            scored = run(decoder, **taken).last_hidden_state[0, pack.source]
        if parts > 1:
            yield
        return Pass(*chosen_logprobs(scored, head.weight, pack.target, temperature, bias=head.bias), cuts)

    def _runner(self, pack: Pack) -> Callable[..., Any]:
        """How to call the model, or a part of it, on a pack."""
        if not self.packed:
            return lambda module, **more: module(use_cache=False, **more)
        trees = Trees(pack)

        def run(module: Any, **more: Any) -> Any:
            with over_trees(self.model):
                return module(position_ids=pack.positions[None], trees=trees, use_cache=False, **more)

        return run


@contextmanager
def _part(decoder: Any, index: int, parts: int) -> Generator[None]:
    """Inside, only the `index`-th part of the decoder's layers computes; the others, and the norm, hand on."""
    if parts == 1:
        yield
        return
    layers = list(decoder.layers)
    begin, end = len(layers) * index // parts, len(layers) * (index + 1) // parts
    idle = [*layers[:begin], *layers[end:], *([] if index == parts - 1 else [decoder.norm])]
    with forwards_kept(idle):
        for module in idle:
            module.forward = _same
        yield


def _same(hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
    return hidden_states


def make_reader(model: Any, *, packing: bool = True) -> Reader:
    """Find out, with a few tokens, what is valid for this model; a UserError when packing is wanted and is not.

    Packing holds where a token depends on the tokens that it attends to and on its position alone: not for a
    recurrent state, and not for attention with more terms than ours has.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    with torch.no_grad():
        fused_head = _has_plain_head(base)
        reader = Reader(base, packing, fused_head)
        if packing and not _packs_rightly(reader):
            raise UserError(
                f"{type(base).__name__}: samples cannot share a forward pass under this architecture "
                "(recurrent state, or attention that is computed in another way); add --no-packing."
            )
        return replace(reader, parted=_parts_rightly(reader))


_PROBE = (
    Sample("a", (3, 5), (7, 2, 4, 6), 0.0, ""),
    Sample("b", (3, 5), (7, 9, 1, 2, 8), 0.0, ""),
    Sample("c", (4, 4), (2, 7, 3), 0.0, ""),
)
"""A fork and another tree: small token ids, which every vocabulary has."""


def _tolerance(model: Any) -> float:
    return 1e-3 if next(model.parameters()).dtype == torch.float32 else 0.1


def _packs_rightly(reader: Reader) -> bool:
    alone = Reader(reader.model, packed=False, fused_head=reader.fused_head)
    device = next(reader.model.parameters()).device

    def logprobs(how: Reader, samples: tuple[Sample, ...]) -> Tensor:
        [made] = pack(samples)
        made = made.to(device)
        return how.token_logprobs(made, torch.ones(len(made.target), device=device))[0]

    try:
        together = logprobs(reader, _PROBE)
    except (TypeError, ValueError):
        return False
    [made] = pack(_PROBE)
    apart = torch.cat([logprobs(alone, (_PROBE[i],)) for i in made.samples])
    return bool((together - apart).abs().max() < _tolerance(reader.model))


def _parts_rightly(reader: Reader) -> bool:
    """Whether the layers give the same one by one, which a state beside the hidden one would not."""
    decoder = reader.model.get_decoder()
    if not reader.fused_head or not hasattr(decoder, "layers"):
        return False
    made = pack(_PROBE[:2] if reader.packed else _PROBE[:1])[0].to(next(reader.model.parameters()).device)
    temperature = torch.ones(len(made.target), device=made.ids.device)
    whole = reader.token_logprobs(made, temperature)[0]
    try:
        parted = run_through(replace(reader, parted=True).pieces(made, temperature, len(decoder.layers))).logprobs
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        return False
    return bool((whole - parted).abs().max() < _tolerance(reader.model))


def _has_plain_head(model: Any) -> bool:
    """Whether logits = hidden·weightᵀ + bias, which a soft cap or a scale would not be, nor a LoRA on the head."""
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear:
        return False
    ids = torch.arange(8, device=head.weight.device)[None]
    logits = model(input_ids=ids, use_cache=False).logits
    ours = head(model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state)
    return logits.shape == ours.shape and bool((logits - ours).abs().max() < _tolerance(model))
