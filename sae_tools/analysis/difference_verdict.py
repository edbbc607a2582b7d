"""What a crosscoder says that finetuning added and took away, in a few sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sae_tools.metrics.crosscoder import HIGH, LEAST_ERROR, LEAST_RECONSTRUCTION, LOW

POOR = 0.7
"""Explained variance of either model below which the crosscoder knows too little to tell them apart."""


def difference_verdict(figures: Mapping[str, Any]) -> list[str]:
    """Two to four sentences, from the figures as `difference` gives them."""
    explained = [figures[f"crosscoder_{model}_explained_variance"] for model in ("base", "finetuned")]
    sentences = [
        f"One dictionary of {figures['d_sae']:,} latents explains {explained[0]:.2f} of the base model's activations "
        f"and {explained[1]:.2f} of the finetuned model's, with {figures['l0']:.0f} latents a token."
    ]
    if min(explained) < POOR:
        sentences.append(
            "That is too little to say what one model lacks; raise transfer.diff.training_tokens, k or d_sae."
        )
    return [*sentences, _exclusive(figures), _leaning(figures)]


def _exclusive(figures: Mapping[str, Any]) -> str:
    classes, genuine = figures["classes"], figures["genuine"]
    found = {"base model": classes["base_only"], "finetuned model": classes["finetuned_only"]}
    if not any(found.values()):
        return (
            f"No latent is of one model alone (relative norm at most {LOW:g} or at least {HIGH:g}); "
            f"{classes['shared']:,} are clearly shared."
        )
    told = (
        f"{n:,} of the {model} ({genuine[key]:,} of them genuine)"
        for (model, n), key in zip(found.items(), genuine, strict=True)
    )
    return f"Latents of one model alone: {', '.join(told)}; {classes['shared']:,} are clearly shared."


def _leaning(figures: Mapping[str, Any]) -> str:
    passing = figures["passes_scaling"]
    bounds = f"nu_eps < {LEAST_ERROR:g}, nu_r < {LEAST_RECONSTRUCTION:g}"
    return (
        f"{passing['finetuned']:,} latents lean to the finetuned model and {passing['base']:,} to the base model so "
        f"far that nothing in the other stands for them (Latent Scaling: {bounds})."
    )
