"""Every metric equals that of SAELens' `run_evals` on the same tokens, and does not depend on the batch size."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sae_lens.evals import get_eval_everything_config, run_evals
from sae_lens.training.activation_scaler import ActivationScaler
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM

from sae_tools import saes
from sae_tools.analysis.evaluate import evaluate
from sae_tools.models.lm import LanguageModel
from tests.conftest import ARCHITECTURES, ASSETS, DATA, TinyLM, random_sae

SITE = "blocks.1.hook_resid_post"


class OurTokens:
    """What `run_evals` asks of an activations store, with the tokens that we evaluate on."""

    def __init__(self, ids: Tensor) -> None:
        self.ids = ids
        self.store_batch_size_prompts, self.context_size = ids.shape

    def get_batch_tokens(self, _: int) -> Tensor:
        return self.ids

    def reset_input_dataset(self) -> None:
        pass


def saelens_metrics(
    folder: Path, lm: LanguageModel, site: str, ids: Tensor
) -> tuple[dict[str, float], dict[str, list[float]]]:
    sae = saes.load(folder)
    sae.cfg.metadata.hook_name = site
    model = AutoModelForCausalLM.from_pretrained(lm.name, attn_implementation="eager", dtype=torch.float32)
    bridge = TransformerBridge.boot_transformers(lm.name, hf_model=model, tokenizer=lm.tokenizer, device="cpu")
    config = get_eval_everything_config(
        batch_size_prompts=len(ids), n_eval_reconstruction_batches=1, n_eval_sparsity_variance_batches=1
    )
    store: Any = OurTokens(ids)
    groups, features = run_evals(sae, store, bridge, ActivationScaler(), config)
    metrics = {name: value for group in groups.values() for name, value in group.items()}
    return metrics, features


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_metrics_equal_saelens(tiny_lm: TinyLM, ids: Tensor, tmp_path: Path, family: str, architecture: str) -> None:
    lm = tiny_lm(family)
    saes.save(random_sae(architecture), tmp_path)
    theirs, features = saelens_metrics(tmp_path, lm, SITE, ids)
    ours = evaluate(saes.load(tmp_path), lm, lm.site(SITE), ids, batch_size=3)
    for name in (
        "l0", "l1", "mse", "explained_variance", "explained_variance_legacy", "cossim", "l2_norm_in", "l2_norm_out",
        "l2_ratio", "relative_reconstruction_bias", "ce_loss_without_sae", "ce_loss_with_sae", "ce_loss_with_ablation",
        "ce_loss_score", "kl_div_with_sae", "kl_div_with_ablation", "kl_div_score",
    ):  # fmt: skip
        # A score divides small differences of what was just compared.
        rel = 1e-3 if name.endswith("score") else 1e-4
        assert ours.metrics[name] == pytest.approx(theirs[name], rel=rel, abs=1e-6), name
    for name, values in features.items():
        # A latent that never fires has 0 / 0 firings a block there, 0 here.
        np.testing.assert_allclose(ours.latents[name], np.nan_to_num(values), rtol=1e-4, atol=1e-6, err_msg=name)
    assert ours.metrics["n_tokens"] == 3 * 39 - 1
    density = np.array(features["feature_density"])
    assert ours.metrics["dead_share"] == pytest.approx((density == 0).mean())
    assert ours.metrics["freq_over_1_percent"] == pytest.approx((density > 0.01).mean())
    assert ours.metrics["freq_over_10_percent"] == pytest.approx((density > 0.1).mean())


REAL = {
    "stories": ASSETS / "stories",
    **{name: DATA / "models" / name for name in ("stories260k", "babyllama-char361")},
}


@pytest.mark.parametrize("architecture", ["topk", "standard", "jumprelu"])
@pytest.mark.parametrize("model", REAL)
def test_metrics_equal_saelens_on_real_models(tmp_path: Path, model: str, architecture: str) -> None:
    if not REAL[model].is_dir():
        pytest.skip("shared/data, real models, is not beside this checkout")
    lm = LanguageModel.load(str(REAL[model]), device="cpu")
    text = (
        "Once upon a time there was a little dog named Max. He loved to run in the park. One day, he saw a big ball. "
    )
    ids = lm.tokens(12 * text)[:, : 4 * 64].reshape(4, 64)
    saes.save(random_sae(architecture, d_in=lm.width(lm.site(SITE)), d_sae=512), tmp_path)
    theirs, features = saelens_metrics(tmp_path, lm, SITE, ids)
    ours = evaluate(saes.load(tmp_path), lm, lm.site(SITE), ids, batch_size=4)
    shared = theirs.keys() & ours.metrics.keys()
    assert len(shared) == 17
    for name in shared:
        # Ratios of small differences: of losses that were just compared; of x·x̂, which is near 0 for random weights.
        rel = 1e-3 if name.endswith(("score", "bias")) else 1e-4
        assert ours.metrics[name] == pytest.approx(theirs[name], rel=rel, abs=1e-5), name
    for name, values in features.items():
        equal = np.isclose(ours.latents[name], np.nan_to_num(values), rtol=1e-4, atol=1e-6)
        assert equal.mean() > 0.99, name  # an activation within rounding of 0 fires on one side alone


@pytest.mark.parametrize("kind", ["hook_mlp_out", "mlp.hook_post", "attn.hook_z", "hook_resid_pre"])
def test_metrics_equal_saelens_at_other_sites(tiny_lm: TinyLM, ids: Tensor, tmp_path: Path, kind: str) -> None:
    lm = tiny_lm("gpt2")
    site = lm.site(f"blocks.1.{kind}")
    saes.save(random_sae("standard", d_in=lm.width(site)), tmp_path)
    theirs, _ = saelens_metrics(tmp_path, lm, site.name, ids)
    ours = evaluate(saes.load(tmp_path), lm, site, ids, batch_size=3).metrics
    for name in ("l0", "explained_variance", "mse", "ce_loss_with_sae", "ce_loss_with_ablation", "kl_div_with_sae"):
        assert ours[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize("normalisation", ["none", "layer_norm"])
def test_metrics_do_not_depend_on_the_batch_size(tiny_lm: TinyLM, ids: Tensor, normalisation: str) -> None:
    lm, sae = tiny_lm("gpt2"), random_sae("standard", normalize_activations=normalisation)
    one, all_at_once = (evaluate(sae, lm, lm.site(SITE), ids, batch_size).metrics for batch_size in (1, 3))
    for metrics in (one, all_at_once):
        del metrics["explained_variance_legacy"]  # whose mean is a batch's
    assert one == pytest.approx(all_at_once, rel=1e-4)


def test_a_perfect_sae_loses_nothing(tiny_lm: TinyLM, ids: Tensor) -> None:
    """ReLU features ±e_i and their sum: x̂ = x."""
    lm = tiny_lm("llama")
    sae = saes.build("standard", 32, 64, {}, {}, 0, "cpu").eval()
    with torch.no_grad():
        eye = torch.eye(32)
        sae.W_enc.copy_(torch.cat([eye, -eye], dim=1))
        sae.W_dec.copy_(torch.cat([eye, -eye]))
    result = evaluate(sae, lm, lm.site(SITE), ids, 2).metrics
    for name in ("explained_variance", "ce_loss_score", "kl_div_score", "cossim", "relative_reconstruction_bias"):
        assert result[name] == pytest.approx(1, abs=1e-5), name
    assert result["l0"] == pytest.approx(32)
    assert result["mse"] == pytest.approx(0, abs=1e-9)
    assert result["kl_div_with_sae"] == pytest.approx(0, abs=1e-6)


def test_a_dead_sae_has_no_score(tiny_lm: TinyLM, ids: Tensor) -> None:
    """All features off and no bias: x̂ = 0 at text tokens, so explained variance is below 0 and L0 is 0."""
    lm = tiny_lm("llama")
    sae = saes.build("standard", 32, 64, {}, {}, 0, "cpu").eval()
    with torch.no_grad():
        sae.b_enc.fill_(-1e6)
    result = evaluate(sae, lm, lm.site(SITE), ids, 2).metrics
    assert result["l0"] == result["l1"] == result["l2_norm_out"] == 0
    assert result["dead_share"] == 1
    assert result["explained_variance"] <= 0
    assert all(math.isfinite(value) for value in result.values())
