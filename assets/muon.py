"""The optimizer of the matrices of the embedded models."""

from __future__ import annotations

import torch


class Muon(torch.optim.Optimizer):
    """Momentum whose step is made orthogonal: W -= lr (0.2 sqrt(max(shape)) O + decay W), O near U Vᵀ of the momentum.

    https://kellerjordan.github.io/posts/muon/, with the size of Adam's steps (Liu et al. 2025, "Muon is scalable").
    torch.optim.Muon iterates in bfloat16, which takes many times as long where the processor has no bfloat16.
    """

    def __init__(self, params: list[torch.nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
                momentum.lerp_(p.grad, 0.05)
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(orthogonal(p.grad.lerp(momentum, 0.95)), alpha=-0.2 * max(p.shape) ** 0.5 * group["lr"])


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """A matrix with its singular values brought near 1, by five quintic Newton-Schulz iterations."""
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else matrix.T
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return x if wide else x.T
