"""What a crosscoder's latents say of two models: each latent f_j has a direction d_j in either of them.

Crosscoders: Lindsey et al. 2024, "Sparse crosscoders for cross-layer features and model diffing". The figures are those
of Minder, Dumas et al. 2025, "Overcoming sparsity artifacts in crosscoders" (arXiv:2504.02922), in units in which both
models' activations are of one size.
"""

from __future__ import annotations

import torch
from torch import Tensor

CLASSES = ("base_only", "shared", "finetuned_only", "between")
LOW, HIGH = 0.1, 0.9
"""Relative norms up to which a latent is the base model's alone, and from which the finetuned model's (same source)."""
SHARED = (0.4, 0.6)
"""Relative norms between which it is both models' (likewise)."""
LEAST_ERROR, LEAST_RECONSTRUCTION = 0.2, 0.5
"""nu_eps and nu_r below which a latent of one model is genuine (likewise)."""


def relative_norm(base: Tensor, finetuned: Tensor) -> Tensor:
    """(d_sae,) ½ (1 + (‖d_finetuned‖ - ‖d_base‖) / max ‖d‖) of (d_sae, d) decoders: 0 base only, 1 finetuned only.

    ½ for a latent that has no direction in either.
    """
    a, b = base.norm(dim=-1), finetuned.norm(dim=-1)
    relative: Tensor = 0.5 * (1 + (b - a) / torch.maximum(a, b).clamp(min=1e-30))
    return relative


def decoder_cosine(base: Tensor, finetuned: Tensor) -> Tensor:
    """(d_sae,) cos(d_base, d_finetuned) of (d_sae, d) decoders; 0 where one has no length."""
    cosine: Tensor = torch.nn.functional.cosine_similarity(base, finetuned, dim=-1)
    return cosine


def classify(relative: Tensor) -> Tensor:
    """(d_sae,) index in CLASSES of each relative norm."""
    found = torch.full(relative.shape, CLASSES.index("between"))
    found[(relative >= SHARED[0]) & (relative <= SHARED[1])] = CLASSES.index("shared")
    found[relative <= LOW] = CLASSES.index("base_only")
    found[relative >= HIGH] = CLASSES.index("finetuned_only")
    return found


def genuine(relative: Tensor, nu: dict[str, Tensor]) -> Tensor:
    """(d_sae,) whether a latent is of one model by its norms, and passes Latent Scaling too."""
    return ((relative <= LOW) | (relative >= HIGH)) & passes_scaling(nu)


def passes_scaling(nu: dict[str, Tensor]) -> Tensor:
    """(d_sae,) nu_eps < 0.2 and nu_r < 0.5: of what a latent is in its own model, the other has little."""
    return (nu["nu_eps"] < LEAST_ERROR) & (nu["nu_r"] < LEAST_RECONSTRUCTION)


class LatentScaling:
    """Does the other model have a latent after all? Least squares over all tokens, as sums over many batches.

    With d_j the direction of latent j in the model where it is longer, its own, and for each model m

        β_m(t) = argmin_β Σ ‖β f_j d_j - t_m‖² = Σ f_j (d_j · t_m) / (‖d_j‖² Σ f_j²)
        nu_eps = β_other(ε) / β_own(ε)   ε_m: the error of m's reconstruction without latent j
        nu_r   = β_other(r) / β_own(r)   r_m: m's reconstruction

    nu_eps near 1 tells that the latent was shrunk away in the other model (complete shrinkage), nu_r near 1 that other
    latents stand for it there (latent decoupling). Equations 4 to 6 of arXiv:2504.02922, as in its authors' code.
    """

    def __init__(self, base: Tensor, finetuned: Tensor) -> None:
        """Take (d_sae, d) decoders."""
        self.decoders = torch.stack([base, finetuned])
        self.own = (finetuned.norm(dim=-1) > base.norm(dim=-1)).long()
        """(d_sae,) in which model each latent is longer."""
        self.directions = self.decoders[self.own, torch.arange(len(base), device=base.device)]
        self.square_sum = torch.zeros(len(base), dtype=torch.float64)
        self.error_sums = torch.zeros(2, len(base), dtype=torch.float64)
        self.reconstruction_sums = torch.zeros(2, len(base), dtype=torch.float64)

    def add(self, f: Tensor, x: tuple[Tensor, Tensor], x_hat: tuple[Tensor, Tensor]) -> None:
        """Take (tokens, d_sae) features, and (tokens, d) activations of both models and their reconstructions."""
        self.square_sum += f.square().sum(dim=0).double().cpu()
        for model in (0, 1):
            self.error_sums[model] += self._product(f, x[model] - x_hat[model])
            self.reconstruction_sums[model] += self._product(f, x_hat[model])

    def _product(self, f: Tensor, target: Tensor) -> Tensor:
        """(d_sae,) Σ f_j (d_j · t) over (tokens, d) targets."""
        return ((f.T @ target) * self.directions).sum(dim=-1).double().cpu()

    def betas(self) -> dict[str, Tensor]:
        """(2, d_sae) β of base and finetuned model: `eps` and `r`; 0 for a latent that never fires or has no length."""
        directions, decoders = self.directions.double().cpu(), self.decoders.double().cpu()
        whole = directions.square().sum(-1) * self.square_sum
        # Each model's error gets back what latent j gave to its reconstruction.
        errors = self.error_sums + (decoders * directions).sum(-1) * self.square_sum
        sums = {"eps": errors, "r": self.reconstruction_sums}
        return {name: torch.where(whole > 0, found / whole.clamp(min=1e-300), 0.0) for name, found in sums.items()}

    def nu(self) -> dict[str, Tensor]:
        """(d_sae,) nu_eps and nu_r; 1, as for a latent of both, where its own model shows nothing of it (β ≤ 0)."""
        own, latents = self.own.cpu(), torch.arange(len(self.square_sum))
        found = {}
        for name, beta in self.betas().items():
            mine, other = beta[own, latents], beta[1 - own, latents]
            found[f"nu_{name}"] = torch.where(mine > 1e-12, other / mine.clamp(min=1e-12), 1.0)
        return found
