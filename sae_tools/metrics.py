"""What is measured of an SAE: pure functions, each with its formula and its source; names are SAELens'.

x: (tokens, d_in) activations, x̂: their reconstruction, f: (tokens, d_sae) features.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def explained_variance(x: Tensor, x_hat: Tensor) -> float:
    """1 - Σ‖x - x̂‖² / Σ‖x - x̄‖², x̄ the mean row (SAELens `explained_variance`, not its `_legacy` mean of ratios)."""
    moments = Moments()
    moments.add(x, x_hat)
    return moments.explained_variance()


class Moments:
    """Sums over many batches, in float64: the variance is a small difference of large ones."""

    def __init__(self) -> None:
        self.n = 0
        self.square_sum = self.residual_sum = self.output_square_sum = self.product_sum = 0.0
        self.row_sum: Tensor | float = 0.0

    def add(self, x: Tensor, x_hat: Tensor) -> None:
        x, x_hat = x.double(), x_hat.double()
        self.n += len(x)
        self.row_sum = self.row_sum + x.sum(dim=0)
        self.square_sum += x.square().sum().item()
        self.residual_sum += (x - x_hat).square().sum().item()
        self.output_square_sum += x_hat.square().sum().item()
        self.product_sum += (x * x_hat).sum().item()

    def mse(self) -> float:
        """mean ‖x - x̂‖²: summed over dimensions, as in the training loss."""
        return self.residual_sum / self.n

    def explained_variance(self) -> float:
        variance = self.square_sum - torch.as_tensor(self.row_sum).square().sum().item() / self.n
        return 1 - _ratio(self.residual_sum, variance)

    def relative_reconstruction_bias(self) -> float:
        """mean ‖x̂‖² / mean x·x̂; 1 is unbiased, below 1 is shrunk (equation 10 of arXiv:2404.16014)."""
        return _ratio(self.output_square_sum, self.product_sum)


def per_token(x: Tensor, x_hat: Tensor, f: Tensor) -> dict[str, Tensor]:
    """Metrics whose value is the mean over tokens; each is (tokens,).

    l0: Σ[f ≠ 0]; l1: Σ|f|; cossim: x·x̂ / ‖x‖‖x̂‖; l2_ratio: ‖x̂‖ / ‖x‖ (shrinkage: below 1, x̂ is too short).
    """
    norm_in, norm_out = x.norm(dim=-1), x_hat.norm(dim=-1)
    return {
        "l0": (f != 0).sum(dim=-1).float(),
        "l1": f.abs().sum(dim=-1),
        "cossim": torch.nn.functional.cosine_similarity(x, x_hat, dim=-1),
        "l2_norm_in": norm_in,
        "l2_norm_out": norm_out,
        "l2_ratio": norm_out / norm_in.clamp(min=1e-8),
    }


def cross_entropy(logits: Tensor, ids: Tensor) -> Tensor:
    """(batch, context - 1): -log p(next token) in nats, of (batch, context, vocab) logits and (batch, context) ids."""
    predicted, actual = logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten()
    losses = torch.nn.functional.cross_entropy(predicted, actual, reduction="none")
    return losses.view(len(ids), -1)


def kl_divergence(logits: Tensor, other: Tensor) -> Tensor:
    """(…): Σ p log(p / q) over the vocabulary in nats, p from `logits` and q from `other`."""
    log_p, log_q = logits.float().log_softmax(dim=-1), other.float().log_softmax(dim=-1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1)


def ce_loss_score(clean: float, with_sae: float, with_ablation: float) -> float:
    """(CE ablated - CE with SAE) / (CE ablated - CE clean), ablated by zeros: "CE recovered", 1 is all of it."""
    return _ratio(with_ablation - with_sae, with_ablation - clean)


def kl_div_score(with_sae: float, with_ablation: float) -> float:
    """(KL zero-ablated - KL with SAE) / KL zero-ablated."""
    return _ratio(with_ablation - with_sae, with_ablation)


def _ratio(part: float, whole: float) -> float:
    """part / whole, 0 where there is nothing to divide by: an SAE that never fires, a site that does not matter."""
    return part / whole if whole else 0.0


class Correlation:
    """Pearson's r of paired columns over many batches: cov(a, b) / √(var a · var b), `nan` where one is constant."""

    def __init__(self, width: int) -> None:
        self.n = 0
        self.sums = torch.zeros(5, width, dtype=torch.float64)

    def add(self, a: Tensor, b: Tensor) -> None:
        """Take (rows, width) values of each."""
        a, b = a.cpu().double(), b.cpu().double()
        self.n += len(a)
        self.sums += torch.stack([t.sum(dim=0) for t in (a, b, a * a, b * b, a * b)])

    def value(self) -> Tensor:
        """(width,)"""
        a, b, aa, bb, ab = self.sums / self.n
        scale = ((aa - a * a) * (bb - b * b)).clamp(min=0).sqrt()
        return torch.where(scale > 1e-12, (ab - a * b) / scale.clamp(min=1e-12), torch.nan)


@torch.no_grad()
def agreement(decoders: Sequence[Tensor], live: Sequence[Tensor], same: float = 0.7) -> dict[str, float]:
    """How far two or more SAEs of one recipe, from different seeds, learned the same latents.

    For each live latent of the first, the largest cosine of its decoder row with the live ones of each other:
    `mean_max_cosine` is its mean, `share_in_all` the share of latents for which it is at least `same` in every other
    (Paulo & Belrose 2025, "Sparse autoencoders trained on the same data learn different features", take 0.7).
    """
    rows = [torch.nn.functional.normalize(d[keep].float(), dim=-1) for d, keep in zip(decoders, live, strict=True)]
    if not all(len(d) for d in rows):
        return {"mean_max_cosine": 0.0, "share_in_all": 0.0}
    best = torch.stack([torch.cat([(part @ d.T).amax(dim=1) for part in torch.split(rows[0], 4096)]) for d in rows[1:]])
    return {
        "mean_max_cosine": float(best.mean()),
        "share_in_all": float((best >= same).all(dim=0).float().mean()),
    }
