"""What is measured of an SAE: pure functions, each with its formula and its source; names are SAELens'.

x: (tokens, d_in) activations, x̂: their reconstruction, f: (tokens, d_sae) features.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor


def explained_variance(x: Tensor, x_hat: Tensor) -> float:
    """1 - Σ‖x - x̂‖² / Σ‖x - x̄‖², x̄ the mean row (SAELens `explained_variance`, not its `_legacy` mean of ratios)."""
    moments = Moments()
    moments.add(x, x_hat)
    return moments.explained_variance()


class Means:
    """Running means by name, each over its own number of values."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = defaultdict(float)
        self.counts: dict[str, int] = defaultdict(int)

    def add(self, values: dict[str, Tensor]) -> None:
        for name, tensor in values.items():
            self.sums[name] += tensor.double().sum().item()
            self.counts[name] += tensor.numel()

    def mean(self) -> dict[str, float]:
        return {name: self.sums[name] / self.counts[name] for name in self.sums}


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
        "l0": torch.linalg.vector_norm(f, ord=0, dim=-1),
        "l1": torch.linalg.vector_norm(f, ord=1, dim=-1),
        "cossim": torch.nn.functional.cosine_similarity(x, x_hat, dim=-1),
        "l2_norm_in": norm_in,
        "l2_norm_out": norm_out,
        "l2_ratio": norm_out / norm_in.clamp(min=1e-8),
    }


AT_ONCE = 2**20
"""Logits that `losses` reads at a time: they stay in the processor's cache, which makes it four times as fast."""


def losses(ids: Tensor, clean: Tensor, others: dict[str, Tensor]) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
    """Cross-entropy of `clean`; of each other its own and its KL divergence from `clean`. In nats, in one read of all.

    CE = -log p(next token), (batch, context - 1); KL = Σ p log(p / q) over the vocabulary, (batch, context), p from
    `clean` and q from the other. Of (batch, context) ids and (batch, context, vocab) logits; others may be
    (1, context, vocab): the same for each block of ids.
    """
    n, size = ids.shape
    rows = max(1, AT_ONCE // clean.shape[-1])
    shared = {name: other[0].float().log_softmax(dim=-1) for name, other in others.items() if len(other) < n}
    actual = torch.cat([ids[:, 1:], ids[:, :1]], dim=1)[..., None]
    likelihoods = {name: clean.new_empty(n, size, dtype=torch.float32) for name in ("", *others)}
    divergences = {name: torch.empty_like(likelihoods[""]) for name in others}
    for i in range(n):
        for first in range(0, size, rows):
            part = slice(first, first + rows)
            log_p = clean[i, part].float().log_softmax(dim=-1)
            p = log_p.exp()
            likelihoods[""][i, part] = log_p.gather(1, actual[i, part])[:, 0]
            for name, other in others.items():
                log_q = shared[name][part] if name in shared else other[i, part].float().log_softmax(dim=-1)
                likelihoods[name][i, part] = log_q.gather(1, actual[i, part])[:, 0]
                divergences[name][i, part] = (log_p - log_q).mul_(p).sum(dim=-1)
    crossed = {name: -values[:, :-1] for name, values in likelihoods.items()}
    return crossed[""], {name: (crossed[name], divergences[name]) for name in others}


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
        """Take (rows, width) values of each, most of them 0: only the others are counted."""
        a, b = a.cpu(), b.cpu()
        self.n += len(a)
        for i, values in enumerate((a, b)):
            rows, columns = values.nonzero(as_tuple=True)
            own = values[rows, columns].double()
            self._count(i, columns, own)
            self._count(2 + i, columns, own * own)
            if i == 0:
                self._count(4, columns, own * b[rows, columns].double())

    def _count(self, which: int, columns: Tensor, values: Tensor) -> None:
        self.sums[which] += torch.bincount(columns, weights=values, minlength=self.sums.shape[1])

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
