"""The pipeline on models and text that nobody here made, by params alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sae_lens

from pipeline import paths
from sae_tools.analysis.store import FeatureStore
from tests.conftest import DATA, run_pipeline

MODELS = {"stories260k": 64, "babyllama-char361": 128}
TEXT = DATA / "text" / "tinystories.jsonl.gz"


@pytest.mark.skipif(not TEXT.is_file(), reason="shared/data, real models and text, is not beside this checkout")
@pytest.mark.parametrize("model", MODELS)
def test_a_foreign_model_goes_from_text_to_features(tmp_path: Path, model: str) -> None:
    d_in = MODELS[model]
    values = {
        "language_model": {"base": str(DATA / "models" / model), "device": "cpu"},
        "dataset": {"path": str(TEXT), "context_size": 128, "n_tokens": 65_536, "held_out_tokens": 4_096},
        "site": "blocks.2.hook_resid_post",
        "harvest": {"batch_size": 32, "shard_rows": 20_000},
        "saes": {
            "topk": {
                "architecture": "topk", "d_sae": 8 * d_in, "k": 16, "training_tokens": 120_000, "batch_size": 1024,
                "lr": 0.003, "lr_decay_steps": 50,
            },
        },
        "evaluate": {},
        "transfer": {},
        "features": {"n_tokens": 8_192, "n_calibrated": 4, "new_tokens": 8},
    }  # fmt: skip
    run_pipeline(tmp_path, values)
    metrics = json.loads((tmp_path / paths.evaluation("topk") / "figures.json").read_text())
    assert metrics["explained_variance"] > 0.5
    assert 0.5 < metrics["ce_loss_score"] < 1.05
    assert metrics["l0"] == pytest.approx(16, abs=0.5)
    assert metrics["ce_loss_without_sae"] < metrics["ce_loss_with_sae"] < metrics["ce_loss_with_ablation"]
    store = FeatureStore.open(tmp_path / paths.features("topk"))
    live = store.table[store.table["density"] > 0]
    assert len(live) > d_in
    assert (live["label"] != "").mean() > 0.95
    assert all(store.examples(feature) for feature in live.index[:20])
    assert sae_lens.SAE.load_from_disk(tmp_path / paths.sae("topk")).cfg.d_in == d_in
