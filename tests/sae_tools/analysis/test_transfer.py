"""Two identical models transfer perfectly; what differs is measured as numpy would."""

from __future__ import annotations

import copy
import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from sae_tools.analysis.changed import OFTEN, examples, most_changed
from sae_tools.analysis.evaluate import dictionary_summary, evaluate
from sae_tools.analysis.survival import by_density, logit_similarity, summarise, unembedding_change
from sae_tools.analysis.transfer import transfer
from sae_tools.common.errors import InputError
from sae_tools.metrics.reconstruction import explained_variance
from sae_tools.models.lm import LanguageModel
from sae_tools.models.pair import check_pair, compare_tokenizers
from tests.conftest import TinyLM, random_sae

SITE = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def finetuned(tiny_lm: TinyLM) -> LanguageModel:
    """The base model with every weight moved a little."""
    base = tiny_lm("llama")
    model = copy.deepcopy(base.model)
    chance = torch.Generator().manual_seed(8)
    for parameter in model.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=chance), alpha=0.02)
    return LanguageModel(model, base.tokenizer, "finetuned")


def test_identical_models_transfer_perfectly(tiny_lm: TinyLM, ids: Tensor) -> None:
    base = tiny_lm("llama")
    twin = LanguageModel.load(base.name, device="cpu")
    result = transfer(random_sae("topk"), base, twin, base.site(SITE), {"text": ids, "other": ids[:1]}, 2)
    for text in ("text", "other"):
        found = result.metrics[text]
        assert found["base"] == found["finetuned"]
        same = {"cosine": 1, "distance": 0, "norm_ratio": 1, "cka": 1}
        assert {key: found["activations"][key] for key in same} == pytest.approx(same, abs=1e-6)
        tokens = result.alignments[text].tokens()
        assert (tokens.groupby("measure")["tokens"].sum() == result.alignments[text].text.sum().item()).all()
    assert result.metrics["tokenizer"]["agreement"] == 1
    table = result.features
    fires = table["density_base"] > 0
    assert (table["density_base"] == table["density_finetuned"]).all()
    np.testing.assert_allclose(table.loc[fires, "correlation"], 1, rtol=1e-6)
    assert table.loc[~fires, "correlation"].isna().all()
    np.testing.assert_allclose(table.loc[fires, "overlap"], 1)
    np.testing.assert_allclose(table["logit_similarity"], 1, rtol=1e-5)
    assert result.metrics["features"]["regular"] == table["density_base"].between(1e-5, 0.1).sum() > 0
    assert result.metrics["features"]["correlation_mean"] == pytest.approx(1)
    assert result.metrics["features"]["share_above_0.9"] == 1


def rows_of(lm: LanguageModel, ids: Tensor) -> Tensor:
    with torch.no_grad():
        hidden: Tensor = lm.model(ids, output_hidden_states=True).hidden_states[2]
    return hidden[(ids != 0) & (ids != 1)]


def test_the_metrics_are_those_of_evaluate_on_each_model(
    tiny_lm: TinyLM, finetuned: LanguageModel, ids: Tensor
) -> None:
    base, sae = tiny_lm("llama"), random_sae("standard")
    site = base.site(SITE)
    result = transfer(sae, base, finetuned, site, {"a": ids[:2], "b": ids[2:]}, 2)
    for text, part in {"a": ids[:2], "b": ids[2:]}.items():
        for which, lm in {"base": base, "finetuned": finetuned}.items():
            expected = evaluate(sae, lm, site, part, 2)
            found = result.metrics[text][which]
            # What the SAE's weights alone say is the same in every model.
            assert set(expected.metrics) - set(found) == set(dictionary_summary(expected.latents))
            assert found == pytest.approx({name: expected.metrics[name] for name in found})
    for which, lm in {"base": base, "finetuned": finetuned}.items():  # features are counted over all texts
        every = evaluate(sae, lm, site, ids, 2).latents["feature_density"]
        np.testing.assert_allclose(result.features[f"density_{which}"], every)
    assert result.metrics["a"]["base"] != result.metrics["a"]["finetuned"]


