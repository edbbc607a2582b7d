"""What a person looks at: for each feature its label, examples, histogram, words, promoted tokens and neighbours.

`describe` makes the tables of one SAE. A label made here says where a feature fires, not what it means.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from sae_tools.analysis.coactive import coactive
from sae_tools.analysis.contexts import Contexts, Text, Vocabulary
from sae_tools.analysis.detection import DETECTION, detect
from sae_tools.analysis.examples import pick_examples
from sae_tools.analysis.firings import BINS, Firings, find_firings
from sae_tools.analysis.imported import Label
from sae_tools.analysis.labels import make_labels
from sae_tools.common import distributed
from sae_tools.common.precision import product_dtype
from sae_tools.common.settings import Features
from sae_tools.metrics.dictionary import spread
from sae_tools.models.lm import LanguageModel
from sae_tools.models.sites import Site
from sae_tools.saes import SAE

logger = logging.getLogger(__name__)

GROUP = 64
"""Directions that are looked at together, by their maximum."""
LARGE = 10**11
"""Multiplications from which neighbours are found in bfloat16, where the processor gains by it, and ranked in full."""
SPARE = 3
"""How many times as many are found as are kept: bfloat16 keeps a cosine to 0.002, so that near ties change places."""
DEFAULT = Features()


def describe(
    sae: SAE[Any],
    lm: LanguageModel,
    site: Site,
    ids: Tensor,
    config: Features = DEFAULT,
    *,
    held_out: Tensor | None = None,
    firings: Firings | None = None,
    imported: Mapping[int, Label] | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The table of features (one row each) and the table of examples of an SAE, from (n_blocks, context) ids.

    Labels are tested on `held_out` (n_blocks, context) ids, where there are any; `firings` are those on `ids`, if they
    are known; `imported` labels, by feature, take the place of those made here.

    Several processes share the passes over text and latents. The first makes the tables; those of the others are empty.
    """
    firings = firings or find_firings(sae, lm, site, ids, config.batch_size)
    elsewhere = None if held_out is None else find_firings(sae, lm, site, held_out, config.batch_size)
    promoted = promoted_tokens(sae, lm, site, config.n_promoted)
    near = neighbours(sae.W_dec.detach().float(), config.n_neighbours)
    if distributed.rank() > 0:
        return pd.DataFrame(), pd.DataFrame()
    live = firings.count > 0
    lists = {"histogram": histograms(firings), **promoted, **near}
    peaked = {name: lists.pop(name) for name in ("kurtosis", "top10_share")}
    labels, contexts = _meanings(lm, ids, firings, held_out, elsewhere)
    table = pd.concat([
        final_labels(labels, imported or {}),
        pd.DataFrame({
            "density": firings.count / firings.n_tokens,
            "maximum": firings.maximum.astype(np.float64),
            "mean": np.bincount(firings.feature, firings.value, firings.d_sae) / firings.count.clip(min=1),
            **peaked,
            **{name: [row if fires else row[:0] for row, fires in zip(rows, live, strict=True)]
               for name, rows in lists.items()},
        }),
        contexts,
        coactive(firings),
    ], axis=1).rename_axis("feature")  # fmt: skip
    return table, pick_examples(firings, ids.flatten().numpy(), ids.shape[1], config)


