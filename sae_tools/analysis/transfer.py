"""Does an SAE trained on a base model still work on a finetune of it? Both models read the same tokens.

activations   how alike the two models' activations are, and their outliers: `activations.align`
SAE           the metrics of `evaluate` on both models, with and without outliers
features      what each does in both: `paired_features`
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from sae_tools.analysis.activations import Alignment, align
from sae_tools.analysis.evaluate import Evaluator
from sae_tools.analysis.survival import logit_similarity, paired_features, summarise, unembedding_change
from sae_tools.common import distributed
from sae_tools.metrics.paired import Paired
from sae_tools.models.lm import LanguageModel
from sae_tools.models.pair import LEAST_AGREEMENT, check_pair
from sae_tools.models.sites import Site
from sae_tools.saes import SAE

MODELS = ("base", "finetuned")


@dataclass
class Transferred:
    metrics: dict[str, Any]
    """tokenizer; unembedding; features; and by text: base, finetuned, activations, and where a text token is an outlier
    base_without_outliers, finetuned_without_outliers."""
    features: pd.DataFrame
    """Index feature, over all texts: as `survival.paired_features`, and logit_similarity."""
    alignments: dict[str, Alignment]
    """By text."""


def transfer(
    sae: SAE[Any],
    base: LanguageModel,
    finetuned: LanguageModel,
    site: Site,
    texts: dict[str, Tensor],
    batch_size: int,
    least_agreement: float = LEAST_AGREEMENT,
    outlier_norm: float | None = None,
) -> Transferred:
    """Compare the models on each of `texts`, (n_blocks, context) ids by name; features over all of them.

    `outlier_norm`: as `limit` of `activations.align`. Several processes share the batches, and each ends with the whole
    result.

    Raises:
        InputError: as `check_pair`; an activation is not finite.
    """
    tokenizers = check_pair(base, finetuned, site, least_agreement)
    pair = dict(zip(MODELS, (base, finetuned), strict=True))
    alignments, found, paired = {}, {}, Paired(sae.cfg.d_sae)
    for text, ids in texts.items():
        alignment = alignments[text] = align(base, finetuned, site, ids, batch_size, outlier_norm)
        evaluators = {which: Evaluator(sae, lm, site, alignment.means[which]) for which, lm in pair.items()}
        _read(evaluators, paired, ids, batch_size, text)
        found[text] = {which: evaluator.result().metrics for which, evaluator in evaluators.items()}
        found[text] |= {
            f"{which}_without_outliers": _without(sae, lm, site, ids, batch_size, alignment, which)
            for which, lm in pair.items()
            if bool((alignment.outliers[which] & alignment.text).any())
        }
        found[text]["activations"] = alignment.figures
    paired.pool()
    features = paired_features(paired).assign(logit_similarity=logit_similarity(sae, base, finetuned, site))
    metrics = {
        "tokenizer": tokenizers, "unembedding": unembedding_change(base, finetuned), "features": summarise(features),
        **found,
    }  # fmt: skip
    return Transferred(metrics, features, alignments)


def _read(evaluators: dict[str, Evaluator], paired: Paired, ids: Tensor, batch_size: int, what: str) -> None:
    """Take a share of (n_blocks, context) ids into both evaluators, and what features do in both, token by token."""
    base, finetuned = (evaluators[which] for which in MODELS)
    batches = distributed.share(torch.split(ids, batch_size))
    total = 2 * sum(batch.numel() for batch in batches)
    with tqdm(total=total, desc=what, unit="tok", unit_scale=True, disable=distributed.rank() > 0) as bar:
        for batch in batches:
            one, other = base.add(batch), finetuned.add(batch)
            paired.add(one.at(other.text)[1], other.at(one.text)[1])
            bar.update(2 * batch.numel())


def _without(
    sae: SAE[Any],
    lm: LanguageModel,
    site: Site,
    ids: Tensor,
    batch_size: int,
    alignment: Alignment,
    which: str,
) -> dict[str, float]:
    """Metrics over the text that is no outlier in this model; outliers keep their own activations in the splice."""
    evaluator = Evaluator(sae, lm, site, alignment.means[which])
    kept = torch.split(~alignment.outliers[which], batch_size)
    for batch, usual in distributed.share(list(zip(torch.split(ids, batch_size), kept, strict=True))):
        evaluator.add(batch, usual)
    return evaluator.result().metrics