def test_activations_are_compared_token_by_token(tiny_lm: TinyLM, finetuned: LanguageModel, ids: Tensor) -> None:
    base = tiny_lm("llama")
    x, y = (rows_of(lm, ids).double().numpy() for lm in (base, finetuned))
    norms = np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1)
    expected = {
        "cosine": ((x * y).sum(axis=1) / norms[0] / norms[1]).mean(),
        "distance": np.linalg.norm(x - y, axis=1).mean(),
        "norm_ratio": (norms[1] / norms[0]).mean(),
    }
    result = transfer(random_sae("standard"), base, finetuned, base.site(SITE), {"text": ids}, 2)
    found = result.metrics["text"]["activations"]
    assert {key: found[key] for key in expected} == pytest.approx(expected, rel=1e-4)
    assert found["cosine"] < 0.999


def test_feature_correlation_equals_numpy_s(tiny_lm: TinyLM, finetuned: LanguageModel, ids: Tensor) -> None:
    base, sae = tiny_lm("llama"), random_sae("standard")
    f, g = (sae.encode(rows_of(lm, ids)).detach().double().numpy() for lm in (base, finetuned))
    found = transfer(sae, base, finetuned, base.site(SITE), {"text": ids[:2], "other": ids[2:]}, 1).features[
        "correlation"
    ]
    for j in range(64):
        if f[:, j].std() > 1e-5 and g[:, j].std() > 1e-5:
            assert found[j] == pytest.approx(np.corrcoef(f[:, j], g[:, j])[0, 1], abs=1e-4), j
        elif not f[:, j].any() or not g[:, j].any():
            assert math.isnan(found[j])
    assert np.nanmin(found) < 0.99


def test_a_token_that_is_special_to_one_model_is_left_out_of_the_comparison(
    tiny_lm: TinyLM, finetuned: LanguageModel, ids: Tensor
) -> None:
    base, sae = tiny_lm("llama"), random_sae("standard")
    site = base.site(SITE)
    token = int(ids[0, 5])
    other = copy.deepcopy(base.tokenizer)
    other.add_special_tokens({"additional_special_tokens": [base.tokenizer.convert_ids_to_tokens(token)]})
    assert token in LanguageModel(finetuned.model, other).special_ids
    found = transfer(sae, base, LanguageModel(finetuned.model, other, "other"), site, {"text": ids}, 2).metrics["text"]
    assert found["base"]["n_tokens"] - found["finetuned"]["n_tokens"] == (ids == token).sum() > 0
    kept = (ids[(ids != 0) & (ids != 1)] != token)[:, None]
    x, y = (rows_of(lm, ids).masked_select(kept).view(-1, 32) for lm in (base, finetuned))
    expected = torch.nn.functional.cosine_similarity(x, y).mean().item()
    assert found["activations"]["cosine"] == pytest.approx(expected, rel=1e-5)


def test_tokenizers_are_compared_token_by_token() -> None:
    base = {"a": 0, "b": 1, "c": 2, "d": 3}
    assert compare_tokenizers(base, {"a": 0, "b": 2, "c": 1, "e": 3, "f": 4}) == {
        "size_base": 4,
        "size_finetuned": 5,
        "only_base": 1,
        "only_finetuned": 2,
        "moved": 2,
        "agreement": 0.25,
        "agreement_finetuned": 0.2,
    }
    assert compare_tokenizers(base, base | {"new": 4})["agreement"] == 1


def test_another_tokenizer_is_refused(
    tiny_lm: TinyLM, tokenizer: PreTrainedTokenizerFast, finetuned: LanguageModel
) -> None:
    base = tiny_lm("llama")

    class Shifted(PreTrainedTokenizerFast):  # type: ignore[misc]
        def get_vocab(self) -> dict[str, int]:
            vocab = super().get_vocab()
            return {token: (i + 1) % len(vocab) for token, i in vocab.items()}

    other = Shifted(tokenizer_object=tokenizer.backend_tokenizer, bos_token="<s>", eos_token="</s>")
    with pytest.raises(InputError, match=r"only 0.0% of the token ids of .* mean the same in 'other'"):
        check_pair(base, LanguageModel(finetuned.model, other, "other"), base.site(SITE))


