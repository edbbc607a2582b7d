from __future__ import annotations

import pytest

from sae_tools.common.errors import InputError, SettingError
from sae_tools.models.sites import FAMILIES, KINDS, locate
from tests.conftest import CONFIGS, TinyLM


def test_every_family_is_tested_against_transformer_lens() -> None:
    assert set(CONFIGS) == set(FAMILIES)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_width_is_the_size_of_an_activation(tiny_lm: TinyLM, family: str, kind: str) -> None:
    lm = tiny_lm(family)
    site = lm.site(f"blocks.1.{kind}")
    acts = lm.activations(lm.tokens("a fox"), [site])[site.name]
    assert lm.width(site) == acts.shape[-1]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("blocks.3.hook_resid_post", "layers 0 to 2"),
        ("blocks.-1.hook_resid_post", "layers 0 to 2"),
        ("blocks.0.hook_resid_pots", "hook_resid_post"),
        ("blocks.0.mlp.hook_pre", "mlp.hook_post"),
        ("blocks.0", "blocks.<layer>.<hook>"),
        ("hook_embed", "blocks.<layer>.<hook>"),
        ("", "blocks.<layer>.<hook>"),
        ("blocks.1.5.hook_resid_post", "blocks.<layer>.<hook>"),
        (" blocks.1.hook_resid_post", "blocks.<layer>.<hook>"),
    ],
)
def test_a_site_that_does_not_exist_is_refused_with_the_remedy(name: str, says: str) -> None:
    with pytest.raises(SettingError) as error:
        locate(name, "llama", 3)
    assert repr(name) in str(error.value)
    assert says in str(error.value)


def test_the_stream_between_attention_and_mlp_is_no_site() -> None:
    """No module hands it on: a patch there would reach the MLP alone and not what is added to it."""
    with pytest.raises(SettingError, match="hook_resid_mid"):
        locate("blocks.0.hook_resid_mid", "llama", 3)


def test_an_unknown_family_is_refused_with_the_nearest_known() -> None:
    with pytest.raises(InputError, match="'lama' is not supported; did you mean 'llama'"):
        locate("blocks.0.hook_resid_post", "lama", 3)
