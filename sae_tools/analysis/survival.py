"""What becomes of an SAE's features in a finetuned model: which survive, which fall silent, which change."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch

from sae_tools.common import distributed
from sae_tools.common.errors import InputError
from sae_tools.metrics.averages import ratio
from sae_tools.metrics.paired import Paired
from sae_tools.models.lm import LanguageModel
from sae_tools.models.sites import Site
from sae_tools.saes import SAE

REGULAR = (1e-5, 1e-1)
"""Densities in both models between which a feature's correlation is counted (as in the transferability study)."""
SHARES = (0.5, 0.8, 0.9)
BLOCK = 1024


def paired_features(paired: Paired) -> pd.DataFrame:
    """Index feature; density and mean (where it fires) in both models; and what `Paired` makes of the two together.

    correlation (`nan` where it is constant in one), overlap, difference, log_error (`nan` but where silent in one).
    """
    density, mean = paired.density(), paired.mean()
    return pd.DataFrame({
        "density_base": density[0].numpy(), "density_finetuned": density[1].numpy(),
        "mean_base": mean[0].numpy(), "mean_finetuned": mean[1].numpy(),
        "correlation": paired.correlation().numpy(), "overlap": paired.overlap().numpy(),
        "difference": paired.difference().numpy(), "log_error": paired.log_error().numpy(),
    }).rename_axis("feature")  # fmt: skip


@torch.no_grad()
def logit_similarity(sae: SAE[Any], base: LanguageModel, finetuned: LanguageModel, site: Site) -> Any:
    """(d_sae,) Pearson's r over the shared vocabulary of a feature's direct effects on the logits of both models.

    It tells how far the way to the logits has changed, not how far the feature has. Nan where the site has no direct
    effect.
    """
    if base.no_logit_effects(site):
        return np.full(len(sae.W_dec), np.nan)
    parts, shared = [], min(base.d_vocab, finetuned.d_vocab)
    for directions in distributed.share(torch.split(sae.W_dec.detach(), BLOCK)):
        effects = [lm.logit_effects(site, directions)[:, :shared].float().cpu() for lm in (base, finetuned)]
        one, other = (effect - effect.mean(dim=-1, keepdim=True) for effect in effects)
        parts.append(torch.nn.functional.cosine_similarity(one, other, dim=-1))
    return distributed.cat(parts).numpy()


@torch.no_grad()
def unembedding_change(base: LanguageModel, finetuned: LanguageModel) -> dict[str, float]:
    """norm_ratio ‖W_U finetuned‖ / ‖W_U base‖, and change ‖W_U finetuned - W_U base‖ / ‖W_U base‖, of shared rows."""
    shared = min(base.d_vocab, finetuned.d_vocab)
    a, b = (lm.unembedding[:shared].float().cpu() for lm in (base, finetuned))
    norm = float(a.norm())
    return {"norm_ratio": ratio(float(b.norm()), norm), "change": ratio(float((b - a).norm()), norm)}


def is_regular(features: pd.DataFrame) -> pd.Series[bool]:
    """Which fire neither too seldom nor too often to be compared, in both models."""
    low, high = REGULAR
    return features["density_base"].between(low, high) & features["density_finetuned"].between(low, high)


def by_density(features: pd.DataFrame, low: float, high: float, n: int, seed: int = 0) -> pd.DataFrame:
    """`n` features (or all) drawn from those whose density lies in [low, high] in both models.

    Raises:
        InputError: there is none.
    """
    found = features[features["density_base"].between(low, high) & features["density_finetuned"].between(low, high)]
    if not len(found):
        live = features.loc[features["density_base"] > 0, "density_base"]
        between = f"{live.min():.2g} and {live.max():.2g}" if len(live) else "no two numbers: none fires"
        raise InputError(
            f"no feature has a density from {low:g} to {high:g} in both models; those of the base model lie between "
            f"{between}."
        )
    return found.sample(min(n, len(found)), random_state=seed).sort_index()


def summarise(features: pd.DataFrame) -> dict[str, float]:
    """How many features survive: regular ones and their correlation, those silent in one model only; never a NaN."""
    base, finetuned = features["density_base"], features["density_finetuned"]
    regular = is_regular(features)
    correlation = features.loc[regular, "correlation"].dropna()
    silent = ((base == 0) ^ (finetuned == 0)) & features["log_error"].notna()
    found = {
        "regular": int(regular.sum()),
        "only_in_base": int(((base > 0) & (finetuned == 0)).sum()),
        "only_in_finetuned": int(((base == 0) & (finetuned > 0)).sum()),
        "correlation_mean": _mean(correlation),
        "correlation_median": float(correlation.median()) if len(correlation) else 0.0,
        **{f"share_above_{least}": _mean((correlation > least).astype(float)) for least in SHARES},
        "overlap_median": float(features.loc[regular, "overlap"].median()) if regular.any() else 0.0,
        "log_error_of_silent": _mean(features.loc[silent, "log_error"]),
        "log_density_correlation": _log_density(base, finetuned),
    }
    if "logit_similarity" in features and features["logit_similarity"].notna().any():
        found["logit_similarity_mean"] = _mean(features.loc[regular, "logit_similarity"])
    return found


def _mean(values: pd.Series[float]) -> float:
    return float(values.mean()) if len(values) else 0.0


def _log_density(base: pd.Series[float], finetuned: pd.Series[float]) -> float:
    """Pearson's r of log10(density + 1e-10) over all features, 0 where one side is constant."""
    logs = torch.from_numpy(np.log10(np.stack([base, finetuned]).astype(np.float64) + 1e-10))
    centred = logs - logs.mean(dim=1, keepdim=True)
    a, b = centred
    return ratio(float(a @ b), float(a.norm() * b.norm()))
