"""The table of a crosscoder's latents against a brute force over all tokens of two small models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from sae_tools.analysis.difference import Difference, Parts, difference, most_exclusive, summarise
from sae_tools.common.settings import Features
from sae_tools.metrics.crosscoder import relative_norm
from sae_tools.metrics.reconstruction import explained_variance
from sae_tools.models.lm import LanguageModel
from sae_tools.saes import SAE, jump_relu
from tests.conftest import TinyLM

SITE = "blocks.1.hook_resid_post"
SHOWN = Features(n_top=3, n_per_band=0, window=4)
D, D_SAE, DEAD = 32, 24, 7
SCALES = (2.0, 0.5)


def random_jump_relu(d_in: int, seed: int) -> SAE[Any]:
    chance = torch.Generator().manual_seed(seed)
    W_dec = torch.randn(D_SAE, d_in, generator=chance)
    b_enc = torch.randn(D_SAE, generator=chance) - 1
    b_enc[:2] += 3  # these fire for sure
    b_enc[DEAD] = -1e6
    return jump_relu(W_dec.T.clone(), b_enc, W_dec, 0.1 * torch.randn(d_in, generator=chance), 0.2, {})


@pytest.fixture(scope="module")
def models(tiny_lm: TinyLM) -> tuple[LanguageModel, LanguageModel]:
    return tiny_lm("llama", 0), tiny_lm("llama", 1)


@pytest.fixture(scope="module")
def parts() -> Parts:
    joint = random_jump_relu(2 * D, 0)
    with torch.no_grad():
        joint.W_dec[0, :D] = 0
        joint.W_dec[1, D:] = 0
    return Parts(joint, (random_jump_relu(D, 1), random_jump_relu(D, 2)), SCALES)


@pytest.fixture(scope="module")
def found(parts: Parts, models: tuple[LanguageModel, LanguageModel], ids: Tensor) -> Difference:
    return difference(parts, models, models[0].site(SITE), ids, batch_size=2, n_examples=4, shown=SHOWN)


@pytest.fixture(scope="module")
def acts(models: tuple[LanguageModel, LanguageModel], ids: Tensor) -> tuple[Tensor, Tensor]:
    """(tokens, D) activations of both at every token, special ones too."""
    with torch.no_grad():
        hidden = [lm.model(ids, output_hidden_states=True).hidden_states[2].flatten(0, 1) for lm in models]
    return hidden[0], hidden[1]


@pytest.fixture(scope="module")
def text(ids: Tensor) -> Tensor:
    return ((ids != 0) & (ids != 1)).flatten()


def test_densities_and_classes_are_those_of_a_brute_force(
    found: Difference, parts: Parts, acts: tuple[Tensor, Tensor], text: Tensor
) -> None:
    f = parts.joint.encode(torch.cat(acts, dim=1))[text]
    density = (f > 0).float().mean(dim=0).numpy()
    np.testing.assert_allclose(found.latents["density"], density, atol=1e-6)
    np.testing.assert_allclose(found.latents["maximum"], f.amax(dim=0).numpy(), rtol=1e-4)
    assert found.latents.loc[0, "class"] == "finetuned_only"
    assert found.latents.loc[1, "class"] == "base_only"
    base, finetuned = parts.joint.W_dec.chunk(2, dim=1)
    expected = relative_norm(2 * base, 0.5 * finetuned).numpy()
    np.testing.assert_allclose(found.latents["relative_norm"], expected, rtol=1e-5)
    assert found.figures["dead_share"] == pytest.approx((density == 0).mean())
    assert not found.latents.loc[DEAD, "genuine"]
    assert not found.latents.isna().any().any()


def test_explained_variances_are_those_of_each_model(
    found: Difference, parts: Parts, acts: tuple[Tensor, Tensor], text: Tensor
) -> None:
    joint = parts.joint.decode(parts.joint.encode(torch.cat(acts, dim=1))).chunk(2, dim=1)
    for i, model in enumerate(("base", "finetuned")):
        x, own = acts[i][text], parts.halves[i]
        features = own.encode(x)
        expected = {"crosscoder": joint[i][text], "half": own.decode(features)}
        for who, x_hat in expected.items():
            value = found.figures[f"{who}_{model}_explained_variance"]
            assert value == pytest.approx(explained_variance(x, x_hat), rel=1e-4)
        assert found.figures[f"half_{model}_l0"] == pytest.approx(float((features > 0).sum(1).float().mean()), rel=1e-3)


def test_scaling_is_in_units_of_one_size(
    found: Difference, parts: Parts, acts: tuple[Tensor, Tensor], text: Tensor
) -> None:
    """nu_r of a latent of the finetuned model by a general solver."""
    f = parts.joint.encode(torch.cat(acts, dim=1))[text]
    x_hat = parts.joint.decode(f).chunk(2, dim=1)
    regressor = (f[:, :1] * (0.5 * parts.joint.W_dec[0, D:])).reshape(-1, 1)
    beta = [torch.linalg.lstsq(regressor, (SCALES[i] * x_hat[i]).reshape(-1, 1)).solution.item() for i in (0, 1)]
    assert beta[1] > 0
    assert found.latents.loc[0, "nu_r"] == pytest.approx(beta[0] / beta[1], rel=1e-3)


def test_examples_are_of_the_latents_nearest_to_one_model(
    found: Difference, parts: Parts, acts: tuple[Tensor, Tensor], text: Tensor, ids: Tensor
) -> None:
    shown = found.examples["feature"].unique().tolist()
    assert shown == most_exclusive(found.latents, 4).tolist()
    assert {0, 1} <= set(shown)
    f = parts.joint.encode(torch.cat(acts, dim=1)) * text[:, None]
    first = found.examples[found.examples["feature"] == 0].iloc[0]
    at = int(f[:, 0].argmax())
    assert first["activation"] == pytest.approx(float(f[at, 0]), rel=1e-4)
    assert first["ids"][first["position"]] == ids.flatten()[at]


def test_one_model_twice_has_nothing_of_its_own(models: tuple[LanguageModel, LanguageModel], ids: Tensor) -> None:
    half = random_jump_relu(D, 3)
    joint = jump_relu(
        torch.cat([half.W_enc, half.W_enc]) / 2, half.b_enc, half.W_dec.repeat(1, 2), half.b_dec.repeat(2), 0.2, {}
    )
    same = Parts(joint, (half, half), (1.0, 1.0))
    result = difference(same, (models[0], models[0]), models[0].site(SITE), ids, 2, n_examples=2, shown=SHOWN)
    assert result.figures["classes"] == {
        "base_only": 0, "finetuned_only": 0, "between": 0, "shared": int((result.latents["density"] > 0).sum()),
    }  # fmt: skip
    np.testing.assert_allclose(result.latents["decoder_cosine"], 1, rtol=1e-5)
    expected = result.figures["half_base_explained_variance"]
    assert result.figures["crosscoder_finetuned_explained_variance"] == pytest.approx(expected, abs=1e-4)
    live = result.latents[result.latents["density"] > 0]
    own = live[(live["nu_r"] != 1) | (live["nu_eps"] != 1)]
    np.testing.assert_allclose(own["nu_r"], 1, rtol=1e-4)


def test_few_latents_are_each_chosen_once() -> None:
    table = pd.DataFrame(
        {"relative_norm": [0.5, 0.0, 1.0, 0.9], "density": [0.1, 0.1, 0.1, 0.0], "class": ["shared"] * 4,
         "genuine": [False] * 4, "passes_scaling": [True] * 4, "decoder_cosine": [0.5] * 4}
    )  # fmt: skip
    assert most_exclusive(table, 1).tolist() == [1, 2]
    assert most_exclusive(table, 9).tolist() == [0, 1, 2]
    assert most_exclusive(table, 0).tolist() == []
    assert most_exclusive(table.assign(density=0.0), 2).tolist() == []
    assert summarise(table)["passes_scaling"] == {"base": 2, "finetuned": 1}
    assert summarise(table.assign(density=0.0))["dead_share"] == 1