def _meanings(
    lm: LanguageModel, ids: Tensor, firings: Firings, held_out: Tensor | None, elsewhere: Firings | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Of each feature its automatic_label and how well that is detected; and the words where it fires.

    From (n_blocks, context) ids and the firings there, and from held-out ones.
    """
    texts = [ids] if held_out is None else [ids, held_out]
    vocabulary = Vocabulary(lm.tokenizer, texts)
    text = Text.of(lm, vocabulary, ids)
    contexts = Contexts.of(firings, text)
    labels = make_labels(firings, text, contexts)
    table = pd.DataFrame({"automatic_label": labels.texts(vocabulary)})
    if held_out is None or elsewhere is None:
        return table.assign(**dict.fromkeys(DETECTION, np.nan)), contexts.table(vocabulary, firings)
    found = detect(labels, elsewhere, Text.of(lm, vocabulary, held_out))
    return pd.concat([table, found], axis=1), contexts.table(vocabulary, firings)


def histograms(firings: Firings) -> np.ndarray:
    """(d_sae, BINS) how many of a feature's values lie in each of equal steps up to its maximum."""
    steps = firings.feature.astype(np.int64) * BINS + firings.bin
    return np.bincount(steps, minlength=firings.d_sae * BINS).reshape(-1, BINS)


def final_labels(table: pd.DataFrame, imported: Mapping[int, Label]) -> pd.DataFrame:
    """A table with automatic_label and detection, and before them the label that is shown, label_source ("automatic",
    "person", a model's or tool's name) and label_score (detection, or the score that was imported with the label).
    """
    label, source, score = (table["automatic_label"].tolist(), ["automatic"] * len(table), table["detection"].tolist())
    for feature, given in imported.items():
        label[feature], source[feature] = given.text, given.source
        score[feature] = math.nan if given.score is None else given.score
    shown = pd.DataFrame({"label": label, "label_source": source, "label_score": score}, index=table.index)
    return pd.concat([shown, table], axis=1)


def automatic_labels(firings: Firings, ids: Tensor, lm: LanguageModel) -> list[str]:
    """For each feature a label made of words, as `labels` makes it; empty if it never fires."""
    vocabulary = Vocabulary(lm.tokenizer, [ids])
    text = Text.of(lm, vocabulary, ids)
    return make_labels(firings, text, Contexts.of(firings, text)).texts(vocabulary)


@torch.no_grad()
def promoted_tokens(
    sae: SAE[Any], lm: LanguageModel, site: Site, n: int, with_bias: bool = False
) -> dict[str, np.ndarray]:
    """(d_sae, n) tokens whose logits each feature raises and lowers most, by its direct effect (W_dec · γ · W_U).

    And (d_sae,) how peaked its effects on all logits are: kurtosis and top10_share, as `metrics.dictionary.spread`.
    `with_bias` adds the decoder's bias to each direction. No tokens and nan where the site has no direct effect.
    """
    parts = []
    if unknown := lm.no_logit_effects(site):
        logger.warning("%s Features are kept without tokens that they promote.", unknown)
        nothing, nan = np.zeros((len(sae.W_dec), 0)), np.full(len(sae.W_dec), np.nan)
        names = ("top_tokens", "top_logits", "bottom_tokens", "bottom_logits")
        return dict.fromkeys(names, nothing) | dict.fromkeys(spread(sae.W_dec[:1]), nan)
    shared = distributed.share(torch.split(sae.W_dec.detach(), 256))
    for directions in tqdm(shared, desc="promoted tokens", disable=distributed.rank() > 0):
        effects = lm.logit_effects(site, directions + sae.b_dec if with_bias else directions).float()
        best, worst = (effects.topk(min(n, lm.d_vocab), largest=largest) for largest in (True, False))
        found = {
            "top_tokens": best.indices, "top_logits": best.values, "bottom_tokens": worst.indices,
            "bottom_logits": worst.values, **spread(effects),
        }  # fmt: skip
        parts.append({name: values.cpu() for name, values in found.items()})
    return {name: values.numpy() for name, values in distributed.columns(parts).items()}


def neighbours(directions: Tensor, n: int) -> dict[str, np.ndarray]:
    """(d_sae, n) other features with the largest cosine between their (d_sae, d) decoder directions."""
    unit = torch.nn.functional.normalize(directions, dim=-1)
    n = min(n, len(unit) - 1)
    every = torch.nn.functional.pad(unit, (0, 0, 0, -len(unit) % GROUP))  # whole groups
    fast = product_dtype("auto", unit.device) if unit.numel() * len(unit) > LARGE else unit.dtype
    every, parts = every.to(fast), []
    starts = distributed.share(range(0, len(unit), 1024))
    for start in tqdm(starts, desc="neighbours", disable=distributed.rank() > 0):
        cosines = every[start : min(start + 1024, len(unit))] @ every.T
        cosines[:, len(unit) :] = -3
        cosines.diagonal(start).fill_(-2)
        found = _largest(cosines, n if fast == unit.dtype else min(SPARE * n, len(unit) - 1))
        parts.append(found if fast == unit.dtype else _ranked(unit, start, found[0], n))
    return {
        "neighbours": distributed.cat([indices for indices, _ in parts]).cpu().numpy(),
        "neighbour_cosines": distributed.cat([values for _, values in parts]).cpu().numpy(),
    }


def _ranked(unit: Tensor, start: int, candidates: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Indices and cosines of the `n` nearest of each row's candidates to the (m) directions from `start` on."""
    rows = unit[start : start + len(candidates)]
    cosines = torch.bmm(unit[candidates], rows[..., None])[..., 0]
    best = cosines.topk(n)
    return candidates.gather(1, best.indices), best.values


def _largest(rows: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Indices and values of the `n` largest of each of (m, width) rows: they lie in the n groups of largest maximum.

    Looking at all of them takes as long as the product that they come from.
    """
    groups = rows.view(len(rows), -1, GROUP)
    best = groups.amax(dim=-1).topk(min(n, groups.shape[1])).indices
    found = groups.gather(1, best[..., None].expand(-1, -1, GROUP)).flatten(1).topk(n)
    indices = best.gather(1, found.indices // GROUP) * GROUP + found.indices % GROUP
    return indices, found.values
