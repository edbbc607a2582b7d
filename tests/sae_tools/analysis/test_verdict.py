"""The verdict says what the figures say, names them, and points the right way."""

from __future__ import annotations

from typing import Any

import pytest

from sae_tools.analysis.verdict import verdict

GOOD: dict[str, float] = {
    "ce_loss_score": 0.991, "kl_div_with_sae": 0.07, "explained_variance": 0.92, "top1_agreement": 0.9, "l0": 40.0,
    "l0_p50": 40.0, "dead_share": 0.005, "freq_over_10_percent": 0.01, "duplicate_share": 0.001, "n_tokens": 64_000,
}  # fmt: skip
TOPK = {"architecture": "topk", "k": 40, "lr": 0.001}
JUMPRELU = {"architecture": "jumprelu", "l0_coefficient": 5.0, "lr": 0.001}
LEVEL = [0.1, 0.8, 0.9, 0.92, 0.92, 0.92, 0.92, 0.92, 0.92, 0.92]


def say(recipe: dict[str, Any] = TOPK, curve: list[float] = LEVEL, **changed: float) -> list[str]:
    return verdict(GOOD | changed, 256, recipe, curve)


def test_a_good_sae_is_called_good_in_four_sentences_that_name_their_figures() -> None:
    sentences = say()
    assert len(sentences) == 4
    for part, sentence in zip(("stands in for", "is sparse", "in use", "ended well"), sentences, strict=True):
        assert part in sentence
        assert any(character.isdigit() for character in sentence)
        assert sentence.endswith(".")
    assert "CE recovered 0.991, KL 0.07 nats, explained variance 0.92" in sentences[0]


def test_a_collapsed_run_is_told_that_its_coefficient_is_too_high() -> None:
    """As one was: 68% dead, L0 1.4, CE recovered 0.75."""
    sentences = say(JUMPRELU, l0=1.4, l0_p50=1, dead_share=0.68, ce_loss_score=0.75, explained_variance=0.4)
    text = " ".join(sentences)
    assert "does not stand in" in text
    assert "too sparse" in text
    assert "68.0% never fire" in text
    assert "Training collapsed: L0 1.4 and 68% dead" in text
    assert "l0_coefficient = 5 is too high: lower it" in text
    assert "too low" not in text


@pytest.mark.parametrize(
    ("recipe", "l0", "remedy"),
    [
        (TOPK, 3.0, "Raise k = 40."),
        (TOPK, 200.0, "Lower k = 40."),
        ({"l1_coefficient": 2.5}, 3.0, "l1_coefficient = 2.5 is too high"),
        ({"l1_coefficient": 2.5, "target_l0": 3.0}, 3.0, "Raise target_l0 = 3."),
        ({"l1_coefficient": 2.5, "target_l0": 200.0}, 200.0, "Lower target_l0 = 200."),
        ({"l1_coefficient": 2.5}, 200.0, "l1_coefficient = 2.5 is too low: raise it."),
        ({}, 200.0, "Let fewer latents fire"),
    ],
)
def test_the_remedy_points_the_right_way(recipe: dict[str, Any], l0: float, remedy: str) -> None:
    assert remedy in say(recipe, l0=l0)[1]


def test_an_sae_worse_than_the_mean_is_loud_about_the_likely_causes() -> None:
    (first, *_) = say({}, [], explained_variance=-0.3, ce_loss_score=0.99)
    assert first.startswith("It rebuilds the activations worse than their mean does")
    for cause in ("layer", "begin token", "scaling", "threshold"):
        assert cause in first


def test_an_sae_without_a_firing_latent_gets_one_sentence() -> None:
    (only,) = say(JUMPRELU, l0=0.0, dead_share=1.0)
    assert "No latent fires on any of the 64,000 tokens" in only
    assert "l0_coefficient = 5 is too high" in only


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"dead_share": 0.2}, "20.0% never fire"),
        ({"freq_over_10_percent": 0.05}, "5.0% fire on more than a tenth"),
        ({"duplicate_share": 0.03}, "3.0% have a double"),
    ],
)
def test_latents_at_fault_are_counted(changed: dict[str, float], words: str) -> None:
    assert words in say(**changed)[2]
    assert words not in say()[2]


def test_how_training_ended() -> None:
    rising = [i / 20 for i in range(20)]
    assert "had not ended" in say(curve=rising)[3]
    assert "raise training_tokens" in say(curve=rising)[3]
    assert "past its best: explained variance was 0.92 and ended at 0.50" in say(curve=[*LEVEL, 0.5, 0.5, 0.5])[3]
    assert len(say(curve=[])) == 3


def test_what_chance_gives_is_compared() -> None:
    baseline = {"explained_variance": 0.5, "ce_loss_score": 0.8}
    assert "learned its directions" in verdict(GOOD, 256, TOPK, LEVEL, baseline)[-1]
    assert "hardly above chance" in verdict(GOOD, 256, TOPK, LEVEL, GOOD)[-1]
