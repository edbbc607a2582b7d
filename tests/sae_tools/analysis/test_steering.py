"""x changes by what the feature's edit says, and by nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sae_tools import saes
from sae_tools.analysis.steering import MODES, Mode, steer
from sae_tools.common.errors import SettingError
from tests.conftest import ARCHITECTURES, TinyLM, random_sae

SITE = "blocks.1.hook_resid_post"
MAXIMUM = 2.5


def edit_of(sae: Any, lm: Any, feature: int, mode: Mode, strength: float, x: Tensor) -> Tensor:
    return steer(sae, lm.site(SITE), feature, mode, strength, MAXIMUM).edit(x)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 30, 32, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_adding_nothing_leaves_the_logits_bit_by_bit(tiny_lm: TinyLM, ids: Tensor, architecture: str) -> None:
    lm, sae = tiny_lm("llama"), random_sae(architecture)
    steered = lm.logits(ids, steer(sae, lm.site(SITE), 5, "add", 0.0, MAXIMUM))
    assert torch.equal(steered, lm.logits(ids))


def test_generated_text_is_equal_at_strength_0_and_other_at_5(tiny_lm: TinyLM, ids: Tensor) -> None:
    lm, sae = tiny_lm("llama"), random_sae("topk")
    plain = list(lm.generate(ids[:1, :10], 15, seed=2))
    texts = [
        list(lm.generate(ids[:1, :10], 15, seed=2, patch=steer(sae, lm.site(SITE), 5, "add", strength, MAXIMUM)))
        for strength in (0.0, 50.0)
    ]
    assert texts[0] == plain
    assert texts[1] != plain


@pytest.mark.parametrize("strength", [-2.0, 0.5, 3.0])
def test_add_moves_x_by_strength_times_maximum_along_the_decoder_row(
    tiny_lm: TinyLM, x: Tensor, strength: float
) -> None:
    sae = random_sae("standard")
    new = edit_of(sae, tiny_lm("llama"), 7, "add", strength, x)
    torch.testing.assert_close(new - x, (strength * MAXIMUM * sae.W_dec[7]).expand_as(x), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("architecture", ["standard", "topk"])
@pytest.mark.parametrize("strength", [0.0, 0.5, 2.0])
def test_clamp_holds_the_feature_and_keeps_the_rest(
    tiny_lm: TinyLM, tmp_path: Path, x: Tensor, architecture: str, strength: float
) -> None:
    saes.save(random_sae(architecture), tmp_path)
    sae = saes.load(tmp_path)
    f = sae.encode(x)
    new = edit_of(sae, tiny_lm("llama"), 7, "clamp", strength, x)
    moved = (strength * MAXIMUM - f[..., 7:8]) * sae.W_dec[7]
    torch.testing.assert_close(new - x, moved, rtol=1e-3, atol=1e-5)
    assert (f[..., 7] > 0).any()
    # What the SAE does not explain is as before: x - decode(f) = x' - decode(f').
    g = f.clone()
    g[..., 7] = strength * MAXIMUM
    torch.testing.assert_close(new - sae.decode(g), x - sae.decode(f), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_ablate_is_clamp_to_0_whatever_the_strength(tiny_lm: TinyLM, x: Tensor, architecture: str) -> None:
    sae, lm = random_sae(architecture), tiny_lm("llama")
    ablated = edit_of(sae, lm, 7, "ablate", 3.0, x)
    assert torch.equal(ablated, edit_of(sae, lm, 7, "clamp", 0.0, x))
    fires = sae.encode(x)[..., 7] != 0
    assert fires.any()
    assert torch.equal(ablated[~fires], x[~fires])
    assert not torch.equal(ablated[fires], x[fires])


@pytest.mark.parametrize("feature", [-1, 64, 10**9])
@pytest.mark.parametrize("mode", MODES)
def test_a_feature_out_of_range_is_refused(tiny_lm: TinyLM, mode: Mode, feature: int) -> None:
    with pytest.raises(SettingError, match=f"feature {feature} does not exist; this SAE has features 0 to 63"):
        steer(random_sae("standard"), tiny_lm("llama").site(SITE), feature, mode, 1.0, MAXIMUM)


def test_an_unknown_mode_is_refused(tiny_lm: TinyLM) -> None:
    with pytest.raises(SettingError, match="mode 'multiply' is unknown; use one of: add, clamp, ablate"):
        steer(random_sae("standard"), tiny_lm("llama").site(SITE), 0, "multiply", 1.0, MAXIMUM)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("strength", "maximum"), [(float("nan"), 1.0), (float("inf"), 1.0), (1.0, float("nan")), (1e308, 1e308)]
)
def test_a_strength_that_is_not_finite_is_refused(tiny_lm: TinyLM, strength: float, maximum: float) -> None:
    with pytest.raises(SettingError, match="not a finite number"):
        steer(random_sae("standard"), tiny_lm("llama").site(SITE), 0, "add", strength, maximum)


def test_special_tokens_are_not_steered(tiny_lm: TinyLM, ids: Tensor) -> None:
    lm, sae = tiny_lm("llama"), random_sae("standard")
    patch = steer(sae, lm.site(SITE), 7, "add", 5.0, MAXIMUM)
    changed = (lm.logits(ids, patch) != lm.logits(ids)).any(dim=-1)
    assert not changed[:, 0].any()  # nothing but the begin token is before it
    assert changed[:, 1:].all()
