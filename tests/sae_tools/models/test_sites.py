from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sae_tools.common.errors import SettingError
from sae_tools.models import sites
from sae_tools.models.sites import KINDS, MODULE, locate
from tests.conftest import FAMILIES, TinyLM

LLAMA = {"model_type": "llama"}


def test_every_family_is_tested_against_transformer_lens(tiny_lm: TinyLM) -> None:
    tested = {json.loads(Path(tiny_lm(family).name, "config.json").read_text())["model_type"] for family in FAMILIES}
    assert tested == set(sites.FAMILIES)


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
        ("model.layers.1.mlp:inputs", "model.layers.1.mlp"),
        ("model.layers.1.mlp ", "model.layers.1.mlp"),
    ],
)
@pytest.mark.parametrize("modules", [None, {"", "model.layers", "model.layers.1", "model.layers.1.mlp"}])
def test_a_site_that_does_not_exist_is_refused_with_the_remedy(name: str, says: str, modules: Any) -> None:
    with pytest.raises(SettingError) as error:
        locate(name, LLAMA, 3, modules)
    assert repr(name) in str(error.value)
    assert says in str(error.value)


def test_the_stream_between_attention_and_mlp_is_no_site() -> None:
    """No module hands it on: a patch there would reach the MLP alone and not what is added to it."""
    with pytest.raises(SettingError, match="hook_resid_mid"):
        locate("blocks.0.hook_resid_mid", LLAMA, 3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_module_s_path_is_the_hook_that_stands_for_it(tiny_lm: TinyLM, family: str, kind: str) -> None:
    lm = tiny_lm(family)
    hook = lm.site(f"blocks.1.{kind}")
    path = lm.site(f"{hook.path}:{hook.side}")
    assert (path.layer, path.kind, path.path, path.side) == (1, kind, hook.path, hook.side)
    if hook.side == "output":
        assert lm.site(hook.path).side == "output"


def test_any_module_is_a_site(tiny_lm: TinyLM) -> None:
    lm = tiny_lm("llama")
    inner, norm = lm.site("model.layers.2.self_attn.k_proj"), lm.site("model.norm:input")
    assert (inner.layer, inner.kind, inner.is_stream, lm.width(inner)) == (2, MODULE, False, 16)
    assert (norm.layer, norm.kind, lm.width(norm)) == (None, MODULE, 32)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("model.layers.1.self_atn", "model.layers.1.self_attn"),
        ("model.layers.7.mlp", "such as model.layers."),
        ("model", "a LlamaModel gives a BaseModelOutputWithPast"),
        ("model.embed_tokens:input", "holds torch.int64"),
        ("model.layers", "takes no part in a pass over text"),
        ("blocks.1.mlp", "blocks.<layer>.<hook>"),
    ],
)
def test_a_module_that_is_not_there_or_holds_no_activations_is_refused(tiny_lm: TinyLM, name: str, says: str) -> None:
    with pytest.raises(SettingError) as error:
        tiny_lm("llama").site(name)
    assert says in str(error.value)


@pytest.mark.parametrize("config", [{"model_type": "mamba"}, {"model_type": "opt", "do_layer_norm_before": False}])
def test_a_hook_name_in_a_family_without_them_is_refused_with_modules_that_exist(config: dict[str, Any]) -> None:
    modules = {"", "backbone", "backbone.layers", "backbone.layers.0", "backbone.layers.0.mixer"}
    with pytest.raises(SettingError, match=f"of type '{config['model_type']}'; give the path of .*backbone.layers.0,"):
        locate("blocks.0.hook_resid_post", config, 3, modules)
