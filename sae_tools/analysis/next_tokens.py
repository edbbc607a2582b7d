"""The likeliest next tokens of a text: of the model, with an SAE spliced in, with zeros there, and with a patch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from sae_tools.models.lm import LanguageModel, Patch
from sae_tools.models.replay import Replay
from sae_tools.models.sites import Site

if TYPE_CHECKING:
    from sae_tools.saes import SAE

WAYS = ("model", "sae", "zeros")


@torch.no_grad()
def next_tokens(sae: SAE[Any], lm: LanguageModel, site: Site, ids: Tensor, k: int = 5) -> pd.DataFrame:
    """Rows (position, rank), rank 1 the likeliest, of (1, n) ids; columns token, and a token and its probability a way.

    `model_token`, `model_probability`, likewise `sae_` (special tokens keep their own activations) and `zeros_` (none
    does, as in `evaluate`).
    """
    logits = _logits(sae, lm, site, ids)
    pieces, k = lm.pieces(ids[0].tolist()), min(k, lm.d_vocab)
    index = pd.MultiIndex.from_product([range(len(pieces)), range(1, k + 1)], names=["position", "rank"])
    table = pd.DataFrame({"token": [piece for piece in pieces for _ in range(k)]}, index=index)
    for way in WAYS:
        likeliest = logits[way][0].float().softmax(dim=-1).topk(k)
        table[f"{way}_token"] = [lm.tokenizer.decode([i]) for i in likeliest.indices.flatten().tolist()]
        table[f"{way}_probability"] = likeliest.values.flatten().cpu().numpy()
    return table


@torch.no_grad()
def after_last(sae: SAE[Any], lm: LanguageModel, site: Site, ids: Tensor, k: int = 10) -> pd.DataFrame:
    """What follows (1, n) ids: the `k` likeliest next tokens of the model, and those with the SAE spliced in.

    A row a token, indexed by its id, the model's likeliest first; columns token, model, sae, zeros (its probability
    each way, as in `next_tokens`), change = sae - model.
    """
    ways = {way: logits[0, -1].float().softmax(dim=-1).cpu() for way, logits in _logits(sae, lm, site, ids).items()}
    k = min(k, lm.d_vocab)
    chosen = sorted({i for way in ("model", "sae") for i in ways[way].topk(k).indices.tolist()})
    table = pd.DataFrame({way: values[chosen].numpy() for way, values in ways.items()}, index=chosen)
    table.insert(0, "token", [lm.tokenizer.decode([i]) for i in chosen])
    table["change"] = table["sae"] - table["model"]
    return table.rename_axis("id").sort_values("model", ascending=False, kind="stable")


def _logits(sae: SAE[Any], lm: LanguageModel, site: Site, ids: Tensor) -> dict[str, Tensor]:
    """(1, n, d_vocab) logits a way."""
    replay = Replay(lm, site, ids.to(lm.device))
    patches = {
        "sae": Patch(site, lambda acts: sae.decode(sae.encode(acts.to(sae.dtype))).to(acts.dtype)),
        "zeros": Patch(site, torch.zeros_like, everywhere=True),
    }
    return {"model": replay.logits} | {way: replay.logits_with(patch) for way, patch in patches.items()}


@torch.no_grad()
def next_token_changes(lm: LanguageModel, ids: Tensor, patch: Patch, k: int = 10) -> pd.DataFrame:
    """How a patch changes the token after (1, n) ids: the `k` largest rises and the `k` largest falls in probability.

    A row a token, indexed by its id, the largest rise first; columns token, without, with, change = with - without.
    """
    without, changed = (lm.logits(ids, each)[0, -1].float().softmax(dim=-1).cpu() for each in (None, patch))
    change = changed - without
    order = change.argsort(descending=True, stable=True)
    k = min(k, len(order) // 2)
    chosen = torch.cat([order[:k], order[len(order) - k :]])
    columns = {"without": without, "with": changed, "change": change}
    table = pd.DataFrame({name: values[chosen].numpy() for name, values in columns.items()}, index=chosen.tolist())
    table.insert(0, "token", [lm.tokenizer.decode([i]) for i in chosen.tolist()])
    return table.rename_axis("id")
