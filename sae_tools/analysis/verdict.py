"""What the figures of an SAE mean, in a few sentences: each names its figure and, where it is bad, what to change.

The thresholds are conventions, no laws; they stand here, one a line.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean
from typing import Any

STANDS_IN, MOSTLY = 0.98, 0.9
"""CE recovered from which an SAE's output stands in for the activations, and from which it mostly does."""
COLLAPSED = (5.0, 0.5)
"""Fewer latents a token and more dead ones than this: training collapsed."""
CROWDED = 0.5
"""L0 above this part of the activations' width is not sparse."""
DEAD, DENSE, DOUBLE = 0.1, 0.02, 0.01
"""Shares of latents, dead, firing on more than a tenth of the tokens, doubled, from which they are a fault."""
STILL_RISING, FALLEN = 0.01, 0.05
"""Explained variance gained over the last tenth of training, or lost since its best, from which it did not end well."""
CHANCE = 0.05
"""Explained variance by which a trained SAE should be above one whose decoder stayed random."""


def verdict(
    figures: Mapping[str, float],
    d_in: int,
    recipe: Mapping[str, Any],
    curve: list[float],
    baseline: Mapping[str, float] | None = None,
) -> list[str]:
    """Three to five sentences on an SAE, from its `figures` as `evaluate` names them.

    `recipe` is its section of params.yaml, empty where it was not trained here; `curve` the explained variance of its
    training steps; `baseline` the figures of the same recipe with its decoder frozen at random, where there is one.
    """
    if not figures["l0"] > 0:
        return [f"No latent fires on any of the {figures['n_tokens']:,.0f} tokens: this SAE is dead. {_less(recipe)}"]
    sentences = [_stands_in(figures), _sparse(figures, d_in, recipe), _latents(figures, recipe)]
    if curve:
        sentences.append(_ended(figures, recipe, curve))
    if baseline:
        sentences.append(_above_chance(figures, baseline))
    return sentences


def _stands_in(figures: Mapping[str, float]) -> str:
    recovered, ev = figures["ce_loss_score"], figures["explained_variance"]
    found = (
        f"CE recovered {recovered:.3f}, KL {figures['kl_div_with_sae']:.3g} nats, explained variance {ev:.2f}, the "
        f"same likeliest next token {figures['top1_agreement']:.0%} of the time"
    )
    if ev <= 0:
        return (
            f"It rebuilds the activations worse than their mean does: {found}. Likely causes: another site or layer "
            "than it was trained on (off by one?), a missing begin token, a scaling of activations or a threshold that "
            "was lost."
        )
    if recovered >= STANDS_IN:
        return f"It stands in for the activations: {found}."
    if recovered >= MOSTLY:
        return f"It mostly stands in for the activations: {found}."
    return f"It does not stand in for the activations: {found}. Give it more latents, let more fire, or train longer."


def _sparse(figures: Mapping[str, float], d_in: int, recipe: Mapping[str, Any]) -> str:
    l0 = figures["l0"]
    found = f"{l0:.1f} latents a token (L0), half of the tokens have {figures['l0_p50']:.0f} or fewer"
    if l0 < COLLAPSED[0]:
        return f"It is too sparse to tell tokens apart: {found}. {_less(recipe)}"
    if l0 > CROWDED * d_in:
        return f"It is not sparse: {found}, at a width of {d_in:,}. {_more(recipe)}"
    return f"It is sparse: {found}, at a width of {d_in:,}."


def _latents(figures: Mapping[str, float], recipe: Mapping[str, Any]) -> str:
    dead, dense, double = figures["dead_share"], figures["freq_over_10_percent"], figures["duplicate_share"]
    faults = []
    if dead > DEAD:
        faults.append(f"{dead:.1%} never fire ({_revive(recipe)})")
    if dense > DENSE:
        faults.append(f"{dense:.1%} fire on more than a tenth of the tokens, too often to mean one thing")
    if double > DOUBLE:
        faults.append(f"{double:.1%} have a double with nearly the same direction (fewer latents would do)")
    if faults:
        return f"Of its latents {'; '.join(faults)}."
    return f"Its latents are in use: {dead:.1%} dead, {dense:.1%} dense, {double:.1%} doubled."


def _ended(figures: Mapping[str, float], recipe: Mapping[str, Any], curve: list[float]) -> str:
    n = max(1, len(curve) // 20)
    last, before, best = mean(curve[-n:]), mean(curve[-3 * n : -2 * n] or curve[:1]), max(curve)
    if figures["l0"] < COLLAPSED[0] and figures["dead_share"] > COLLAPSED[1]:
        return f"Training collapsed: L0 {figures['l0']:.1f} and {figures['dead_share']:.0%} dead. {_less(recipe)}"
    if best - last > FALLEN:
        return (
            f"Training went past its best: explained variance was {best:.2f} and ended at {last:.2f}; lower lr, or the "
            "sparsity coefficient."
        )
    gained = last - before
    if gained > STILL_RISING:
        return f"Training had not ended: the last tenth still gained {gained:.3f}; raise training_tokens."
    return f"Training ended well: explained variance {last:.2f} in its last steps, no longer moving ({gained:+.3f})."


def _above_chance(figures: Mapping[str, float], baseline: Mapping[str, float]) -> str:
    ours, theirs = figures["explained_variance"], baseline["explained_variance"]
    found = (
        f"with a decoder frozen at random the same recipe has explained variance {theirs:.2f} (here {ours:.2f}) and "
        f"CE recovered {baseline['ce_loss_score']:.3f} (here {figures['ce_loss_score']:.3f})"
    )
    return f"It learned its directions: {found}." if ours - theirs > CHANCE else f"It is hardly above chance: {found}."


def _coefficient(recipe: Mapping[str, Any]) -> str | None:
    return next((name for name in ("l1_coefficient", "l0_coefficient") if name in recipe), None)


def _revive(recipe: Mapping[str, Any]) -> str:
    """The remedy where many latents are dead."""
    if not recipe:
        return "on this text"
    if "k" in recipe:
        return "lower dead_after_tokens, so that they are revived sooner"
    if recipe["architecture"] == "standard":
        return "lower the sparsity coefficient, or set resample_every"
    return "lower the sparsity coefficient"


def _less(recipe: Mapping[str, Any]) -> str:
    """The remedy where too few latents fire."""
    if recipe.get("target_l0"):
        return f"Raise target_l0 = {recipe['target_l0']:g}."
    if (name := _coefficient(recipe)) is not None:
        return f"{name} = {recipe[name]:g} is too high: lower it to a half or less."
    return f"Raise k = {recipe['k']:g}." if "k" in recipe else "Let more latents fire: lower its sparsity penalty."


def _more(recipe: Mapping[str, Any]) -> str:
    """The remedy where too many latents fire."""
    if recipe.get("target_l0"):
        return f"Lower target_l0 = {recipe['target_l0']:g}."
    if (name := _coefficient(recipe)) is not None:
        return f"{name} = {recipe[name]:g} is too low: raise it."
    return f"Lower k = {recipe['k']:g}." if "k" in recipe else "Let fewer latents fire: raise its sparsity penalty."
