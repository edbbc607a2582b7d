"""Does an SAE trained on a base model still work on a finetune of it? Both models read the same tokens.

tokenizers    do equal ids mean equal text?
activations   cosine and distance of the two models' activations, token by token
SAE           the metrics of `evaluate` on both models
features      Pearson's r of each feature's activations in base and finetuned model; its density in both
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from sae_tools.analysis.evaluate import Evaluator
from sae_tools.analysis.predictions import mean_activation
from sae_tools.common.errors import InputError
from sae_tools.metrics.averages import Correlation, Means
from sae_tools.models.lm import LanguageModel
from sae_tools.models.sites import Site
from sae_tools.saes import SAE

LEAST_AGREEMENT = 0.99  # below this share of equal tokens, ids mean other things to the two models
LIVE = 1e-5  # density in both models from which a feature's correlation is counted (as in the transferability study)


@dataclass
class Transferred:
    metrics: dict[str, Any]
    features: pd.DataFrame
    """Index feature; density_base, density_finetuned, correlation (nan where it fires in neither or is constant)."""


def compare_tokenizers(base: dict[str, int], finetuned: dict[str, int]) -> dict[str, float]:
    """Two vocabularies {token: id}: sizes, tokens in one only, shared tokens with different ids, and the agreement.

    agreement = share of the base's tokens that the finetuned model has at the same id.
    """
    shared = base.keys() & finetuned.keys()
    moved = sum(base[token] != finetuned[token] for token in shared)
    return {
        "size_base": len(base),
        "size_finetuned": len(finetuned),
        "only_base": len(base) - len(shared),
        "only_finetuned": len(finetuned) - len(shared),
        "moved": moved,
        "agreement": (len(shared) - moved) / len(base),
    }


def check_pair(base: LanguageModel, finetuned: LanguageModel, site: Site) -> dict[str, float]:
    """Refuse two models that can't share an SAE or tokens; returns the comparison of their tokenizers.

    Raises:
        InputError: they differ in family, depth or width, or too many token ids mean other tokens.
    """
    kinds = [(lm.config.model_type, lm.n_layers) for lm in (base, finetuned)]
    if kinds[0] != kinds[1]:
        raise InputError(
            f"{finetuned.name!r} is a {kinds[1][0]} of {kinds[1][1]} layers, but {base.name!r} is a {kinds[0][0]} of "
            f"{kinds[0][1]}; give a finetune of the base model."
        )
    if base.width(site) != finetuned.width(site):
        raise InputError(
            f"{finetuned.name!r} has activations of width {finetuned.width(site)} at {site.name}, "
            f"but {base.name!r} has {base.width(site)}; give a finetune of the base model."
        )
    tokenizers = compare_tokenizers(base.tokenizer.get_vocab(), finetuned.tokenizer.get_vocab())
    if tokenizers["agreement"] < LEAST_AGREEMENT:
        raise InputError(
            f"only {tokenizers['agreement']:.1%} of the token ids of {base.name!r} mean the same in "
            f"{finetuned.name!r}; give a finetune that keeps the base model's tokenizer."
        )
    return tokenizers


def transfer(
    sae: SAE[Any], base: LanguageModel, finetuned: LanguageModel, site: Site, texts: dict[str, Tensor], batch_size: int
) -> Transferred:
    """Compare the models on each of `texts`, (n_blocks, context) ids by name; features on the first.

    Raises:
        InputError: as `check_pair`.
    """
    tokenizers = check_pair(base, finetuned, site)
    evaluations, tables = {}, []
    for text, ids in texts.items():
        pair = {
            which: Evaluator(sae, lm, site, mean_activation(lm, site, ids, batch_size))
            for which, lm in (("base", base), ("finetuned", finetuned))
        }
        similarities, correlation = _read(pair["base"], pair["finetuned"], torch.split(ids, batch_size), text)
        found = {which: evaluator.result() for which, evaluator in pair.items()}
        evaluations[text] = {which: evaluation.metrics for which, evaluation in found.items()}
        evaluations[text]["activations"] = similarities.mean()
        table = pd.DataFrame({f"density_{which}": found[which].latents["feature_density"] for which in found})
        tables.append(table.assign(correlation=correlation.value().numpy()).rename_axis("feature"))
    metrics = {"tokenizer": tokenizers, "features": summarise(tables[0]), **evaluations}
    return Transferred(metrics, tables[0])


def _read(base: Evaluator, finetuned: Evaluator, batches: Sequence[Tensor], what: str) -> tuple[Means, Correlation]:
    """Take batches of ids into both; how alike their activations are on average, and their features token by token."""
    similarities, correlation = Means(), Correlation(base.sae.cfg.d_sae)
    with tqdm(total=2 * sum(batch.numel() for batch in batches), desc=what, unit="tok", unit_scale=True) as bar:
        for batch in batches:
            one, other = base.add(batch), finetuned.add(batch)
            (x, f), (y, g) = one.at(other.text), other.at(one.text)
            similarities.add(similarity(x, y))
            correlation.add(f, g)
            bar.update(2 * batch.numel())
    return similarities, correlation


def similarity(x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """cos(x, y), ‖x - y‖ and ‖y‖ / ‖x‖ of (tokens, d) activations, x in the base and y in the finetuned model."""
    return {
        "cosine": torch.nn.functional.cosine_similarity(x, y, dim=-1),
        "distance": (x - y).norm(dim=-1),
        "norm_ratio": y.norm(dim=-1) / x.norm(dim=-1),
    }


def summarise(features: pd.DataFrame) -> dict[str, float]:
    """How many features survive: live in both models, their correlation, and those that fire in one model only."""
    base, finetuned = features["density_base"], features["density_finetuned"]
    live = (base >= LIVE) & (finetuned >= LIVE)
    correlation = features.loc[live, "correlation"].dropna()
    return {
        "live_in_both": int(live.sum()),
        "only_in_base": int(((base > 0) & (finetuned == 0)).sum()),
        "only_in_finetuned": int(((base == 0) & (finetuned > 0)).sum()),
        "correlation_mean": float(correlation.mean()) if len(correlation) else 0.0,
        "correlation_median": float(correlation.median()) if len(correlation) else 0.0,
        "share_above_0.9": float((correlation > 0.9).mean()) if len(correlation) else 0.0,
        "share_above_0.5": float((correlation > 0.5).mean()) if len(correlation) else 0.0,
    }
