"""x changes by what the pushes say, and by nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sae_tools import saes
from sae_tools.analysis.norms import median_norm
from sae_tools.analysis.steering import MODES, Mode, Push, directions, steer, steer_by_vector
from sae_tools.common.errors import InputError, SettingError
from sae_tools.models.lm import LanguageModel
from tests.conftest import ARCHITECTURES, TinyLM, random_sae

SITE = "blocks.1.hook_resid_post"
UNIT = 2.5
NORMALISATIONS = ("none", "layer_norm", "constant_norm_rescale")


@pytest.fixture
def lm(tiny_lm: TinyLM) -> LanguageModel:
    return tiny_lm("llama")


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 30, 32, generator=torch.Generator().manual_seed(4))


def edited(sae: Any, lm: LanguageModel, x: Tensor, *pushes: Push) -> Tensor:
    return steer(sae, lm.site(SITE), pushes, UNIT).edit(x)


def contribution(sae: Any, x: Tensor, feature: int) -> Tensor:
    """What a latent gives to decode(encode(x)), by leaving it out."""
    whole = sae.decode(sae.encode(x))
    f = sae.encode(x)
    f[..., feature] = 0
    found: Tensor = whole - sae.decode(f)
    return found.detach()


def unit_row(sae: Any, feature: int) -> Tensor:
    row: Tensor = sae.W_dec[feature].detach()
    return row / row.norm()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_adding_nothing_leaves_the_logits_bit_by_bit(lm: LanguageModel, ids: Tensor, architecture: str) -> None:
    for pushes in ([Push(5, "add", 0.0)], []):
        steered = lm.logits(ids, steer(random_sae(architecture), lm.site(SITE), pushes, UNIT))
        assert torch.equal(steered, lm.logits(ids))


def test_generated_text_is_equal_at_strength_0_and_other_at_5(lm: LanguageModel, ids: Tensor) -> None:
    sae = random_sae("topk")
    plain = list(lm.generate(ids[:1, :10], 15, seed=2))
    texts = [
        list(lm.generate(ids[:1, :10], 15, seed=2, patch=steer(sae, lm.site(SITE), [Push(5, "add", strength)], UNIT)))
        for strength in (0.0, 5.0)
    ]
    assert texts[0] == plain
    assert texts[1] != plain


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_add_moves_x_by_strength_norms_along_the_latent(
    lm: LanguageModel, x: Tensor, architecture: str, normalisation: str
) -> None:
    sae = random_sae(architecture, normalize_activations=normalisation)
    for strength in (-2.0, 0.5):
        moved = edited(sae, lm, x, Push(7, "add", strength)) - x
        torch.testing.assert_close(moved, (strength * UNIT * unit_row(sae, 7)).expand_as(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_add_is_the_change_of_the_latent_by_strength_norms_over_the_length_of_what_it_decodes_to(
    lm: LanguageModel, x: Tensor, architecture: str
) -> None:
    sae = random_sae(architecture)
    one = saes.decoded(sae, torch.tensor([7])) - sae.b_dec
    by_hand = saes.edited(sae, x, lambda f: f + torch.eye(64)[7] * 0.4 * UNIT / one.norm())
    torch.testing.assert_close(edited(sae, lm, x, Push(7, "add", 0.4)), by_hand, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("strength", [0.0, 0.5])
def test_clamp_holds_what_the_latent_gives_and_keeps_the_rest(
    lm: LanguageModel, x: Tensor, architecture: str, normalisation: str, strength: float
) -> None:
    sae = random_sae(architecture, normalize_activations=normalisation)
    own = contribution(sae, x, 7)
    assert own.any()
    expected = x - own + strength * UNIT * unit_row(sae, 7)
    torch.testing.assert_close(edited(sae, lm, x, Push(7, "clamp", strength)), expected, rtol=1e-3, atol=1e-4)


def test_clamp_sets_the_latent_s_value(lm: LanguageModel, tmp_path: Path, x: Tensor) -> None:
    saes.save(random_sae("standard"), tmp_path)
    sae = saes.load(tmp_path)
    new = edited(sae, lm, x, Push(7, "clamp", 0.5))
    g = sae.encode(x)
    g[..., 7] = 0.5 * UNIT / sae.W_dec[7].norm()
    # What the SAE does not explain is as before: x - decode(f) = x' - decode(f').
    torch.testing.assert_close(new - sae.decode(g), x - sae.decode(sae.encode(x)), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_ablate_is_clamp_to_0_whatever_the_strength(lm: LanguageModel, x: Tensor, architecture: str) -> None:
    sae = random_sae(architecture)
    ablated = edited(sae, lm, x, Push(7, "ablate", 3.0))
    assert torch.equal(ablated, edited(sae, lm, x, Push(7, "clamp", 0.0)))
    fires = sae.encode(x)[..., 7] != 0
    assert fires.any()
    assert torch.equal(ablated[~fires], x[~fires])
    assert not torch.equal(ablated[fires], x[fires])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_several_pushes_are_the_sum_of_each_alone(lm: LanguageModel, x: Tensor, architecture: str) -> None:
    sae = random_sae(architecture)
    pushes = [Push(3, "add", 0.4), Push(7, "clamp", 1.0), Push(11, "ablate", 0.0), Push(40, "add", -0.2)]
    alone = torch.stack([edited(sae, lm, x, push) - x for push in pushes])
    assert all(moved.any() for moved in alone)
    torch.testing.assert_close(edited(sae, lm, x, *pushes) - x, alone.sum(dim=0), rtol=1e-3, atol=1e-4)


def test_a_latent_without_a_direction_moves_nothing(lm: LanguageModel, x: Tensor) -> None:
    sae = random_sae("standard")
    with torch.no_grad():
        sae.W_dec[7] = 0
    assert torch.equal(edited(sae, lm, x, Push(7, "add", 1.0)), x)
    assert directions(sae, [7, 8]).norm(dim=-1).tolist() == pytest.approx([0, 1])


@pytest.mark.parametrize("feature", [-1, 64, 10**9])
@pytest.mark.parametrize("mode", MODES)
def test_a_feature_out_of_range_is_refused(lm: LanguageModel, mode: Mode, feature: int) -> None:
    with pytest.raises(SettingError, match=f"feature {feature} does not exist; this SAE has features 0 to 63"):
        steer(random_sae("standard"), lm.site(SITE), [Push(0, "add", 1.0), Push(feature, mode, 1.0)], UNIT)


@pytest.mark.parametrize(
    ("pushes", "unit", "problem"),
    [
        ([Push(0, "multiply", 1.0)], 1.0, "mode 'multiply' is unknown; use one of: add, clamp, ablate"),  # type: ignore[arg-type]
        ([Push(3, "add", 1.0), Push(3, "ablate", 1.0)], 1.0, "feature 3 is pushed twice"),
        ([Push(0, "add", float("nan"))], 1.0, "strength nan x median norm 1.0 is not a finite number"),
        ([Push(0, "clamp", float("inf"))], 0.0, "not a finite number"),
        ([Push(0, "add", 1.0)], float("nan"), "not a finite number"),
        ([Push(0, "add", 1e30)], 1e30, "not a finite number"),
    ],
)
def test_what_cannot_be_done_is_refused(lm: LanguageModel, pushes: list[Push], unit: float, problem: str) -> None:
    with pytest.raises(SettingError, match=problem):
        steer(random_sae("standard"), lm.site(SITE), pushes, unit)


# --- vectors ---------------------------------------------------------------------------------------------------------


def test_a_vector_is_added_as_it_is(lm: LanguageModel, x: Tensor) -> None:
    vector = torch.linspace(-1, 1, 32)
    assert torch.equal(steer_by_vector(lm.site(SITE), vector).edit(x), x + vector)


def test_a_latent_s_direction_as_a_vector_is_a_push_of_it(lm: LanguageModel, ids: Tensor) -> None:
    sae = random_sae("topk")
    pushed = lm.logits(ids, steer(sae, lm.site(SITE), [Push(7, "add", 0.4)], UNIT))
    added = lm.logits(ids, steer_by_vector(lm.site(SITE), 0.4 * UNIT * unit_row(sae, 7)))
    torch.testing.assert_close(pushed, added)


@pytest.mark.parametrize("vector", [torch.tensor([1.0, float("nan")]), torch.ones(1, 32), torch.tensor(1.0)])
def test_what_is_no_vector_is_refused(lm: LanguageModel, vector: Tensor) -> None:
    with pytest.raises(SettingError, match="cannot be steered by; give one row of finite numbers"):
        steer_by_vector(lm.site(SITE), vector)


@pytest.mark.parametrize("width", [1, 33])
def test_a_vector_of_another_width_is_refused(lm: LanguageModel, ids: Tensor, width: int) -> None:
    with pytest.raises(SettingError, match=f"has {width} numbers, but activations at {SITE} have 32"):
        lm.logits(ids, steer_by_vector(lm.site(SITE), torch.ones(width)))


# --- where -----------------------------------------------------------------------------------------------------------


def test_special_tokens_are_not_steered(lm: LanguageModel, ids: Tensor) -> None:
    patch = steer(random_sae("standard"), lm.site(SITE), [Push(7, "add", 5.0)], UNIT)
    changed = (lm.logits(ids, patch) != lm.logits(ids)).any(dim=-1)
    assert not changed[:, 0].any()  # nothing but the begin token is before it
    assert changed[:, 1:].all()


@pytest.mark.parametrize("by_vector", [False, True])
def test_new_tokens_only_leaves_the_prompt_but_for_its_last_token(
    lm: LanguageModel, ids: Tensor, by_vector: bool
) -> None:
    site = lm.site(SITE)
    patch = (
        steer_by_vector(site, torch.ones(32), new_tokens_only=True)
        if by_vector
        else steer(random_sae("standard"), site, [Push(7, "add", 5.0)], UNIT, new_tokens_only=True)
    )
    clean, steered = lm.logits(ids), lm.logits(ids, patch)
    assert torch.equal(steered[:, :-1], clean[:, :-1])
    assert (steered[:, -1] != clean[:, -1]).any(dim=-1).all()


def test_the_median_norm_is_over_text_tokens(lm: LanguageModel, ids: Tensor) -> None:
    hidden = lm.model(ids, output_hidden_states=True).hidden_states[2]  # after block 1
    norms = sorted(float(hidden[i, j].norm()) for i in range(3) for j in range(40) if int(ids[i, j]) > 1)
    assert len(norms) == 3 * 39 - 1
    for batch_size in (1, 16):
        # torch takes the lower of the two in the middle.
        assert median_norm(lm, lm.site(SITE), ids, batch_size) == pytest.approx(norms[len(norms) // 2 - 1])
    with pytest.raises(InputError, match="holds no token"):
        median_norm(lm, lm.site(SITE), ids[:, :1])
