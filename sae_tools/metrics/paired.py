"""How alike a feature behaves in two models: sums over the tokens that both read, most values being 0."""

from __future__ import annotations

import torch
from torch import Tensor

from sae_tools.common import distributed

FLOOR = 1e-10
"""Added to an activation before its logarithm is taken."""
COUNT, SUM, SQUARE, LOG = range(4)


class Paired:
    """Sums by feature, in float64, of activations f in one model and g in the other. `pool` as in `averages`."""

    def __init__(self, d_sae: int) -> None:
        self.n = 0
        self.own = torch.zeros(2, 4, d_sae, dtype=torch.float64)
        """Of f and of g: how often it fires, Σf, Σf², Σ(log10(f + floor) - log10(floor))."""
        self.product = torch.zeros(d_sae, dtype=torch.float64)
        self.apart = torch.zeros(d_sae, dtype=torch.float64)
        """Σ|f - g|"""

    def add(self, f: Tensor, g: Tensor) -> None:
        """Take (tokens, d_sae) activations of the same tokens in each model."""
        f, g = f.cpu(), g.cpu()
        self.n += len(f)
        for which, values in enumerate((f, g)):
            rows, columns = values.nonzero(as_tuple=True)
            own = values[rows, columns].double()
            logs = ((own.abs() + FLOOR) / FLOOR).log10()
            for i, terms in enumerate((torch.ones_like(own), own, own * own, logs)):
                self.own[which, i] += self._by_feature(columns, terms)
            if which == 0:
                other = g[rows, columns].double()
                self.product += self._by_feature(columns, own * other)
                # Where f fires: |f - g|; what g has where f does not fire is what is left of Σ|g|.
                self.apart += self._by_feature(columns, (own - other).abs() - other.abs())
            else:
                self.apart += self._by_feature(columns, own.abs())

    def _by_feature(self, columns: Tensor, terms: Tensor) -> Tensor:
        return torch.bincount(columns, weights=terms, minlength=len(self.product))

    def pool(self) -> None:
        for sums in (self.own, self.product, self.apart):
            distributed.sum_(sums)
        self.n = sum(distributed.each(self.n))

    def density(self) -> tuple[Tensor, Tensor]:
        """(d_sae,) share of the tokens on which the feature fires, in each model."""
        return self.own[0, COUNT] / max(self.n, 1), self.own[1, COUNT] / max(self.n, 1)

    def mean(self) -> tuple[Tensor, Tensor]:
        """(d_sae,) mean activation where it fires, 0 where it never does, in each model."""
        return (
            self.own[0, SUM] / self.own[0, COUNT].clamp(min=1),
            self.own[1, SUM] / self.own[1, COUNT].clamp(min=1),
        )

    def correlation(self) -> Tensor:
        """(d_sae,) Pearson's r = cov(f, g) / √(var f · var g), `nan` where one of them is constant."""
        n = max(self.n, 1)
        f, g = self.own[:, SUM] / n
        var_f, var_g = self.own[:, SQUARE] / n - torch.stack([f, g]).square()
        scale = (var_f * var_g).clamp(min=0).sqrt()
        return torch.where(scale > 1e-12, (self.product / n - f * g) / scale.clamp(min=1e-12), torch.nan)

    def difference(self) -> Tensor:
        """(d_sae,) mean |f - g| over all tokens."""
        most = self.own[:, SUM].sum(dim=0)
        return self.apart.clamp(min=0).minimum(most.clamp(min=0)) / max(self.n, 1)

    def overlap(self) -> Tensor:
        """(d_sae,) Σ min(f, g) / Σ max(f, g): 1 if it does the same in both, 0 if never both (Ruzicka); 0 if silent."""
        total = self.own[:, SUM].sum(dim=0)
        most = total + self.apart
        return torch.where(most > 0, (total - self.apart) / most.clamp(min=1e-30), 0.0).clamp(0, 1)

    def log_error(self) -> Tensor:
        """(d_sae,) mean |log10(f + 1e-10) - log10(g + 1e-10)| of features that are silent in one model, else `nan`.

        The transferability study's measure of what dead features become.
        """
        silent = self.own[:, COUNT] == 0
        found = self.own[:, LOG].sum(dim=0) / max(self.n, 1)
        return torch.where(silent.any(dim=0), found, torch.nan)
