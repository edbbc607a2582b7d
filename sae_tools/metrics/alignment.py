"""How alike two models' activations of the same tokens are, and which of them are outliers.

x: (tokens, d) activations in the base model, y: in the finetuned one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sae_tools.common import distributed
from sae_tools.metrics.averages import ratio


def similarity(x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """cos(x, y), ‖x - y‖ and ‖y‖ / ‖x‖, each (...) of (..., d)."""
    return {
        "cosine": torch.nn.functional.cosine_similarity(x, y, dim=-1),
        "distance": (x - y).norm(dim=-1),
        "norm_ratio": y.norm(dim=-1) / x.norm(dim=-1).clamp(min=1e-30),
    }


class LinearCKA:
    """‖XᵀY‖² / (‖XᵀX‖ ‖YᵀY‖), columns centred (Kornblith et al. 2019): 1 for a rotation, a shift or a scaling.

    Over many batches, in float64. Of few tokens it is too high: it takes several times as many as dimensions.
    `pool` as in `averages`.
    """

    def __init__(self, d: int) -> None:
        self.n = 0
        self.sums = torch.zeros(2 * d, dtype=torch.float64)
        self.products = torch.zeros(2 * d, 2 * d, dtype=torch.float64)

    def add(self, x: Tensor, y: Tensor) -> None:
        both = torch.cat([x, y], dim=-1).double()
        self.n += len(both)
        self.sums += both.sum(dim=0)
        self.products += both.T @ both

    def pool(self) -> None:
        distributed.sum_(self.sums)
        distributed.sum_(self.products)
        self.n = sum(distributed.each(self.n))

    def value(self) -> float:
        """0 where one side does not vary."""
        if not self.n:
            return 0.0
        covariance = self.products - torch.outer(self.sums, self.sums) / self.n
        d = len(self.sums) // 2
        own = float(covariance[:d, :d].norm() * covariance[d:, d:].norm())
        return ratio(float(covariance[:d, d:].square().sum()), own)


def norm_scale(mean_norm: float, d: int) -> float:
    """S = √d / mean ‖x‖, which gives a row the expected norm √d."""
    return ratio(d**0.5, mean_norm)


def is_outlier(norms: Tensor, mean_norm: float, limit: float | None = None) -> Tensor:
    """Which of (...) norms are outliers: S·‖x‖ > 2√d, so more than twice the mean norm; or ‖x‖ > `limit` if given.

    Both rules are those of the SAE transferability study (UniReps 2025);
    the mean norm is the base model's for both models.
    """
    return norms > (2 * mean_norm if limit is None else limit)
