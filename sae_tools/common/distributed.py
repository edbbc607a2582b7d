"""Several processes on one task, started by torchrun: who am I, and sums over all; a lone process needs neither."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    """This process's number; 0 writes what all share."""
    return int(os.environ.get("RANK", "0"))


def world() -> int:
    """Number of processes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def group() -> Iterator[None]:
    """Join the others for as long as the block lasts: over gloo, or NCCL as well where each has a GPU of its own."""
    if world() == 1 or dist.is_initialized():
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    store, _, _ = next(dist.rendezvous("env://"))  # type: ignore[attr-defined]
    # torchrun keeps its store over a restart: without a name of its own this start would read the last one's addresses.
    store = dist.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)  # type: ignore[attr-defined]
    # A rank may wait long for another's shard: torchrun ends all when one of them fails, so no time limit is needed.
    forever = datetime.timedelta(days=7)
    dist.init_process_group(backend, store=store, rank=rank(), world_size=world(), timeout=forever)
    try:
        yield
    finally:
        dist.destroy_process_group()


def barrier() -> None:
    """Wait for every process."""
    if world() > 1:
        dist.barrier()


def average_(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by its mean over the processes, in place."""
    if world() > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)
            tensor /= world()


def greatest_(tensor: Tensor) -> Tensor:
    """Replace a tensor by its element-wise maximum over the processes, in place."""
    if world() > 1:
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return tensor


def gathered(tensor: Tensor) -> Tensor:
    """The (n, ...) tensors of all processes, of equal shape, laid end to end in the order of ranks."""
    if world() == 1:
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(world())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)
