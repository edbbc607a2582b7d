"""The transfer study on a real model and a finetune of it that is made here, and on the model against itself."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline import paths
from sae_tools import saes
from sae_tools.common.settings import Dataset
from sae_tools.models.corpus import tokenize
from tests.conftest import ASSETS, DATA, run_pipeline

MODEL = DATA / "models" / "stories260k"
TEXT = DATA / "text" / "tinystories.jsonl.gz"
PLAYS: dict[str, Any] = {"path": str(ASSETS / "shakespeare.parquet"), "n_tokens": 40_960, "held_out_tokens": 2_048}

pytestmark = pytest.mark.skipif(
    not TEXT.is_file(), reason="shared/data, real models and text, is not beside this checkout"
)


@pytest.fixture(scope="module")
def finetune(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model after 150 steps on plays."""
    folder = tmp_path_factory.mktemp("finetune")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(MODEL), AutoTokenizer.from_pretrained(MODEL)
    ids = tokenize(Dataset(**PLAYS), tokenizer).train.long()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for step in range(150):
        batch = ids[torch.arange(16 * step, 16 * step + 16) % len(ids)]
        model(batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def params(finetuned: Path) -> dict[str, Any]:
    return {
        "language_model": {"base": str(MODEL), "finetuned": str(finetuned), "device": "cpu"},
        "dataset": {"path": str(TEXT), "context_size": 128, "n_tokens": 65_536, "held_out_tokens": 4_096},
        "site": "blocks.2.hook_resid_post",
        "harvest": {"batch_size": 32, "shard_rows": 20_000},
        "saes": {
            "topk": {
                "architecture": "topk", "d_sae": 512, "k": 16, "training_tokens": 120_000, "batch_size": 1024,
                "lr": 0.003, "lr_decay_steps": 50,
            },
        },
        "evaluate": {"n_tokens": 2_048},
        "transfer": {
            "n_tokens": 2_048, "dataset": PLAYS, "pair_tokens": 81_920, "adapt": {"n_tokens": 81_920},
            "diff": {
                "d_sae": 256, "k": 16, "training_tokens": 160_000, "batch_size": 512, "lr": 0.003, "n_tokens": 2_048,
            },
        },
        "features": {"n_tokens": 4_096, "n_calibrated": 4, "new_tokens": 8},
    }  # fmt: skip


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [n for part in value.values() for n in numbers(part)]
    if isinstance(value, list):
        return [n for part in value for n in numbers(part)]
    return [value] if isinstance(value, int | float) else []


def test_a_real_finetune_is_told_from_its_base_and_the_sae_repaired(tmp_path: Path, finetune: Path) -> None:
    run_pipeline(tmp_path, params(finetune))
    figures = read(tmp_path / paths.transfer("topk") / "figures.json")
    assert all(map(math.isfinite, numbers(figures)))
    stories, plays = figures["base_text"], figures["finetuned_text"]
    assert stories["base"]["ce_loss_without_sae"] < stories["finetuned"]["ce_loss_without_sae"]
    assert plays["finetuned"]["ce_loss_without_sae"] < plays["base"]["ce_loss_without_sae"] - 0.5
    goal, start = stories["base"]["explained_variance"], plays["finetuned"]["explained_variance"]
    assert start < goal - 0.05
    assert 0.2 < plays["activations"]["cosine"] < 0.99
    adapted = read(tmp_path / paths.adapted("topk") / "figures.json")
    for way in ("finetuned", "extended"):
        assert adapted[way]["finetuned_text"]["explained_variance"] > start + 0.25 * (goal - start)
    extended = saes.load(tmp_path / paths.adapted("topk") / "extended")
    base = saes.load(tmp_path / paths.sae("topk"))
    assert extended.cfg.d_sae == 640
    assert extended.W_dec[:512].equal(base.W_dec)
    difference = read(tmp_path / paths.CROSSCODER / "figures.json")
    assert min(difference[f"crosscoder_{model}_explained_variance"] for model in ("base", "finetuned")) > 0.6
    assert min(difference[f"half_{model}_explained_variance"] for model in ("base", "finetuned")) > 0.5
    pages = {page.name for page in (tmp_path / "reports").glob("*.html")}
    assert pages == {"index.html", "topk.html", "transfer-topk.html", "difference.html"}


def test_a_model_against_itself_shows_no_difference(tmp_path: Path) -> None:
    values = params(MODEL)
    values["transfer"]["adapt"] = None  # there is nothing to repair
    run_pipeline(tmp_path, values)
    figures = read(tmp_path / paths.transfer("topk") / "figures.json")
    for text in ("base_text", "finetuned_text"):
        found = figures[text]
        assert found["base"] == found["finetuned"]
        assert found["activations"]["cosine"] == pytest.approx(1, abs=1e-6)
        assert found["activations"]["cka"] == pytest.approx(1, abs=1e-6)
    assert figures["features"]["share_above_0.9"] == 1
    assert figures["unembedding"] == {"norm_ratio": 1, "change": 0}
    assert not len(pd.read_parquet(tmp_path / paths.transfer("topk") / "changed.parquet"))
    difference = read(tmp_path / paths.CROSSCODER / "figures.json")
    assert difference["classes"]["base_only"] == difference["classes"]["finetuned_only"] == 0
    latents = pd.read_parquet(tmp_path / paths.CROSSCODER / "latents.parquet")
    live = latents[latents["density"] > 0.001]
    assert live["relative_norm"].between(0.4, 0.6).mean() > 0.9
