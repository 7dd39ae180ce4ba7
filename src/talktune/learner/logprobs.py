"""Log-probs of given answer tokens under a policy: one forward pass over a pack of samples, and no (K, V) logits.

Open it to see which ways of saving work are valid for a model, and how that is found out.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from peft import PeftModel
from torch import Tensor, nn

from talktune.errors import UserError
from talktune.learner.attention import Trees, attention_is
from talktune.rl.head import CHUNK, selective_log_softmax, several_logprobs
from talktune.rl.packing import Pack, pack
from talktune.types import Sample

T = TypeVar("T")
SHORT_CHUNK = 2**21
"""Logits of one chunk of the loss head on a CPU where others may wait: as much work as a few layers."""


@dataclass(frozen=True)
class Reader:
    """Computes log-probs with a model, by those ways of saving work that are valid for it. Made by `make_reader`."""

    model: Any
    """The causal language model (inside of its adapter, where it has one)."""
    packed: bool
    """Samples of a pack share one pass as trees; otherwise every pack holds one sample."""
    fused_head: bool
    """The logits are hidden·weightᵀ + bias and nothing else, so that they need not exist."""
    pass_by: Callable[[], None] | None = None
    """Called, where given, before each chunk of the loss head: others may compute first."""
    whole: Callable[[Callable[[], Any]], Any] | None = None
    """Where the weights are spread over ranks: calls what computes with them, which has them at hand meanwhile."""

    def inside(self, work: Callable[[], T]) -> T:
        """Run `work` with the model and return its tensors, or tuples of them. All ranks have to call it."""
        return work() if self.whole is None else self.whole(work)

    def token_logprobs(self, pack: Pack, temperature: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probs (K,) of a pack's answer tokens under softmax(logits / temperature), and the entropy (K,).

        `temperature` is (K,). The head runs on the scored positions only. Units: nats. The entropy is a metric
        and carries no gradient.
        """
        return self.inside(lambda: self.read(pack, temperature).chosen())

    def read(self, pack: Pack, temperature: Tensor) -> "Forward":
        """One forward pass over a pack: log-probs, and what else `Forward` computes from it; `temperature` is (K,)."""
        run = self._runner(pack)
        if not self.fused_head:
            logits = run(self.model, input_ids=pack.ids[None], logits_to_keep=pack.source).logits[0]
            return Forward(torch.log_softmax(logits.float() / temperature[:, None], dim=-1), pack.target, temperature)
        hidden = run(self.model.get_decoder(), input_ids=pack.ids[None]).last_hidden_state[0, pack.source]
        return self.head(hidden, pack.target, temperature)

    def head(self, hidden: Tensor, target: Tensor, temperature: Tensor) -> "Forward":
        """The result for given hidden states (K, H), where the model's head is plain."""
        chunk = SHORT_CHUNK if self.pass_by is not None and not hidden.is_cuda else CHUNK
        return Forward(hidden, target, temperature, self.model.get_output_embeddings(), chunk, self.pass_by)

    def states(self, ids: Tensor, positions: Tensor, at: Tensor, **more: Any) -> Tensor:
        """Hidden states (k, H) at some of the tokens (n,); `more` goes to the attention of every layer."""
        done = self.model.get_decoder()(input_ids=ids[None], position_ids=positions[None], use_cache=False, **more)
        return done.last_hidden_state[0, at]

    def _runner(self, pack: Pack) -> Callable[..., Any]:
        """How to call the model, or its decoder, on a pack."""
        if not self.packed:
            return lambda module, **more: module(use_cache=False, **more)
        trees = Trees(pack)

        def run(module: Any, **more: Any) -> Any:
            with attention_is(self.model):
                return module(position_ids=pack.positions[None], trees=trees, use_cache=False, **more)

        return run


@dataclass(frozen=True)
class Forward:
    """The result of a forward pass over a pack: a hidden state for each of its K answer tokens, and their log-probs."""

    states: Tensor
    """(K, H) hidden states where there is a `head`, else (K, V) log-probs."""
    target: Tensor
    """(K,) the answer tokens."""
    temperature: Tensor
    """(K,)"""
    head: nn.Linear | None = None
    chunk: int = CHUNK
    pass_by: Callable[[], None] | None = None

    def chosen(self) -> tuple[Tensor, Tensor]:
        """Log-probs (K,) of the answer tokens, and the entropy (K,), a metric without gradient; nats."""
        head, target = self.head, self.target
        if head is None:
            scores = self.states.detach()
            return self.states.gather(1, target[:, None]).squeeze(1), -torch.einsum("kv,kv->k", scores.exp(), scores)
        return selective_log_softmax(
            self.states, head.weight, target, self.temperature, bias=head.bias, chunk=self.chunk, between=self.pass_by
        )

    def several(self, which: int | Tensor, rows: Tensor | slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Log-probs in nats of several tokens at some of the places (all by default), with the ids of these tokens.

        `which` is how many of the likeliest, or their ids, as in `rl.head.several_logprobs`.
        """
        states, temperature, head = self.states[rows], self.temperature[rows], self.head
        if head is None:
            ids = states.topk(min(which, states.shape[1])).indices if isinstance(which, int) else which
            return states.gather(1, ids), ids
        return several_logprobs(
            states, head.weight, which, temperature, bias=head.bias, chunk=self.chunk, between=self.pass_by
        )


def make_reader(
    model: Any,
    *,
    packing: bool = True,
    pass_by: Callable[[], None] | None = None,
    whole: Callable[[Callable[[], Any]], Any] | None = None,
) -> Reader:
    """Find out with a few tokens which ways are valid for this model; UserError when packing is wanted and is not.

    Packing holds where a token depends on the tokens that it attends to and on its position alone: not for a
    recurrent state, and not for attention with more terms than ours has.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    with torch.no_grad():
        fused_head = Reader(base, packing, False, whole=whole).inside(lambda: _has_plain_head(base))
        reader = Reader(base, packing, fused_head, pass_by, whole)
        if packing and not _packs_rightly(reader):
            raise UserError(
                f"{type(base).__name__}: samples cannot share a forward pass under this architecture "
                "(recurrent state, or attention that is computed in another way); add --no-packing."
            )
        return reader


_PROBE = (
    Sample("a", (3, 5), (7, 2, 4, 6), 0.0, ""),
    Sample("b", (3, 5), (7, 9, 1, 2, 8), 0.0, ""),
    Sample("c", (4, 4), (2, 7, 3), 0.0, ""),
)
"""A fork and another tree: small token ids, which every vocabulary has."""


def _tolerance(model: Any) -> float:
    return 1e-3 if next(model.parameters()).dtype == torch.float32 else 0.1


def _packs_rightly(reader: Reader) -> bool:
    alone = replace(reader, packed=False)
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


def _has_plain_head(model: Any) -> bool:
    """Whether logits = hidden·weightᵀ + bias, which a soft cap or a scale would not be, nor a LoRA on the head."""
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear:
        return False
    ids = torch.arange(8, device=head.weight.device)[None]
    logits = model(input_ids=ids, use_cache=False).logits
    ours = head(model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state)
    return logits.shape == ours.shape and bool((logits - ours).abs().max() < _tolerance(model))
