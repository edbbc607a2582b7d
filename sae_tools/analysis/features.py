"""What a person looks at: for each feature its examples, histogram, promoted tokens, neighbours and a label.

`describe` makes the tables of one SAE. A feature's label is the tokens on which it is
strongest in sum; it says where the feature fires, not what it means.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from sae_tools.analysis.examples import pick_examples
from sae_tools.analysis.firings import BINS, Firings, find_firings
from sae_tools.common.precision import product_dtype
from sae_tools.common.settings import Features
from sae_tools.metrics.dictionary import spread
from sae_tools.models.lm import LanguageModel
from sae_tools.models.sites import Site
from sae_tools.saes import SAE

LABEL_TOKENS = 3
GROUP = 64
"""Directions that are looked at together, by their maximum."""
LARGE = 10**11
"""Multiplications from which neighbours are found in bfloat16, where the processor gains by it, and ranked in full."""
SPARE = 3
"""How many times as many are found as are kept: bfloat16 keeps a cosine to 0.002, so that near ties change places."""
DEFAULT = Features()


def describe(
    sae: SAE[Any], lm: LanguageModel, site: Site, ids: Tensor, config: Features = DEFAULT,
    firings: Firings | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:  # fmt: skip
    """The table of features (one row each) and the table of examples of an SAE, from (n_blocks, context) ids.

    `firings` on these ids, if they are known already.
    """
    firings = firings or find_firings(sae, lm, site, ids, config.batch_size)
    tokens = ids.flatten().numpy()
    count, live = firings.count, firings.count > 0
    sums = np.bincount(firings.feature, weights=firings.value, minlength=firings.d_sae)
    steps = firings.feature.astype(np.int64) * BINS + firings.bin
    promoted = promoted_tokens(sae, lm, site, config.n_promoted)
    peaked = {name: promoted.pop(name) for name in ("kurtosis", "top10_share")}
    shown = {
        "histogram": np.bincount(steps, minlength=firings.d_sae * BINS).reshape(-1, BINS),
        **promoted,
        **neighbours(sae.W_dec.detach().float(), config.n_neighbours),
    }
    table = pd.DataFrame(
        {
            "label": labels(firings, tokens, lm),
            "density": count / firings.n_tokens,
            "maximum": firings.maximum.astype(np.float64),
            "mean": sums / count.clip(min=1),
            **peaked,
            **{name: [row if fires else row[:0] for row, fires in zip(rows, live, strict=True)]
               for name, rows in shown.items()},
        }
    ).rename_axis("feature")  # fmt: skip
    return table, pick_examples(firings, tokens, ids.shape[1], config)


def labels(firings: Firings, ids: np.ndarray, lm: LanguageModel) -> list[str]:
    """For each feature the tokens that hold most of its activation in sum, strongest first; empty if it never fires."""
    key, order = torch.from_numpy(firings.feature.astype(np.int64) * lm.d_vocab + ids[firings.token]).sort()
    pairs, inverse = (t.numpy() for t in torch.unique_consecutive(key, return_inverse=True))
    total = np.bincount(inverse, weights=firings.value[order.numpy()], minlength=len(pairs))
    feature, token = np.divmod(pairs, lm.d_vocab)
    starts = np.searchsorted(feature, np.flatnonzero(firings.count))
    shown: list[list[str]] = [[] for _ in range(firings.d_sae)]
    text = _Texts(lm)
    for _ in range(LABEL_TOKENS if len(pairs) else 0):
        best = np.maximum.reduceat(total, starts)
        found = np.flatnonzero(total == np.repeat(best, np.diff(starts, append=len(total))))
        found = found[np.searchsorted(feature[found], np.flatnonzero(firings.count))]
        for pair in found[total[found] > 0]:
            shown[feature[pair]].append(text[token[pair]])
        total[found] = 0
    return [" · ".join(dict.fromkeys(words)) for words in shown]


class _Texts(dict[int, str]):
    """What each token looks like in a label, white space made visible."""

    def __init__(self, lm: LanguageModel) -> None:
        self.tokenizer = lm.tokenizer

    def __missing__(self, token: int) -> str:
        text = self.tokenizer.decode([int(token)], clean_up_tokenization_spaces=False)
        self[token] = text.strip() or text.replace("\n", "⏎").replace(" ", "␣")
        return self[token]


@torch.no_grad()
def promoted_tokens(
    sae: SAE[Any], lm: LanguageModel, site: Site, n: int, with_bias: bool = False
) -> dict[str, np.ndarray]:
    """(d_sae, n) tokens whose logits each feature raises and lowers most, by its direct effect (W_dec · γ · W_U).

    And (d_sae,) how peaked its effects on all logits are: kurtosis and top10_share, as `metrics.dictionary.spread`.
    `with_bias` adds the decoder's bias to each direction.
    """
    parts = []
    for directions in tqdm(torch.split(sae.W_dec.detach(), 256), desc="promoted tokens"):
        effects = lm.logit_effects(site, directions + sae.b_dec if with_bias else directions).float()
        best, worst = (effects.topk(min(n, lm.d_vocab), largest=largest) for largest in (True, False))
        found = {
            "top_tokens": best.indices, "top_logits": best.values, "bottom_tokens": worst.indices,
            "bottom_logits": worst.values, **spread(effects),
        }  # fmt: skip
        parts.append({name: values.cpu().numpy() for name, values in found.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def neighbours(directions: Tensor, n: int) -> dict[str, np.ndarray]:
    """(d_sae, n) other features with the largest cosine between their (d_sae, d) decoder directions."""
    unit = torch.nn.functional.normalize(directions, dim=-1)
    n = min(n, len(unit) - 1)
    every = torch.nn.functional.pad(unit, (0, 0, 0, -len(unit) % GROUP))  # whole groups
    fast = product_dtype("auto", unit.device) if unit.numel() * len(unit) > LARGE else unit.dtype
    every, parts = every.to(fast), []
    for start in tqdm(range(0, len(unit), 1024), desc="neighbours"):
        cosines = every[start : min(start + 1024, len(unit))] @ every.T
        cosines[:, len(unit) :] = -3
        cosines.diagonal(start).fill_(-2)
        found = _largest(cosines, n if fast == unit.dtype else min(SPARE * n, len(unit) - 1))
        parts.append(found if fast == unit.dtype else _ranked(unit, start, found[0], n))
    return {
        "neighbours": torch.cat([indices for indices, _ in parts]).cpu().numpy(),
        "neighbour_cosines": torch.cat([values for _, values in parts]).cpu().numpy(),
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
