"""A contrast vector v = mean h⁺ - mean h⁻ seen through an SAE, in four ways that need not agree.

    encoded       encode(v) beside encode(0). v is no activation: biases and thresholds were learned for others, and
                  nothing that v lowers can show (Mayne et al. 2024, https://arxiv.org/abs/2411.08790)
    difference    mean encode(h⁺) beside mean encode(h⁻), where the SAE reads what it was made for
    pursuit       orthogonal matching pursuit (Pati et al. 1993): few decoder directions, with signs, whose sum is
                  near v
    projections   v · d̂_j of each direction alone: latents that look alike all share in it

Every coefficient is a length along the latent's unit direction d̂_j, as in `steering`: its size over the median norm is
the strength by which to push that latent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
import torch
from torch import Tensor

from sae_tools.analysis.contrast import Contrast
from sae_tools.analysis.steering import directions
from sae_tools.common.errors import SettingError

if TYPE_CHECKING:
    from sae_tools.saes import SAE

Way = Literal["encoded", "difference", "pursuit", "projections"]
WAYS: tuple[Way, ...] = ("encoded", "difference", "pursuit", "projections")


@dataclass(frozen=True)
class Decomposition:
    """One vector in `WAYS`."""

    vector: Tensor
    """(d_in,) v, float32 on the processor."""
    tables: dict[Way, pd.DataFrame]
    """Of each way the latents of largest |coefficient|, indexed by `feature`, the largest first. Where the coefficient
    is a difference, its two terms stand beside it: `of_vector` and `of_zero`, `of_positive` and `of_negative`."""
    _reconstructions: dict[Way, Tensor]

    def reconstruction(self, way: Way) -> Tensor:
        """(d_in,) what a way makes of v, to steer by. With S(x) = decode(encode(x)), all latents:

        encoded S(v) - S(0); difference mean S(h⁺) - mean S(h⁻); pursuit and projections: the nearest to v in the span
        of the latents in their table.
        """
        return self._reconstructions[way]

    def explained(self, way: Way) -> float:
        """Share of ‖v‖² that a way's reconstruction r explains: 1 - ‖v - r‖² / ‖v‖²; below 0 it is worse than none."""
        rest = (self.vector - self._reconstructions[way]).square().sum()
        return float(1 - rest / self.vector.square().sum())


@torch.no_grad()
def decompose(contrast: Contrast, sae: SAE[Any], k: int = 20) -> Decomposition:
    """The vector of a contrast in four ways, the `k` largest latents of each.

    With several positions a text, the SAE reads the text's mean activation.

    Raises:
        InputError: the SAE reads activations of another width.
        SettingError: a vector of zeros, or k below 1.
    """
    vector = contrast.vector
    from sae_tools.saes import check_width  # what it imports takes seconds: the page is up before

    check_width(sae, len(vector), "the SAE", "the contrast's site")
    if k < 1:
        raise SettingError(f"k is {k}; give 1 at least.")
    if not vector.any():
        raise SettingError("positive and negative texts give equal activations: there is nothing to decompose.")
    target = vector.to(sae.W_dec.device)
    of_vector, of_zero = (_seen(sae, x[None]) for x in (target, torch.zeros_like(target)))
    of_positive, of_negative = (_seen(sae, h.to(target.device)) for h in (contrast.positive, contrast.negative))
    projections = _along(sae, target)
    chosen, coefficients = pursuit(sae, target, k)
    largest = projections.abs().topk(min(k, sae.cfg.d_sae)).indices.tolist()
    tables: dict[Way, pd.DataFrame] = {
        "encoded": _table(k, of_vector=of_vector.lengths, of_zero=of_zero.lengths),
        "difference": _table(k, of_positive=of_positive.lengths, of_negative=of_negative.lengths),
        "pursuit": _ordered(pd.DataFrame({"coefficient": coefficients.cpu()}, pd.Index(chosen, name="feature"))),
        "projections": pd.DataFrame({"coefficient": projections[largest].cpu()}, pd.Index(largest, name="feature")),
    }
    rebuilt: dict[Way, Tensor] = {
        "encoded": of_vector.output - of_zero.output,
        "difference": of_positive.output - of_negative.output,
        "pursuit": coefficients @ directions(sae, chosen),
        "projections": _solve(directions(sae, largest), target) @ directions(sae, largest),
    }
    return Decomposition(vector, tables, {way: found.cpu() for way, found in rebuilt.items()})


