"""Several processes that train one model (torchrun, torch.distributed, FSDP2): who this one is, how they agree.

Open it to see what is spread over GPUs, and what only the first rank does.

Every rank reads the same samples and cuts the same packs, computes those that are dealt to it, and holds its share of
the weights and of the optimizer's state (FSDP2, `fully_shard`), or a copy of them all (`live.followers`): gradients are
summed. Rank 0 alone reads what people wrote, asks the judge and writes files.
"""

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import DTensor

from talktune.errors import UserError
from talktune.policy.view import decoder_layers
from talktune.terminal import rank_of_torchrun

PATIENCE = timedelta(days=7)
"""How long ranks wait for each other: the first may have to judge everything; torchrun ends them when one dies."""

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process's number among those that train one model, and how they exchange values."""

    number: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes files."""
        return self.number == 0

    def of_first(self, work: Callable[[], T]) -> T:
        """Run `work` on the first rank and give its result, or its UserError, to all of them."""
        if self.count == 1:
            return work()
        said: list[Any] = [None, None]
        if self.first:
            try:
                said[0] = work()
            except UserError as error:
                said[1] = error
        dist.broadcast_object_list(said, src=0, device=torch.device("cpu"))
        if said[1] is not None:
            raise said[1]
        return said[0]

    def gather(self, mine: Sequence[T]) -> list[T]:
        """Give each rank the values of all ranks, in order."""
        if self.count == 1:
            return list(mine)
        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, list(mine))
        return [one for part in found for one in part]

    def add(self, tensor: Tensor) -> None:
        """Let a tensor be the sum of those that the ranks have, on all of them."""
        dist.all_reduce(tensor)

    def copy(self, tensor: Tensor) -> None:
        """Let a tensor be that of the first rank, on all of them."""
        dist.broadcast(tensor, src=0)


ALONE = Ranks()


@contextmanager
def joined() -> Generator[Ranks]:
    """Join the ranks that torchrun started for the time inside; a single rank where it started none."""
    if rank_of_torchrun() is None:
        yield ALONE
        return
    machines, restarts = (int(os.environ.get(name, 0)) for name in ("GROUP_WORLD_SIZE", "TORCHELASTIC_MAX_RESTARTS"))
    if machines > 1 and restarts > 0:  # each machine's agent counts its own, and ranks would wait for each other
        raise UserError("torchrun --max-restarts: not on several machines; leave it out, and start torchrun again.")
    gpus = torch.cuda.is_available()
    if gpus:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))  # what `cuda` and `auto` mean from now on
    store, number, count = next(rendezvous("env://"))
    store.set_timeout(PATIENCE)
    # torchrun's own store outlives ranks that it starts again, and has the addresses of those that died.
    store = PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if gpus else "gloo", store=store, rank=number, world_size=count, timeout=PATIENCE
    )
    yield Ranks(number, count)
    dist.destroy_process_group()  # not after an error: the others may be in the middle of something


class _Whole(nn.Module):
    """FSDP2 gathers a layer's weights as the layer is called; those around the layers (embedding, head) as this is."""

    def __init__(self, model: Any) -> None:
        """Around `model`, adapter and all."""
        super().__init__()
        self.model = model

    def forward(self, work: Callable[[], Any]) -> Any:
        """What `work` gives: tensors, or tuples of them, with whatever gradient they have."""
        return work()


def shard(model: Any, ranks: Ranks, device: torch.device) -> Callable[[Callable[[], Any]], Any]:
    """Spread the weights of `model` over `ranks`, in place, layer by layer, from wherever they are to `device`.

    Returns what calls a function that has the weights at hand meanwhile, on all ranks. Gradients are summed over ranks,
    not averaged. UserError for a model that has no list of its layers.
    """
    layers = decoder_layers(model)
    if layers is None:
        raise UserError(f"{type(model).__name__}: it has no list of layers to spread; train it in one process.")
    mesh = init_device_mesh(device.type, (ranks.count,))
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    whole: Any = fully_shard(_Whole(model), mesh=mesh)
    for part in whole.modules():
        if isinstance(part, FSDPModule):
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)  # gloo has no mean

    def inside(work: Callable[[], Any]) -> Any:
        done = whole(work)
        if not torch.is_grad_enabled():  # no backward pass will do it, and what is at hand outlives an optimizer's step
            whole.reshard()
        return done

    return inside


def whole_tensor(tensor: Tensor) -> Tensor:
    """The whole of a tensor of which this rank may hold a share; all ranks have to call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