def test_added_tokens_are_no_hindrance(tiny_lm: TinyLM, finetuned: LanguageModel) -> None:
    base = tiny_lm("llama")
    more = copy.deepcopy(base.tokenizer)
    more.add_tokens(["<chat>", "</chat>"])
    found = check_pair(base, LanguageModel(finetuned.model, more, "chat"), base.site(SITE))
    assert (found["agreement"], found["only_finetuned"]) == (1, 2)


def test_a_model_of_another_family_is_refused(tiny_lm: TinyLM) -> None:
    base, other = tiny_lm("llama"), tiny_lm("gpt2")
    with pytest.raises(InputError, match=r"give a finetune of the base model"):
        check_pair(base, other, base.site("blocks.1.mlp.hook_post"))


def test_a_model_of_another_width_is_refused(tiny_lm: TinyLM) -> None:
    base = tiny_lm("llama")
    config = copy.deepcopy(base.config)
    config.intermediate_size = 40
    wider = LanguageModel(AutoModelForCausalLM.from_config(config), base.tokenizer, "wider")
    with pytest.raises(InputError, match=r"'wider' has activations of width 40 at blocks.1.mlp.hook_post, .* has 48"):
        check_pair(base, wider, base.site("blocks.1.mlp.hook_post"))
    check_pair(base, wider, base.site(SITE))


def features_table(**columns: list[float]) -> pd.DataFrame:
    n = len(columns["density_base"])
    return pd.DataFrame({"overlap": [0.5] * n, "log_error": [math.nan] * n} | columns)


def test_the_summary_counts_features() -> None:
    nan = math.nan
    table = features_table(
        density_base=[0.05, 0.02, 0.03, 0.0, 0.05, 0.0, 1e-6, 0.5],
        density_finetuned=[0.1, 0.1, 0.1, 0.2, 0.0, 0.0, 0.1, 0.1],
        correlation=[0.95, 0.6, 0.1, nan, nan, nan, 0.9, 0.9],
        log_error=[nan, nan, nan, 1.0, 0.5, 0.0, nan, nan],
    )
    found = summarise(table)
    logs = np.log10(table[["density_base", "density_finetuned"]].to_numpy() + 1e-10)
    assert found == pytest.approx({
        "regular": 3,  # neither too seldom nor too often, in both
        "only_in_base": 1,
        "only_in_finetuned": 1,
        "correlation_mean": 0.55,
        "correlation_median": 0.6,
        "share_above_0.5": 2 / 3,
        "share_above_0.8": 1 / 3,
        "share_above_0.9": 1 / 3,
        "overlap_median": 0.5,
        "log_error_of_silent": 0.75,
        "log_density_correlation": np.corrcoef(logs.T)[0, 1],
    })  # fmt: skip


def test_the_summary_of_nothing_is_finite() -> None:
    table = features_table(density_base=[0.0], density_finetuned=[0.0], correlation=[math.nan])
    assert all(math.isfinite(value) for value in summarise(table).values())


def test_features_are_drawn_from_an_interval_of_density() -> None:
    table = features_table(
        density_base=[1e-4, 1e-3, 0.2, 1e-3], density_finetuned=[1e-4, 2e-3, 1e-3, 0.0], correlation=[1] * 4
    )
    assert list(by_density(table, 1e-4, 1e-2, 5).index) == [0, 1]
    assert len(by_density(table, 1e-4, 1e-2, 1)) == 1
    assert by_density(table, 1e-4, 1e-2, 1, seed=3).equals(by_density(table, 1e-4, 1e-2, 1, seed=3))
    with pytest.raises(InputError, match=r"no feature has a density from 0.5 to 1 .* lie between 0.0001 and 0.2"):
        by_density(table, 0.5, 1, 5)
    with pytest.raises(InputError, match="none fires"):
        by_density(table * 0, 0.5, 1, 5)


