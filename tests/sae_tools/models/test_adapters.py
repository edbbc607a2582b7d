"""A LoRA adapter added to its base is the dense sum, and is refused where it is none of the base."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from pipeline import identity
from sae_tools.common.errors import InputError
from sae_tools.models.lm import LanguageModel
from sae_tools.models.pair import check_pair
from sae_tools.models.sources import check_model
from tests.conftest import save_tiny

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft reads it

RANK, ALPHA = 3, 7
TARGETS = ["q_proj", "down_proj"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    folder = tmp_path_factory.mktemp("base")
    save_tiny("llama", folder, tokenizer)
    return folder


def make(base: Path, folder: Path, **options: Any) -> Path:
    """A LoRA adapter of random weights, as peft saves it."""
    model = AutoModelForCausalLM.from_pretrained(base)
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS, task_type="CAUSAL_LM", **options)
    adapter = get_peft_model(model, config)
    chance = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in adapter.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=chance) * 0.3)
    adapter.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(base, tmp_path_factory.mktemp("adapter"))


def test_it_is_the_dense_sum(base: Path, adapter: Path, ids: Tensor) -> None:
    found = LanguageModel.load(str(adapter), device="cpu")
    dense = AutoModelForCausalLM.from_pretrained(base).eval()
    parts = load_file(adapter / "adapter_model.safetensors")
    changed = 0
    for name, weight in dense.named_parameters():
        at = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{at}.lora_A.weight" in parts:
            weight.data += parts[f"{at}.lora_B.weight"] @ parts[f"{at}.lora_A.weight"] * ALPHA / RANK
            changed += 1
    assert changed == 2 * 3
    expected = dense(ids).logits
    torch.testing.assert_close(found.logits(ids), expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(LanguageModel.load(str(base), device="cpu").logits(ids), expected, atol=0.1)
    assert {type(module).__module__.split(".")[0] for module in found.model.modules()} == {"torch", "transformers"}


def test_it_is_a_finetune_like_any_other(base: Path, adapter: Path, ids: Tensor) -> None:
    one, other = (LanguageModel.load(str(folder), device="cpu") for folder in (base, adapter))
    site = one.site("blocks.1.hook_resid_post")
    assert other.name == str(adapter)
    assert check_pair(one, other, site)["agreement"] == 1
    assert other.activations(ids, [other.site(site.name)])[site.name].shape == (3, 40, 32)


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")
def test_its_own_tokenizer_and_rows_for_added_tokens_are_taken(
    base: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerFast, ids: Tensor
) -> None:
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(len(tokenizer) + 1)
    adapted = get_peft_model(
        model, LoraConfig(r=2, target_modules=TARGETS, modules_to_save=["embed_tokens", "lm_head"])
    )
    adapted.save_pretrained(tmp_path)
    longer = PreTrainedTokenizerFast.from_pretrained(base)
    longer.add_tokens(["<chat>"])
    longer.save_pretrained(tmp_path)
    lm = LanguageModel.load(str(tmp_path), device="cpu")
    assert (lm.d_vocab, len(lm.tokenizer)) == (len(tokenizer) + 1, len(tokenizer) + 1)
    assert torch.equal(lm.tokens("<chat>"), torch.tensor([[0, len(tokenizer)]]))
    torch.testing.assert_close(lm.logits(ids), model(ids).logits)


def test_the_identity_of_a_run_covers_the_adapter_and_its_base(base: Path, adapter: Path) -> None:
    names = [name for name, _, _ in identity.of_model(str(adapter))]
    assert {"adapter_config.json", "adapter_model.safetensors", "model.safetensors", "tokenizer.json"} <= set(names)
    assert identity.of_model(str(adapter))[-len(identity.of_model(str(base))) :] == identity.of_model(str(base))


def test_what_is_said_before_anything_is_read_is_of_its_base(base: Path, adapter: Path) -> None:
    assert check_model(str(adapter)) == json.loads((base / "config.json").read_text())


def change(folder: Path, **values: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def pickled(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def cut(folder: Path) -> None:
    weights = load_file(folder / "adapter_model.safetensors")
    weights.pop(next(iter(weights)))
    save_file(weights, folder / "adapter_model.safetensors")


def spoilt(folder: Path) -> None:
    weights = load_file(folder / "adapter_model.safetensors")
    weights[next(iter(weights))].fill_(float("nan"))
    save_file(weights, folder / "adapter_model.safetensors")


BAD: dict[str, tuple[Any, str]] = {
    "a pickle": (pickled, "adapter_model.bin, which can run code"),
    "no weights": (lambda folder: (folder / "adapter_model.safetensors").unlink(), "holds no weights"),
    "no base": (lambda folder: change(folder, base_model_name_or_path=None), "does not name its base"),
    "an absent base": (lambda folder: change(folder, base_model_name_or_path="./absent"), "'./absent' does not exist"),
    "no JSON": (lambda folder: (folder / "adapter_config.json").write_text("{"), "is not JSON"),
    "another task": (lambda folder: change(folder, task_type="SEQ_CLS"), "of kind SEQ_CLS"),
    "an unknown kind": (lambda folder: change(folder, peft_type="NONSENSE"), "cannot be added to its base"),
    "modules that are not there": (lambda folder: change(folder, target_modules=["query"]), "cannot be added"),
    "a weight is missing": (cut, "does not fit its base"),
    "a weight is no number": (spoilt, "cannot be added to its base"),
    "weights cut short": (
        lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"12345678901"),
        "cannot be",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_an_adapter_that_cannot_be_added_is_refused(adapter: Path, tmp_path: Path, what: str) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(adapter, folder)
    damage, says = BAD[what]
    damage(folder)
    with pytest.raises(InputError) as error:
        LanguageModel.load(str(folder), device="cpu")
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_prefix_is_refused(base: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base)
    get_peft_model(model, PrefixTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="of kind PREFIX_TUNING"):
        LanguageModel.load(str(tmp_path), device="cpu")
