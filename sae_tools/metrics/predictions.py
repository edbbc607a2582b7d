"""What a language model loses when its activations at a site are replaced: from logits."""

from __future__ import annotations

import torch
from torch import Tensor

from sae_tools.metrics.averages import ratio

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


def top_agreement(clean: Tensor, other: Tensor, k: int = 5) -> dict[str, Tensor]:
    """How far two models' likeliest next tokens agree, each (batch, context), of (batch, context, vocab) logits.

    top1_agreement: is the likeliest token the same one? top5_agreement: share of the k likeliest that are in both.
    """
    a, b = (logits.topk(min(k, logits.shape[-1]), dim=-1).indices for logits in (clean, other))
    return {
        "top1_agreement": (a[..., 0] == b[..., 0]).float(),
        "top5_agreement": (a[..., :, None] == b[..., None, :]).any(dim=-1).float().mean(dim=-1),
    }


def ce_loss_score(clean: float, with_sae: float, with_ablation: float) -> float:
    """(CE ablated - CE with SAE) / (CE ablated - CE clean), "CE recovered": 1 is all of it."""
    return ratio(with_ablation - with_sae, with_ablation - clean)


def kl_div_score(with_sae: float, with_ablation: float) -> float:
    """(KL zero-ablated - KL with SAE) / KL zero-ablated."""
    return ratio(with_ablation - with_sae, with_ablation)
