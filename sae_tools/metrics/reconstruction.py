"""How close a reconstruction comes to the activations.

x: (tokens, d_in) activations, x̂: their reconstruction, f: (tokens, d_sae) features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sae_tools.common import distributed
from sae_tools.metrics.averages import ratio


def explained_variance(x: Tensor, x_hat: Tensor) -> float:
    """1 - Σ‖x - x̂‖² / Σ‖x - x̄‖², x̄ the mean row (SAELens `explained_variance`, not its `_legacy` mean of ratios)."""
    moments = Moments(x.shape[-1])
    moments.add(x, x_hat)
    return moments.explained_variance()


class Moments:
    """Sums over many batches, in float64: the variance is a small difference of large ones. `pool` as in `averages`."""

    def __init__(self, d_in: int) -> None:
        self.n = 0
        self.output_square_sum = self.product_sum = 0.0
        self.row_sum, self.square_sum, self.residual_sum = (torch.zeros(d_in, dtype=torch.float64) for _ in range(3))

    def add(self, x: Tensor, x_hat: Tensor) -> None:
        x, x_hat = x.double(), x_hat.double()
        self.n += len(x)
        self.row_sum += x.sum(dim=0).cpu()
        self.square_sum += x.square().sum(dim=0).cpu()
        self.residual_sum += (x - x_hat).square().sum(dim=0).cpu()
        self.output_square_sum += x_hat.square().sum().item()
        self.product_sum += (x * x_hat).sum().item()

    def pool(self) -> None:
        for sums in (self.row_sum, self.square_sum, self.residual_sum):
            distributed.sum_(sums)
        every = distributed.each([self.n, self.output_square_sum, self.product_sum])
        self.n, self.output_square_sum, self.product_sum = (sum(values) for values in zip(*every, strict=True))

    def mse(self) -> float:
        """mean ‖x - x̂‖²: summed over dimensions, as in the training loss."""
        return float(self.residual_sum.sum()) / self.n

    def explained_variance(self) -> float:
        """1 - Σ‖x - x̂‖² / Σ‖x - x̄‖²"""
        return 1 - ratio(float(self.residual_sum.sum()), float(self._variances().sum()))

    def r2_per_dimension(self) -> Tensor:
        """(d_in,) 1 - Σ(x_d - x̂_d)² / Σ(x_d - x̄_d)²; 0 for a dimension that does not vary."""
        variances = self._variances()
        varies = variances > 1e-12 * self.square_sum
        return torch.where(varies, 1 - self.residual_sum / variances.where(varies, 1.0), 0.0)

    def _variances(self) -> Tensor:
        """(d_in,) Σ(x_d - x̄_d)²"""
        return self.square_sum - self.row_sum.square() / self.n

    def relative_reconstruction_bias(self) -> float:
        """mean ‖x̂‖² / mean x·x̂; 1 is unbiased, below 1 is shrunk (equation 10 of arXiv:2404.16014)."""
        return ratio(self.output_square_sum, self.product_sum)


def explained_variance_legacy(x: Tensor, x_hat: Tensor) -> Tensor:
    """(tokens,) 1 - ‖x - x̂‖² / ‖x - x̄‖², x̄ the mean row of this batch; its mean over tokens is SAELens' old formula.

    Papers before mid-2025 often give it. A token near the mean counts as much as one far from it, so that it lies below
    `explained_variance`, and it depends on how tokens are batched.
    """
    return 1 - (x - x_hat).square().sum(dim=-1) / (x - x.mean(dim=0)).square().sum(dim=-1).clamp(min=1e-12)


def per_token(x: Tensor, x_hat: Tensor, f: Tensor) -> dict[str, Tensor]:
    """Metrics whose value is the mean over tokens; each is (tokens,). `f` is sparse, in coordinates.

    l0: Σ[f ≠ 0]; l1: Σ|f|; cossim: x·x̂ / ‖x‖‖x̂‖; l2_ratio: ‖x̂‖ / ‖x‖ (shrinkage: below 1, x̂ is too short).
    """
    norm_in, norm_out = x.norm(dim=-1), x_hat.norm(dim=-1)
    return {
        "l0": torch.bincount(f.indices()[0], minlength=len(f)).float(),
        "l1": torch.bincount(f.indices()[0], f.values().abs().float(), minlength=len(f)),
        "cossim": torch.nn.functional.cosine_similarity(x, x_hat, dim=-1),
        "l2_norm_in": norm_in,
        "l2_norm_out": norm_out,
        "l2_ratio": norm_out / norm_in.clamp(min=1e-8),
    }
