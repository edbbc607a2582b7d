"""What an SAE's weights say of its latents, each against the SAE's own decode and encode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sae_tools import saes
from sae_tools.analysis import latents
from tests.conftest import ARCHITECTURES, random_sae


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_round_trip_is_that_of_each_one_hot_latent(
    architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latents, "BLOCK", 10)
    saes.save(random_sae(architecture), tmp_path)
    check_round_trip(saes.load(tmp_path))


@pytest.mark.parametrize("architecture", ["standard", "topk", "abstopk", "jumprelu"])
def test_the_round_trip_of_an_sae_in_memory_whose_decoder_norms_are_not_1(architecture: str) -> None:
    check_round_trip(random_sae(architecture))


def check_round_trip(sae: Any) -> None:
    found = latents.round_trip(sae)
    for i in range(0, 64, 3):
        one = torch.zeros(1, 64)
        one[0, i] = 1
        with torch.no_grad():
            back = sae.encode(sae.decode(one))[0]
        if back[i] == 0:
            assert all(values[i] == 0 for values in found.values())
            continue
        assert found["round_trip_max"][i] == pytest.approx(float(back[i] / back.abs().max()), rel=1e-4)
        assert found["round_trip_mean"][i] == pytest.approx(float(back[i] / back.abs().mean()), rel=1e-4)
        assert found["round_trip_square"][i] == pytest.approx(float(back[i] ** 2 / (back**2).mean()), rel=1e-4)


def test_tied_orthogonal_latents_come_back_alone() -> None:
    sae = saes.build("standard", 16, 16, {}, {}, 0, "cpu").eval()
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(16))
        sae.W_dec.copy_(torch.eye(16))
    table = latents.describe_weights(sae)
    assert (table["round_trip_max"] == 1).all()
    assert (table["round_trip_mean"] == 16).all()
    assert (table["round_trip_square"] == 16).all()
    assert (table["encoder_decoder_cosine_sim"] == 1).all()
    assert (table["max_decoder_cosine_sim"] == 0).all()


@pytest.mark.parametrize("normalisation", ["layer_norm", "constant_norm_rescale"])
def test_an_sae_that_normalises_its_input_is_described_too(normalisation: str) -> None:
    table = latents.describe_weights(random_sae("standard", normalize_activations=normalisation))
    assert len(table) == 64
    assert not table.isna().any().any()
