"""What is said of a crosscoder."""

from __future__ import annotations

from typing import Any

from sae_tools.analysis.difference_verdict import difference_verdict

FIGURES: dict[str, Any] = {
    "d_sae": 2048, "l0": 32.2, "crosscoder_base_explained_variance": 0.82,
    "crosscoder_finetuned_explained_variance": 0.8,
    "classes": {"base_only": 0, "shared": 1115, "finetuned_only": 0, "between": 600},
    "genuine": {"base_only": 0, "finetuned_only": 0}, "passes_scaling": {"base": 58, "finetuned": 113},
}  # fmt: skip


def test_latents_of_one_model_are_counted_and_those_that_are_artifacts_too() -> None:
    said = difference_verdict(FIGURES)
    assert "2,048 latents explains 0.82" in said[0]
    assert "No latent is of one model alone" in said[1]
    assert "113 latents lean to the finetuned model and 58 to the base model" in said[2]
    classes = FIGURES["classes"] | {"finetuned_only": 40, "base_only": 3}
    said = difference_verdict(FIGURES | {"classes": classes, "genuine": {"base_only": 2, "finetuned_only": 31}})
    assert "3 of the base model (2 of them genuine), 40 of the finetuned model (31 of them genuine)" in said[1]


def test_a_poor_crosscoder_is_called_so() -> None:
    said = difference_verdict(FIGURES | {"crosscoder_base_explained_variance": 0.6})
    assert "too little" in said[1]
    assert len(said) == 4
