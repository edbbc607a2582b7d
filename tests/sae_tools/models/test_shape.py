"""Sizes of models that nobody has loaded, held to published ones and to small models that are loaded."""

from __future__ import annotations

import pytest
from transformers import AutoConfig

from sae_tools.common.errors import SettingError
from sae_tools.models.shape import shape_of
from tests.conftest import FAMILIES, TinyLM
from tests.pipeline.published import MODELS

PARAMETERS = {
    "openai-community/gpt2": 124_439_808,
    "EleutherAI/pythia-70m-deduped": 70_426_624,
    "google/gemma-2b": 2_506_172_416,
    "google/gemma-2-2b": 2_614_341_888,
    "meta-llama/Llama-2-7b-chat-hf": 6_738_415_616,
    "mistralai/Mistral-7B-v0.1": 7_241_732_096,
}
"""As the models' makers and Hugging Face's `num_parameters` give them."""
BLOCK = 12 * 768**2 + 13 * 768
"""Parameters of a block of GPT-2 small, by hand."""


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_the_published_ones(name: str) -> None:
    kind = dict(MODELS[name].config)
    config = AutoConfig.for_model(kind.pop("model_type"), **kind)
    assert shape_of(config, "blocks.0.hook_resid_post").parameters == PARAMETERS[name]


def test_gpt2_by_hand() -> None:
    config = AutoConfig.for_model("gpt2")
    assert 12 * BLOCK + (50_257 + 1024) * 768 + 2 * 768 == 124_439_808
    found = shape_of(config, "blocks.5.hook_resid_post")
    assert found.blocks == (BLOCK,) * 12
    assert (found.d_vocab, found.d_model, found.d_in, found.n_blocks) == (50_257, 768, 768, 6)
    assert found.to_site == 2 * 6 * BLOCK
    assert found.to_logits == 2 * (12 * BLOCK + 768 * 50_257)
    assert shape_of(config, "blocks.5.hook_resid_pre").n_blocks == 5
    with pytest.raises(SettingError):
        shape_of(config, "blocks.12.hook_resid_post")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_shape_is_that_of_the_model_when_it_is_loaded(tiny_lm: TinyLM, family: str) -> None:
    lm = tiny_lm(family)
    names = [name for name in ("hook_resid_pre", "hook_mlp_out", "mlp.hook_post", "attn.hook_z") if lm.family]
    for name in names:
        site = lm.site(f"blocks.1.{name}")
        found = shape_of(lm.model.config, site.name)
        assert (found.d_in, found.is_stream) == (lm.width(site), name == "hook_resid_pre")
        assert found.parameters == sum(weight.numel() for weight in lm.model.parameters())
        assert (len(found.blocks), found.d_vocab, found.d_model) == (lm.n_layers, lm.d_vocab, lm.config.hidden_size)
