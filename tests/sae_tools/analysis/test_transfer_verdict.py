"""What the verdict on a transfer says, threshold by threshold."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from sae_tools.analysis.transfer_verdict import closed, outcome, transfer_verdict


def model(ev: float, ce: float, clean: float = 2.0, ablated: float = 8.0, l0: float = 40.0) -> dict[str, float]:
    return {
        "explained_variance": ev, "ce_loss_score": ce, "l0": l0, "ce_loss_without_sae": clean,
        "ce_loss_with_ablation": ablated,
    }  # fmt: skip


def study(ev: float, ce: float, **more: float) -> dict[str, Any]:
    features = {
        "regular": 1000, "only_in_base": 30, "only_in_finetuned": 4, "share_above_0.8": 0.42, "correlation_median": 0.7
    }  # fmt: skip
    return {
        "base_text": {"base": model(0.8, 0.98), "finetuned": model(0.4, 1.01, 6.4, 8.3), "activations": {}},
        "finetuned_text": {"base": model(0.6, 0.9), "finetuned": model(ev, ce, **more), "activations": {}},
        "features": features,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("ev", "ce", "expected"),
    [
        (0.721, 0.95, "transfers"), (0.719, 0.95, "in part"), (0.721, 0.949, "in part"), (0.401, 0.8, "in part"),
        (0.399, 0.99, "does not"), (0.79, 0.79, "does not"), (-10.3, 0.2, "does not"),
    ],
)  # fmt: skip
def test_the_worse_of_both_figures_decides(ev: float, ce: float, expected: str) -> None:
    metrics = study(ev, ce)
    assert outcome(metrics) == expected
    words = {"transfers": "The SAE transfers to", "in part": "transfers in part", "does not": "does not transfer"}
    first = transfer_verdict(metrics)[0]
    assert words[expected] in first
    assert f"explains {ev:.2f}" in first
    assert "against 0.80" in first


def test_a_high_score_is_not_called_good_where_there_is_little_to_lose() -> None:
    """The finetuned model on stories: its own loss is 6.4 against 8.3 with zeros."""
    metrics = study(0.75, 0.5, clean=6.4, ablated=8.3)
    assert outcome(metrics) == "transfers"  # by explained variance alone
    loss = transfer_verdict(metrics)[1]
    assert loss.count("says little") == 2
    assert "6.40 nats against 8.30" in loss
    assert transfer_verdict(study(0.75, 0.97))[1].count("says little") == 1


def test_without_a_text_of_its_own_the_base_model_s_text_decides() -> None:
    metrics = study(0.1, 0.1)
    del metrics["finetuned_text"]
    assert outcome(metrics) == "in part"
    assert "the base model's text" in transfer_verdict(metrics)[0]


def test_what_repairs_it_is_named_with_its_cost() -> None:
    metrics = study(0.4, 0.9)
    adapted: dict[str, Any] = {"n_tokens": 300_000, "extra_latents": 1024}
    adapted |= {way: {"finetuned_text": model(ev, 0.97)} for way, ev in (("finetuned", 0.7), ("extended", 0.55))}
    assert closed(metrics, adapted["finetuned"]["finetuned_text"]) == pytest.approx(0.75)
    last = transfer_verdict(metrics, adapted)[-1]
    assert last.startswith("It can be repaired with 300,000 tokens")
    assert "0.70 (75% of the gap)" in last
    assert "1,024 more latents" in last
    adapted["finetuned"] = adapted["extended"]
    assert transfer_verdict(metrics, adapted)[-1].startswith("Nothing tried repairs it")


def test_outliers_are_told_of_where_text_has_any() -> None:
    metrics = study(-10.0, 0.2)
    assert not any("Outliers" in sentence for sentence in transfer_verdict(metrics))
    metrics = copy.deepcopy(metrics)
    metrics["finetuned_text"]["finetuned_without_outliers"] = model(0.61, 0.9)
    metrics["finetuned_text"]["activations"] = {"outlier_share_of_text_finetuned": 0.0069}
    assert any("0.61 without the 0.7% of tokens that are outliers" in said for said in transfer_verdict(metrics))


def test_no_feature_to_compare_is_a_sentence() -> None:
    metrics = study(0.7, 0.9)
    metrics["features"]["regular"] = 0
    assert any("No feature fires regularly" in sentence for sentence in transfer_verdict(metrics))