def test_logit_similarity_is_pearson_s_r_over_the_shared_vocabulary(tiny_lm: TinyLM, finetuned: LanguageModel) -> None:
    base, sae = tiny_lm("llama"), random_sae("standard")
    site = base.site(SITE)
    found = logit_similarity(sae, base, finetuned, site)
    effects = [lm.logit_effects(site, sae.W_dec.detach()).double().numpy() for lm in (base, finetuned)]
    expected = [np.corrcoef(a, b)[0, 1] for a, b in zip(*effects, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    a, b = (lm.unembedding.double().numpy() for lm in (base, finetuned))
    assert unembedding_change(base, finetuned) == pytest.approx({
        "norm_ratio": np.linalg.norm(b) / np.linalg.norm(a),
        "change": np.linalg.norm(b - a) / np.linalg.norm(a),
    }, rel=1e-4)  # fmt: skip


def test_a_site_without_a_straight_way_to_the_logits_transfers_without_their_similarity(
    tiny_lm: TinyLM, finetuned: LanguageModel, ids: Tensor
) -> None:
    lm = tiny_lm("llama")
    site = lm.site("model.layers.1.self_attn.q_proj")
    found = transfer(random_sae("topk"), lm, finetuned, site, {"text": ids}, batch_size=3)
    assert found.features["logit_similarity"].isna().all()
    assert "logit_similarity_mean" not in found.metrics["features"]
    assert found.features["correlation"].notna().any()


def test_with_outliers_there_are_figures_without_them(tiny_lm: TinyLM, finetuned: LanguageModel, ids: Tensor) -> None:
    """The outlier keeps its own activation in the splice and is left out of every mean."""
    base, sae = tiny_lm("llama"), random_sae("standard")
    site = base.site(SITE)
    norms = rows_of(base, ids).norm(dim=-1)
    limit = float(norms.sort().values[-3:-1].mean())  # the two largest
    result = transfer(sae, base, finetuned, site, {"text": ids}, 2, outlier_norm=limit)
    found = result.metrics["text"]
    assert found["activations"]["outlier_limit"] == limit
    assert found["base_without_outliers"]["n_tokens"] == found["base"]["n_tokens"] - (norms > limit).sum()
    kept = norms <= limit
    x = rows_of(base, ids)[kept]
    with torch.no_grad():
        expected = explained_variance(x, sae(x))
    assert found["base_without_outliers"]["explained_variance"] == pytest.approx(expected, rel=1e-4)
    assert found["base"]["explained_variance"] != pytest.approx(expected, rel=1e-3)
    nothing = transfer(sae, base, finetuned, site, {"text": ids}, 2, outlier_norm=1e9).metrics["text"]
    assert set(nothing) == {"base", "finetuned", "activations"}
    np.testing.assert_allclose(
        [nothing["base"][key] for key in ("mse", "ce_loss_score")],
        [found["base"][key] for key in ("mse", "ce_loss_score")],
    )


def test_the_most_changed_features_and_where_they_part(tiny_lm: TinyLM, finetuned: LanguageModel, ids: Tensor) -> None:
    base, sae = tiny_lm("llama"), random_sae("topk")
    site = base.site(SITE)
    table = transfer(sae, base, finetuned, site, {"text": ids}, 2).features
    norms = sae.W_dec.norm(dim=-1).detach().numpy()
    changed = most_changed(table, norms, 5)
    score = table["difference"] * norms * (1 - table["correlation"].fillna(0))
    often = table[["density_base", "density_finetuned"]].max(axis=1) > OFTEN
    assert list(changed.index) == list(score[~often].nlargest(len(changed)).index)
    f, g = (sae.encode(rows_of(lm, ids)).detach() for lm in (base, finetuned))
    carried = (f - g).abs().mean(dim=0).numpy() * norms
    np.testing.assert_allclose(changed["share_of_difference"], (carried / carried.sum())[changed.index], rtol=1e-4)
    feature = int(changed.index[0])
    shown = examples(sae, base, finetuned, site, ids, 2, [feature], n=1)
    assert set(shown["kind"]) <= {"base", "finetuned", "parts"}
    parts = shown[shown["kind"] == "parts"].iloc[0]
    at = parts["position"]
    apart = abs(parts["base"][at] - parts["finetuned"][at])
    assert apart == pytest.approx(float((f - g).abs()[:, feature].max()), rel=1e-4)


def test_a_model_against_itself_has_no_changed_feature(tiny_lm: TinyLM, ids: Tensor) -> None:
    base, sae = tiny_lm("llama"), random_sae("topk")
    table = transfer(sae, base, base, base.site(SITE), {"text": ids}, 2).features
    assert not len(most_changed(table, np.ones(64), 5))
