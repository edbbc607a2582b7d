"""A model in bfloat16, spread over devices or lying on disk goes through everything, and gives what it should."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import disk_offload
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from sae_tools.activations.harvest import harvest, summary
from sae_tools.analysis.contrast import contrast
from sae_tools.analysis.decompose import decompose
from sae_tools.analysis.evaluate import evaluate
from sae_tools.analysis.features import describe
from sae_tools.analysis.next_tokens import after_last, next_token_changes, next_tokens
from sae_tools.analysis.norms import median_norm
from sae_tools.analysis.pairs import Pair
from sae_tools.analysis.probing import Labelled, probe
from sae_tools.analysis.steering import Push, steer
from sae_tools.analysis.sweep import projection, sweep
from sae_tools.analysis.transfer import transfer
from sae_tools.common.settings import Features, Harvest
from sae_tools.models.lm import LanguageModel
from sae_tools.models.replay import Replay
from sae_tools.models.writer import write_rows
from tests.conftest import TinyLM, random_sae

Make = Callable[[str], LanguageModel]


@pytest.fixture
def on_disk(tmp_path: Path) -> Make:
    """The weights of a model on disk, each fetched for the call that needs it, as accelerate does it."""

    def load(name: str) -> LanguageModel:
        whole = LanguageModel.load(name, device="cpu")
        model = disk_offload(AutoModelForCausalLM.from_pretrained(name), tmp_path / "weights", torch.device("cpu"))
        assert all(parameter.is_meta for parameter in model.parameters())
        return LanguageModel(model, whole.tokenizer, name, torch.device("cpu"))

    return load


@pytest.fixture(params=["bfloat16", "device_map", "disk"])
def other(request: pytest.FixtureRequest, on_disk: Make) -> tuple[Make, float]:
    """How the same model is loaded otherwise, and how far its numbers may differ."""
    ways: dict[str, tuple[Make, float]] = {
        "bfloat16": (lambda name: LanguageModel.load(name, dtype="bfloat16", device="cpu"), 0.1),
        "device_map": (lambda name: LanguageModel.load(name, device="cpu", device_map="auto"), 1e-5),
        "disk": (on_disk, 1e-5),
    }
    return ways[request.param]


def everything(lm: LanguageModel, ids: Tensor, folder: Path) -> dict[str, Any]:
    """Numbers of every use of a model with an SAE."""
    sae, site = random_sae("topk"), lm.site("blocks.1.hook_resid_post")
    harvest(lm, ids, lm.is_text(ids), [site], Harvest(dtype="float32"), folder)
    summary(folder, [site])
    rows = load_file(next((folder / site.name).glob("*.safetensors")))["acts"]
    unit = median_norm(lm, site, ids)
    patch = steer(sae, site, [Push(3, "add", 0.5), Push(4, "ablate", 0), Push(5, "clamp", 0.2)], unit)
    pairs = [Pair("a happy fox", "a sad fox"), Pair("the bear sings", "the bear is old")]
    found = contrast(pairs, lm, site)
    replay = Replay(lm, site, ids)
    table, _ = describe(sae, lm, site, ids, Features(n_top=2, n_neighbours=2), held_out=ids)
    animals = ["fox", "owl", "bear"] * 8
    has = np.array([animal == "fox" for animal in animals])
    labelled = Labelled("a fox", [f"the {animal} sings" for animal in animals], has, ("other", "fox"))
    text = lm.tokens("the fox")
    return {
        "rows": rows.float().sum(0),
        "metrics": evaluate(sae, lm, site, ids, 2).metrics,
        "transfer": transfer(sae, lm, lm, site, {"text": ids}, 2).features["correlation"].dropna(),
        "effects": lm.logit_effects(site, sae.W_dec.detach()).float(),
        "hidden": lm.logit_effects(lm.site("blocks.1.mlp.hook_post"), torch.eye(48)[:3]).float(),
        "features": table["density"],
        "next": next_tokens(sae, lm, site, text, 2),
        "after": after_last(sae, lm, site, text, 2),
        "changes": next_token_changes(lm, text, patch, 3),
        "probe": probe(sae, lm, site, labelled)["auc"],
        "vector": found.vector,
        "ways": decompose(found, sae).tables["difference"],
        "replay": replay.logits_with(patch).float(),
        "text": torch.tensor(list(lm.generate(text, 5, seed=0, patch=patch))),
        "texts": write_rows(lm, text.repeat(2, 1), 4, 1.0, [0, 1]),
        "sweep": sweep(lm, text, [0, 1], lambda _: patch, projection(lm, site, found.vector, 1), new_tokens=3),
    }


def finite(value: Any) -> bool:
    if isinstance(value, pd.DataFrame | pd.Series):
        return bool(np.isfinite(pd.DataFrame(value).select_dtypes("number").to_numpy(float)).all())
    return bool(torch.isfinite(value).all()) if isinstance(value, Tensor) else True


def test_it_goes_through_everything(tiny_lm: TinyLM, ids: Tensor, tmp_path: Path, other: tuple[Make, float]) -> None:
    load, tolerance = other
    lm = load(tiny_lm("llama").name)
    expected, found = everything(tiny_lm("llama"), ids, tmp_path / "one"), everything(lm, ids, tmp_path / "other")
    assert {name for name, value in found.items() if not finite(value)} == set()
    for name in ("rows", "effects", "hidden", "vector", "replay"):
        one, two = expected[name].float(), found[name].float()
        assert (two - one).norm() <= tolerance * one.norm(), name
    for name, value in expected["metrics"].items():
        if np.isfinite(value) and name in ("explained_variance", "ce_loss_without_sae", "l0", "kl_div_with_sae"):
            assert found["metrics"][name] == pytest.approx(value, rel=max(tolerance, 1e-4), abs=tolerance), name
    if tolerance < 0.01:
        assert torch.equal(found["text"], expected["text"])
        assert torch.equal(found["texts"], expected["texts"])
