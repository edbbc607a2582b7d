"""A model of TransformerLens as a GPT-2 is the same model: logits, and activations by the same names."""

from __future__ import annotations

import builtins
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformers import PreTrainedTokenizerFast

from sae_tools.common.errors import InputError
from sae_tools.models import hooked
from sae_tools.models.lm import LanguageModel
from sae_tools.models.sites import KINDS
from tests.conftest import add_noise
from tests.hub import hub
from tests.sae_tools.models.test_remote import load

pytestmark = pytest.mark.filterwarnings("ignore:HookedTransformer is deprecated:DeprecationWarning")

SHAPE: dict[str, Any] = {
    "d_model": 32, "n_layers": 1, "d_mlp": 128, "d_head": 8, "n_heads": 4, "n_ctx": 64, "d_vocab": 400,
    "act_fn": "gelu", "normalization_type": "LN",
}  # fmt: skip
"""gelu-1l's, in small."""


def made(**changes: Any) -> HookedTransformer:
    """A random model, biases and norms too."""
    cfg = HookedTransformerConfig(**(SHAPE | changes), seed=0, device="cpu", original_architecture="neel")
    model = HookedTransformer(cfg)
    add_noise(model)
    return model.eval()


@pytest.mark.parametrize("changes", [{}, {"n_layers": 3, "act_fn": "gelu_new"}, {"normalization_type": "LNPre"}])
def test_it_gives_what_transformer_lens_gives(
    ids: Tensor, tokenizer: PreTrainedTokenizerFast, changes: dict[str, Any]
) -> None:
    theirs = made(**changes)
    config = hooked.as_gpt2_config(theirs.cfg, "made")
    lm = LanguageModel(hooked.as_gpt2(theirs.state_dict(), config), tokenizer)
    logits, cache = theirs.run_with_cache(ids)
    torch.testing.assert_close(lm.logits(ids), logits, rtol=1e-4, atol=1e-5)
    for layer in range(theirs.cfg.n_layers):
        for kind in KINDS:
            site = lm.site(f"blocks.{layer}.{kind}")
            found = lm.activations(ids, [site])[site.name]
            torch.testing.assert_close(found, cache[site.name].flatten(2), rtol=1e-4, atol=1e-5)
    direction = torch.randn(1, 32)
    effect = direction - direction.mean()
    if "ln_final.w" in theirs.state_dict():
        effect = effect * theirs.ln_final.w
    site = lm.site("blocks.0.hook_resid_post")
    torch.testing.assert_close(lm.logit_effects(site, direction), effect @ theirs.W_U, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"attn_only": True}, "attn_only True"),
        ({"positional_embedding_type": "rotary", "rotary_dim": 8}, "positional_embedding_type 'rotary'"),
        ({"positional_embedding_type": "shortformer"}, "positional_embedding_type 'shortformer'"),
        ({"parallel_attn_mlp": True}, "parallel_attn_mlp True"),
        ({"normalization_type": "RMS"}, "normalization_type 'RMS'"),
        ({"normalization_type": None}, "normalization_type None"),
        ({"act_fn": "solu_ln"}, "act_fn 'solu_ln'"),
        ({"gated_mlp": True}, "gated_mlp True"),
        ({"d_head": 16}, "d_head 16"),
        ({"attention_dir": "bidirectional"}, "attention_dir 'bidirectional'"),
    ],
)
def test_what_the_layout_cannot_express_is_refused(changes: dict[str, Any], says: str) -> None:
    cfg = HookedTransformerConfig(**(SHAPE | changes), device="cpu")
    with pytest.raises(InputError, match=f"'made' has {says}, which GPT-2's layout cannot express: only a model with"):
        hooked.as_gpt2_config(cfg, "made")


class Bomb:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("hacked"),)


def publish(folder: Path, state: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    """As gelu-1l is on the Hub."""
    (folder / "NeelNanda/GELU_1L512W_C4_Code").mkdir(parents=True)
    config = {**SHAPE, "attn_only": False, "tokenizer_name": "NeelNanda/words", "normalization": "LN"}
    (folder / "NeelNanda/GELU_1L512W_C4_Code/config.json").write_text(json.dumps(config))
    path = folder / "NeelNanda/GELU_1L512W_C4_Code/model_final.pth"
    torch.save(state, path) if isinstance(state, dict) else path.write_bytes(pickle.dumps(state))
    tokenizer.save_pretrained(folder / "NeelNanda/words")


def test_by_its_name_it_comes_from_the_hub_and_a_pickle_runs_nothing(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    theirs = made()
    publish(tmp_path / "good", theirs.state_dict(), tokenizer)
    publish(tmp_path / "evil", Bomb(), tokenizer)
    name = "transformer-lens:gelu-1l"
    with hub(tmp_path / "good") as endpoint:
        good, unknown, its_own, absent = load(
            endpoint, tmp_path / "home", (name, None), ("transformer-lens:nonsense", None),
            ("transformer-lens:gpt2-small", None), ("transformer-lens:gelu-2l", None),
        )  # fmt: skip
    ids = torch.tensor([[0, *tokenizer("a fox", add_special_tokens=False)["input_ids"]]])
    assert isinstance(good[0], list), good[0]
    assert good[0][0] == pytest.approx(float(theirs(ids).detach().sum()), abs=1e-2)
    assert "TransformerLens knows no model 'nonsense'" in unknown[0]
    assert "is on the Hub as it is; give 'gpt2' in its place" in its_own[0]
    assert "neither a folder here nor a model on the Hub" in absent[0]
    with hub(tmp_path / "evil") as endpoint:
        ((said, _),) = load(endpoint, tmp_path / "other", (name, None))
    assert "model_final.pth holds more than tensors" in said
    assert not list(Path().glob("hacked"))


def test_without_transformer_lens_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *more: Any) -> Any:
        if name.startswith("transformer_lens"):
            raise ImportError(name)
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match="'transformer-lens:gelu-1l' needs TransformerLens; install it with pip"):
        LanguageModel.load("transformer-lens:gelu-1l", device="cpu")
