"""An SAE whose latents are divided among processes, for one too wide for a device: all that is asked of the others.

Of n parts process b · n + i holds part i, the latents from i · d_sae / n on, and trains it on share b of each batch.
The sparse rules run on a part as they do on a whole SAE, but for

    reconstruction      x̂ = Σ (decode(own activations) + b_dec / n)     over the parts
    gradient of b_dec   Σ over the parts: each has its n-th of x̂, and its own encoder
    a sample's k best   the k best of the k best of every part

Sums are DTensor's, from Partial to Replicate: the gradient of what is summed is that of the sum. So is the norm of all
gradients, of which those of latents are Shard(0). Adam changes each weight by itself, so it is given the local tensors.
Of an undivided SAE every answer is what is at hand, and nothing is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.nn.utils import clip_grad_norm_, clip_grads_with_norm_, get_total_norm

from sae_tools.common import distributed
from sae_tools.saes import TrainingSAE
from sae_tools.training.sparse import CHUNK
from sae_tools.training.weights import latents_of

Build = Callable[[str], TrainingSAE[Any]]
"""Makes an SAE on a device."""


@dataclass(frozen=True)
class Division:
    """Which latents and rows this process has; of one part, all latents."""

    parts: int = 1
    part: int = 0
    mesh: DeviceMesh | None = None
    """The processes that hold the other latents, for the same rows."""
    batch: dist.ProcessGroup | None = None
    """Those that hold the same latents, for other rows; None: all processes."""

    @property
    def shares(self) -> int:
        """Of a batch."""
        return distributed.world() // self.parts

    @property
    def share(self) -> int:
        """This process's."""
        return distributed.rank() // self.parts

    def own(self, start: int, end: int, size: int) -> slice:
        """Those of this process's `size` latents that are from `start` to `end` in the whole SAE."""
        first = self.part * size
        return slice(*(min(max(edge - first, 0), size) for edge in (start, end)))

    # --- in a step ---------------------------------------------------------------------------------------------------

    def shared(self, b_dec: Tensor) -> Tensor:
        """What each part adds of a bias, so that the sum has it once."""
        return b_dec if self.mesh is None else b_dec / self.parts

    def summed(self, tensor: Tensor) -> Tensor:
        """The sum over the parts, differentiable: known to all, so that each may go on from it alike."""
        if self.mesh is None:
            return tensor
        partial = DTensor.from_local(tensor, self.mesh, [Partial()], run_check=False)
        return partial.redistribute(placements=[Replicate()]).to_local()

    def count(self, n: int) -> int:
        """The sum of a number over the parts."""
        if self.mesh is None:
            return n
        total = torch.tensor(n)
        dist.all_reduce(total, group=self.mesh.get_group())
        return int(total)

    def counts(self, n: int) -> list[int]:
        """A number of each part."""
        return [n] if self.mesh is None else distributed.gathered(torch.tensor([n]), self.mesh.get_group()).tolist()

    def any(self, answer: bool) -> bool:
        """Whether any part says so."""
        return answer if self.mesh is None else self.count(int(answer)) > 0

    def mean(self, values: Tensor) -> Tensor:
        """Over the (n,) values of all parts."""
        if self.mesh is None:
            return values.mean()
        return self.summed(values.sum()) / self.count(len(values))

    def laid_out(self, values: Tensor) -> Tensor:
        """(d_sae,) from each part's values of its latents."""
        return values if self.mesh is None else distributed.gathered(values, self.mesh.get_group())

    def among_best(self, values: Tensor, k: int) -> Tensor:
        """Which of (rows, up to k) values, each row's best of this part, are among its k best of all parts."""
        assert self.mesh is not None
        group, found = self.mesh.get_group(), []
        for part in torch.split(values.float(), max(1, CHUNK // (self.parts * k))):
            padded = F.pad(part, (0, k - part.shape[1]), value=-torch.inf)
            every = distributed.gathered(padded[None], group)
            found.append(among_largest(part, every, k, self.part))
        return torch.cat(found)

    def combine_(self, parameters: Mapping[str, nn.Parameter]) -> Tensor:
        """Make local gradients those of the whole batch and SAE, of a norm of at most 1. Returns the norm before."""
        gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
        distributed.average_(gradients.values(), self.batch)
        if self.mesh is None:
            return clip_grad_norm_(parameters.values(), 1.0)
        if "b_dec" in gradients:
            dist.all_reduce(gradients["b_dec"], group=self.mesh.get_group())
        norm = get_total_norm([self._whole(name, gradient) for name, gradient in gradients.items()])
        assert isinstance(norm, DTensor)
        norm = norm.full_tensor()
        clip_grads_with_norm_(parameters.values(), 1.0, norm)
        return norm

    def _whole(self, name: str, tensor: Tensor) -> DTensor:
        assert self.mesh is not None
        return DTensor.from_local(
            tensor, self.mesh, [Replicate() if name == "b_dec" else Shard(0)], run_check=False
        )  # fmt: skip

    # --- before and after --------------------------------------------------------------------------------------------

    @torch.no_grad()
    def build(self, build: Build, device: str) -> TrainingSAE[Any]:
        """This process's part of the SAE that `build` makes; of its sizes only the tensors' are those of a part.

        Process 0 makes the whole in its memory, with a CPU's first weights, and sends each its part.
        """
        if self.mesh is None:
            return build(device)
        first = distributed.rank() == 0
        sae = build("cpu" if first else "meta")
        for name, whole in _tensors(sae).items():
            pieces = [latents_of(name, whole, part) for part in self._slices(sae)]
            if first:
                for process in range(1, distributed.world()):
                    dist.send(pieces[process % self.parts].contiguous(), process)
                own = pieces[0].clone()
            else:
                own = torch.empty(pieces[self.part].shape, dtype=whole.dtype)
                dist.recv(own, 0)
            _put(sae, name, own.to(device))
        return sae.to(device)

    @torch.no_grad()
    def collected(self, sae: TrainingSAE[Any], build: Build) -> TrainingSAE[Any] | None:
        """The whole of an SAE that `build` above gave, in the memory of process 0; None in the others."""
        if self.mesh is None:
            return sae
        first = distributed.rank() == 0
        if self.share > 0:
            return None
        whole = build("meta")
        for name, own in _tensors(sae).items():
            if not first:
                dist.send(own.cpu().contiguous(), 0)
                continue
            _put(whole, name, torch.empty(_tensors(whole)[name].shape, dtype=own.dtype))
            for part, latents in enumerate(self._slices(whole)):
                place = latents_of(name, _tensors(whole)[name], latents)
                piece = own.cpu() if part == 0 else torch.empty(place.shape, dtype=own.dtype)
                if part:
                    dist.recv(piece, part)
                place.copy_(piece)
        return whole.to("cpu") if first else None

    def _slices(self, sae: TrainingSAE[Any]) -> list[slice]:
        size = sae.cfg.d_sae // self.parts
        return [slice(part * size, (part + 1) * size) for part in range(self.parts)]


WHOLE = Division()
"""Of an undivided SAE."""


def divided(parts: int, device: str) -> Division:
    """The division into `parts` among all processes, whose number is a multiple of it."""
    if parts == 1:
        return WHOLE
    processes = torch.arange(distributed.world()).view(-1, parts)
    batch = distributed.subgroup(processes.T.tolist())
    mesh = DeviceMesh.from_group(distributed.subgroup(processes.tolist()), torch.device(device).type)
    return Division(parts, distributed.rank() % parts, mesh, batch)


def among_largest(found: Tensor, every: Tensor, n: int, process: int) -> Tensor:
    """Which of this process's (..., m) values are among each row's n largest of all processes'.

    `every` (processes, ..., n) has each process's n largest. Of equal values, bfloat16 has many, the first are taken.
    """
    lowest = every.movedim(0, -2).flatten(-2).topk(n, sorted=False).values.amin(-1, keepdim=True)
    equal = found == lowest
    before = (every[:process] == lowest).sum(dim=(0, -1))[..., None]
    larger = (every > lowest).sum(dim=(0, -1))[..., None]
    return (found > lowest) | equal & (equal.cumsum(-1) + before <= n - larger)


def _tensors(sae: TrainingSAE[Any]) -> dict[str, Tensor]:
    return dict(sae.named_parameters()) | dict(sae.named_buffers())


def _put(sae: TrainingSAE[Any], name: str, tensor: Tensor) -> None:
    """Give an SAE another tensor in the place of its parameter or buffer."""
    setattr(sae, name, nn.Parameter(tensor) if name in dict(sae.named_parameters()) else tensor)
