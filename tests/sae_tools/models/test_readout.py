"""What a family without a row in `sites` can do: its modules are sites, and the way to the logits is measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Glm4Config,
    GraniteConfig,
    MambaConfig,
    MptConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
    StableLmConfig,
)

from sae_tools.common.errors import InputError, SettingError
from sae_tools.models.lm import LanguageModel, Patch
from sae_tools.models.replay import Replay
from tests.conftest import add_noise

_SHAPE: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
_LLAMA: dict[str, Any] = {**_SHAPE, "intermediate_size": 48, "num_key_value_heads": 2}
CONFIGS: dict[str, Callable[..., Any]] = {
    "bloom": lambda **shared: BloomConfig(hidden_size=32, n_layer=3, n_head=4, **shared),
    # What blocks add is scaled, and so are the logits.
    "granite": lambda **shared: GraniteConfig(**_LLAMA, residual_multiplier=0.4, logits_scaling=3.0, **shared),
    "mpt": lambda **shared: MptConfig(d_model=32, n_heads=4, n_layers=3, **shared),
    "stablelm": lambda **shared: StableLmConfig(**_LLAMA, **shared),
    "glm4": lambda **shared: Glm4Config(**_LLAMA, head_dim=8, **shared),  # norms after the sublayers
    "opt-350m": lambda **shared: OPTConfig(
        **_SHAPE, ffn_dim=48, word_embed_proj_dim=16, do_layer_norm_before=False, **shared
    ),
}
BLOCKS = {"bloom": "transformer.h", "mpt": "transformer.blocks", "opt-350m": "model.decoder.layers"}
MLP = {"mpt": "ffn", "opt-350m": "fc2"}
DOWN = {"bloom": "mlp.dense_4h_to_h", "mpt": "ffn.down_proj", "opt-350m": "fc2"}
NORM = {"bloom": "transformer.ln_f", "mpt": "transformer.norm_f"}


@pytest.fixture(scope="module")
def lm_of(
    tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], LanguageModel]:
    made: dict[str, LanguageModel] = {}

    def make(name: str) -> LanguageModel:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            save(name, folder, tokenizer)
            made[name] = LanguageModel.load(str(folder), device="cpu")
        return made[name]

    return make


def save(name: str, folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    config = CONFIGS[name](vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=1, pad_token_id=None)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        add_noise(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def block(name: str, layer: int) -> str:
    return f"{BLOCKS.get(name, 'model.layers')}.{layer}"


@pytest.mark.parametrize("name", CONFIGS)
def test_a_block_is_a_site(lm_of: Any, ids: Tensor, name: str) -> None:
    lm = lm_of(name)
    assert lm.family is None
    given: list[Tensor] = []
    after = lm.model.get_submodule(block(name, 2))
    handle = after.register_forward_pre_hook(
        lambda _, args, kwargs: given.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    lm.model(ids)
    handle.remove()
    site = lm.site(block(name, 1))
    assert (site.layer, site.is_stream, lm.width(site)) == (1, False, 32)
    assert torch.equal(lm.activations(ids, [site])[site.name], given[0])
    patch = Patch(site, torch.relu, everywhere=True)
    replay = Replay(lm, site, ids)
    assert torch.equal(replay.logits, lm.logits(ids))
    torch.testing.assert_close(replay.logits_with(patch), lm.logits(ids, patch))
    assert not torch.allclose(lm.logits(ids, patch), lm.logits(ids), atol=1e-2)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_hook_name_is_refused_with_modules_that_exist(lm_of: Any, name: str) -> None:
    with pytest.raises(SettingError, match=f"TransformerLens hook name, .*such as .*{block(name, 1)}"):
        lm_of(name).site("blocks.1.hook_resid_post")


SITES = [
    *((name, f"{block(name, 1)}{side}") for name in CONFIGS if name != "opt-350m" for side in ("", ":input")),
    *((name, f"{block(name, 1)}.{MLP.get(name, 'mlp')}") for name in ("bloom", "granite", "mpt", "stablelm")
      if name != "bloom"),
    *((name, f"{block(name, 1)}.{DOWN.get(name, 'mlp.down_proj')}:input") for name in ("granite", "mpt", "stablelm")),
    *((name, f"{block(name, 1)}.self_attn.o_proj:input") for name in ("granite", "stablelm")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "path"), SITES)
def test_logit_effects_are_found_where_the_way_is_straight(lm_of: Any, name: str, path: str) -> None:
    lm = lm_of(name)
    site = lm.site(path)
    assert lm.no_logit_effects(site) == ""
    directions = torch.randn(4, lm.width(site), generator=torch.Generator().manual_seed(0))
    x = directions
    module = lm.model.get_submodule(site.path)
    if isinstance(module, nn.Linear):
        x = x @ module.weight.T
    norm = lm.model.get_submodule(NORM.get(name, "model.norm"))
    if isinstance(norm, nn.LayerNorm):
        x = x - x.mean(dim=-1, keepdim=True)
    torch.testing.assert_close(
        lm.logit_effects(site, directions), (x * norm.weight) @ lm.unembedding.T, rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize(
    ("name", "path", "says"),
    [
        ("granite", "model.layers.1.self_attn.q_proj", "not added to the residual stream"),
        ("granite", "model.layers.1.input_layernorm", "not added to the residual stream"),
        ("granite", "model.layers.1.mlp.up_proj:input", "not added to the residual stream"),
        ("glm4", "model.layers.1.mlp", "not added to the residual stream"),  # a norm follows
        ("granite", "model.embed_tokens", "lies in no block"),
        ("opt-350m", "model.decoder.layers.1", "no norm stands between"),
    ],
)
def test_elsewhere_they_are_refused(lm_of: Any, name: str, path: str, says: str) -> None:
    lm = lm_of(name)
    site = lm.site(path)
    with pytest.raises(InputError, match=f"direct effect of '{path}' on the logits is not known: .*{says}"):
        lm.logit_effects(site, torch.ones(1, lm.width(site)))
    assert says in lm.no_logit_effects(site)


def test_a_model_without_attention_is_refused(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    config = MambaConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, state_size=4)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="of type 'mamba', which has no attention"):
        LanguageModel.load(str(tmp_path), device="cpu")