@torch.no_grad()
def pursuit(sae: SAE[Any], vector: Tensor, k: int) -> tuple[list[int], Tensor]:
    """Orthogonal matching pursuit of (d_in,) `vector`: up to `k` latents in the order found, and (n,) coefficients.

    Each step takes the direction with the largest |cosine| to what is left, then solves for all coefficients anew, by
    least squares. It ends early where nothing is left to explain.
    """
    chosen: list[int] = []
    coefficients = vector.new_zeros(0)
    rest = vector
    while len(chosen) < min(k, len(vector), sae.cfg.d_sae) and rest.norm() > 1e-5 * vector.norm():
        along = _along(sae, rest).abs()
        along[chosen] = -1
        chosen.append(int(along.argmax()))
        atoms = directions(sae, chosen)
        coefficients = _solve(atoms, vector)
        rest = vector - coefficients @ atoms
    return chosen, coefficients


def random_like(vector: Tensor, seed: int) -> Tensor:
    """(d_in,) a vector of equal norm in a random direction: the control for steering by `vector`."""
    chance = torch.randn(vector.shape, generator=torch.Generator().manual_seed(seed))
    scaled: Tensor = chance * (vector.norm().cpu() / chance.norm())
    return scaled.to(vector)


@dataclass(frozen=True)
class _Seen:
    """What an SAE sees in activations, on average over them."""

    lengths: Tensor
    """(d_sae,) by how much each latent moves the output along its direction."""
    output: Tensor
    """(d_in,) decode(encode(x))"""


def _seen(sae: SAE[Any], acts: Tensor) -> _Seen:
    # Activations of 0 have no scale where an SAE normalises by length: nothing fires on them.
    features = sae.encode(acts.to(sae.dtype)).nan_to_num(nan=0.0)
    lengths = features.float() * _scale(sae, acts)
    if not getattr(sae.cfg, "rescale_acts_by_decoder_norm", False):
        lengths = lengths * sae.W_dec.float().norm(dim=-1)
    return _Seen(lengths.mean(dim=0), sae.decode(features).float().mean(dim=0))


def _scale(sae: SAE[Any], acts: Tensor) -> Tensor:
    """(n, 1) by what an SAE multiplies its output for each of (n, d_in) activations: 1 unless it normalises them."""
    normalised = sae.cfg.normalize_activations
    scale = acts.new_ones(len(acts), 1)
    if normalised == "layer_norm":
        scale = acts.std(dim=-1, keepdim=True)
    elif normalised == "constant_norm_rescale":
        scale = acts.norm(dim=-1, keepdim=True) / acts.shape[-1] ** 0.5
    return scale


def _along(sae: SAE[Any], vector: Tensor) -> Tensor:
    """(d_sae,) projections of (d_in,) `vector` on every unit direction, without a second copy of the decoder."""
    W_dec: Tensor = sae.W_dec
    along: Tensor = (W_dec @ vector.to(W_dec)).float() / W_dec.float().norm(dim=-1).clamp(min=1e-30)
    return along


def _solve(atoms: Tensor, vector: Tensor) -> Tensor:
    """(n,) least-squares coefficients of (d_in,) `vector` in (n, d_in) `atoms`; the shortest where many do."""
    inverse: Tensor = torch.linalg.pinv(atoms.T.cpu().double())  # not every device has doubles
    return (inverse @ vector.cpu().double()).to(vector)


def _table(k: int, **terms: Tensor) -> pd.DataFrame:
    """The k rows of largest |first term - second term|."""
    table = pd.DataFrame({name: values.cpu() for name, values in terms.items()}).rename_axis("feature")
    first, second = terms
    table.insert(0, "coefficient", table[first] - table[second])
    return _ordered(table).head(k)


def _ordered(table: pd.DataFrame) -> pd.DataFrame:
    return table.sort_values("coefficient", key=abs, ascending=False, kind="stable")
