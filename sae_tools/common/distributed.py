"""Several processes on one task, started by torchrun: who am I, and sums over all; a lone process needs neither.

What is summed up or laid end to end must be so by every process, in the same order.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")
FOREVER = datetime.timedelta(days=7)
"""A process may wait long for another's work: torchrun ends all when one of them fails, so no time limit is needed."""


def rank() -> int:
    """This process's number; 0 writes what all share."""
    return int(os.environ.get("RANK", "0"))


def world() -> int:
    """Number of processes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def group() -> Iterator[None]:
    """Join the others for as long as the block lasts: over gloo, or NCCL as well where each has a GPU of its own.

    If it ends without an error all leave together, so that torchrun can start them anew as long as one of them works.
    """
    if world() == 1 or dist.is_initialized():
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    store, _, _ = next(dist.rendezvous("env://"))  # type: ignore[attr-defined]
    # torchrun keeps its store over a restart: without a name of its own this start would read the last one's addresses.
    store = dist.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=store, rank=rank(), world_size=world(), timeout=FOREVER)
    try:
        yield
        barrier()
    finally:
        dist.destroy_process_group()


def barrier() -> None:
    """Wait for every process."""
    if world() > 1:
        dist.barrier()


def subgroup(members: Sequence[Sequence[int]]) -> dist.ProcessGroup:
    """That of the disjoint groups `members`, of the ranks in each, in which this process is."""
    own: dist.ProcessGroup = dist.new_subgroups_by_enumeration(members, timeout=FOREVER)[0]  # type: ignore[no-untyped-call]
    return own


def size(group: dist.ProcessGroup | None = None) -> int:
    """Number of processes in a group; of all without one, as below."""
    return world() if group is None else group.size()


def average_(tensors: Iterable[Tensor], group: dist.ProcessGroup | None = None) -> None:
    """Replace each tensor by its mean over the processes, in place."""
    if size(group) > 1:
        for tensor in tensors:
            dist.all_reduce(tensor, group=group)
            tensor /= size(group)


def greatest_(tensor: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """Replace a tensor by its element-wise maximum over the processes, in place."""
    if size(group) > 1:
        dist.all_reduce(tensor, dist.ReduceOp.MAX, group)
    return tensor


def extremes(number: int) -> tuple[int, int]:
    """The least and the greatest of the processes' numbers."""
    found = greatest_(torch.tensor([-number, number]))
    return -int(found[0]), int(found[1])


def gathered(tensor: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """The (n, ...) tensors of all processes, of equal shape, laid end to end in the order of ranks."""
    if size(group) == 1:
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(size(group))]
    dist.all_gather(parts, tensor.contiguous(), group)
    return torch.cat(parts)


def sum_(tensor: Tensor) -> Tensor:
    """Replace a tensor by its sum over the processes, in place."""
    if world() > 1:
        dist.all_reduce(tensor)
    return tensor


def share(work: Sequence[T]) -> Sequence[T]:
    """This process's part of some pieces of work: those of all processes follow each other in the order of ranks.

    Some have none where there are fewer pieces than processes, but process 0 always has one.
    """
    start, end = (-(-len(work) * number // world()) for number in (rank(), rank() + 1))
    return work[start:end]


def cat(parts: Sequence[Tensor], first_only: bool = False) -> Tensor:
    """The (n, ...) parts of all processes laid end to end, in the order of ranks; a process may have none.

    `first_only`: in process 0; the others are left with no row, and hold one process's parts at a time.
    """
    if world() == 1:
        return torch.cat(list(parts))
    own, found = torch.cat(list(parts)) if parts else None, []
    for number, kind in enumerate(each(None if own is None else [own.shape, str(own.dtype), own.device.type])):
        if kind is None:
            continue
        shape, dtype, device = kind
        part = torch.empty(shape, dtype=getattr(torch, dtype.removeprefix("torch.")), device=device)
        if own is not None and number == rank():
            part = own.contiguous()
        if part.numel():
            dist.broadcast(part, number)
        found.append(part[:0].clone() if first_only and rank() > 0 else part)
    return torch.cat(found)


def columns(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """As `cat`, of tensors by name."""
    names = next(filter(None, each([*parts[0]] if parts else [])))
    return {name: cat([part[name] for part in parts]) for name in names}


def each(value: Any) -> list[Any]:
    """What every process gives, in the order of ranks: small things, of what JSON holds."""
    if world() == 1:
        return [value]
    text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    sizes = gathered(torch.tensor([len(text)])).tolist()
    rows = gathered(torch.nn.functional.pad(text, (0, max(sizes) - len(text)))[None])
    return [json.loads(bytes(row[:size].tolist())) for row, size in zip(rows, sizes, strict=True)]
