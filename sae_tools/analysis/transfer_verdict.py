"""Whether an SAE transfers to a finetuned model, why, and what repairs it: a paragraph by stated thresholds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KEPT = (0.9, 0.5)
"""Explained variance in the finetuned model, as a part of that in the base model: from the first on the SAE transfers,
below the second it does not, between them it does in part."""
RECOVERED = (0.95, 0.8)
"""CE recovered in the finetuned model, likewise."""
LITTLE_TO_LOSE = 0.75
"""A model whose own loss is at least this part of its loss with zeros at the site has little to recover."""
REPAIRED = 0.5
"""Part of the gap in explained variance that a repair must close to be named one."""
WAYS = {
    "finetuned": "going on training it",
    "extended": "adding latents and keeping the others as they are",
    "scratch": "training a new one",
}
OWN_TEXT, BASE_TEXT = "finetuned_text", "base_text"
TEXTS = {BASE_TEXT: "the base model's text", OWN_TEXT: "the finetuned model's text"}


def outcome(metrics: Mapping[str, Any]) -> str:
    """transfers, in part, or does not: by the finetuned model's own text where there is one."""
    text = _judged(metrics)
    kept = _kept(metrics)
    grades = [_grade(kept, KEPT)]
    figures = metrics[text]["finetuned"]
    if not has_little_to_lose(figures):
        grades.append(_grade(figures["ce_loss_score"], RECOVERED))
    return ("transfers", "in part", "does not")[max(grades)]


def has_little_to_lose(figures: Mapping[str, float]) -> bool:
    """Whether CE recovered says little: the model's own loss is near that with zeros at the site."""
    return figures["ce_loss_without_sae"] >= LITTLE_TO_LOSE * figures["ce_loss_with_ablation"]


def transfer_verdict(metrics: Mapping[str, Any], adapted: Mapping[str, Any] | None = None) -> list[str]:
    """Three to five sentences, from the figures as `transfer` gives them.

    `adapted`: by way ("finetuned", "extended", "scratch") and text, the figures of the repaired SAE, beside `n_tokens`
    and `extra_latents`.
    """
    sentences = [_outcome(metrics), _loss(metrics), _features(metrics["features"])]
    outliers = _outliers(metrics)
    if outliers:
        sentences.append(outliers)
    if adapted:
        sentences.append(_repair(metrics, adapted))
    return sentences


def _judged(metrics: Mapping[str, Any]) -> str:
    return OWN_TEXT if OWN_TEXT in metrics else BASE_TEXT


def _kept(metrics: Mapping[str, Any]) -> float:
    """Explained variance in the finetuned model as a part of that in the base model on its own text."""
    base = metrics[BASE_TEXT]["base"]["explained_variance"]
    found: float = metrics[_judged(metrics)]["finetuned"]["explained_variance"]
    return found / base if base > 0 else 0.0


def _grade(value: float, bounds: tuple[float, float]) -> int:
    return 0 if value >= bounds[0] else 1 if value >= bounds[1] else 2


def _outcome(metrics: Mapping[str, Any]) -> str:
    text = _judged(metrics)
    base, found = metrics[BASE_TEXT]["base"], metrics[text]["finetuned"]
    words = {
        "transfers": "The SAE transfers to the finetuned model",
        "in part": "The SAE transfers in part to the finetuned model",
        "does not": "The SAE does not transfer to the finetuned model",
    }[outcome(metrics)]
    return (
        f"{words}: on {TEXTS[text]} it explains {found['explained_variance']:.2f} of the variance of its activations, "
        f"against {base['explained_variance']:.2f} in the base model on its own text, with L0 {found['l0']:.1f} "
        f"against {base['l0']:.1f}."
    )


def _loss(metrics: Mapping[str, Any]) -> str:
    parts = []
    for text in (OWN_TEXT, BASE_TEXT):
        if text not in metrics:
            continue
        figures = metrics[text]["finetuned"]
        part = f"{figures['ce_loss_score']:.3f} on {TEXTS[text]}"
        if has_little_to_lose(figures):
            part += (
                f", which says little: the model's own loss there is {figures['ce_loss_without_sae']:.2f} nats against "
                f"{figures['ce_loss_with_ablation']:.2f} with zeros"
            )
        parts.append(part)
    return f"CE recovered in the finetuned model is {'; '.join(parts)}."


def _features(features: Mapping[str, float]) -> str:
    if not features["regular"]:
        return "No feature fires regularly in both models, so that none can be compared."
    return (
        f"Of {features['regular']:,} features that fire regularly in both models, {features['share_above_0.8']:.0%} "
        f"do the same in both (correlation above 0.8; median {features['correlation_median']:.2f}); "
        f"{features['only_in_base']:,} fire in the base model only, {features['only_in_finetuned']:,} in the finetuned "
        "one only."
    )


def _outliers(metrics: Mapping[str, Any]) -> str:
    found = [
        f"on {TEXTS[text]} explained variance in the {which} model is "
        f"{metrics[text][f'{which}_without_outliers']['explained_variance']:.2f} without the "
        f"{metrics[text]['activations'][f'outlier_share_of_text_{which}']:.1%} of tokens that are outliers"
        for text in TEXTS
        for which in ("base", "finetuned")
        if f"{which}_without_outliers" in metrics.get(text, {})
    ]
    return f"Outliers: {'; '.join(found)}." if found else ""


def closed(metrics: Mapping[str, Any], figures: Mapping[str, float]) -> float:
    """Part of the gap in explained variance, base model to finetuned model, that an adapted SAE closes; 1 if none."""
    text = _judged(metrics)
    goal = metrics[BASE_TEXT]["base"]["explained_variance"]
    start = metrics[text]["finetuned"]["explained_variance"]
    return (figures["explained_variance"] - start) / (goal - start) if goal > start else 1.0


def _repair(metrics: Mapping[str, Any], adapted: Mapping[str, Any]) -> str:
    text = _judged(metrics)
    by_way = {way: adapted[way][text] for way in WAYS if way in adapted and text in adapted[way]}
    if not by_way:
        return "No repair was measured on this text."
    shares = {way: closed(metrics, figures) for way, figures in by_way.items()}
    told = "; ".join(
        f"{WAYS[way]} reaches {figures['explained_variance']:.2f} ({shares[way]:.0%} of the gap)"
        for way, figures in by_way.items()
    )
    cost = f"with {adapted['n_tokens']:,} tokens"
    if "extended" in by_way:
        cost += f" and, where they are added, {adapted['extra_latents']:,} more latents"
    if max(shares.values()) >= REPAIRED:
        return f"It can be repaired {cost}: {told}."
    return f"Nothing tried repairs it {cost}: {told}."
