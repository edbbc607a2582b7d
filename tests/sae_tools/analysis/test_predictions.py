"""What a model predicts with another activation in place, against passes done by hand."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sae_tools.analysis import predictions
from sae_tools.analysis.evaluate import Evaluation, evaluate
from sae_tools.analysis.next_tokens import after_last, next_tokens
from sae_tools.analysis.predictions import mean_activation
from sae_tools.common.errors import InputError
from sae_tools.models.lm import LanguageModel, Patch
from tests.conftest import TinyLM, random_sae

SITES = ("blocks.1.hook_resid_post", "blocks.1.hook_mlp_out")


def by_hand(lm: LanguageModel, ids: Tensor, patch: Patch) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy (batch, context - 1) without and with a patch, KL (batch, context)."""
    clean, patched = (lm.logits(ids, p).log_softmax(-1) for p in (None, patch))
    crossed = [-log_p[:, :-1].gather(2, ids[:, 1:, None])[..., 0] for log_p in (clean, patched)]
    return crossed[0], crossed[1], F.kl_div(patched, clean, log_target=True, reduction="none").sum(-1)


@pytest.mark.parametrize("name", SITES)
def test_the_mean_takes_the_place_of_every_activation(tiny_lm: TinyLM, ids: Tensor, name: str) -> None:
    lm, sae = tiny_lm("gpt2"), random_sae("standard")
    site, text = lm.site(name), lm.is_text(ids)
    mean = lm.activations(ids, [site])[name][text].mean(dim=0)
    torch.testing.assert_close(mean_activation(lm, site, ids, 2), mean)
    found = evaluate(sae, lm, site, ids, 2).metrics
    clean, crossed, divergence = by_hand(lm, ids, Patch(site, lambda acts: mean.expand_as(acts), everywhere=True))
    loss, with_mean = clean[text[:, :-1]].mean().item(), crossed[text[:, :-1]].mean().item()
    assert found["ce_loss_with_mean_ablation"] == pytest.approx(with_mean, rel=1e-5)
    assert found["kl_div_with_mean_ablation"] == pytest.approx(divergence[text].mean().item(), rel=1e-4)
    expected = (with_mean - found["ce_loss_with_sae"]) / (with_mean - loss)
    assert found["ce_loss_score_over_mean_ablation"] == pytest.approx(expected, rel=1e-3)
    expected = 1 - found["kl_div_with_sae"] / found["kl_div_with_mean_ablation"]
    assert found["kl_div_score_over_mean_ablation"] == pytest.approx(expected, rel=1e-5)


def test_positions_and_worst_tokens_by_hand(tiny_lm: TinyLM, ids: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "WORST", 6)
    lm, sae = tiny_lm("llama"), random_sae("standard")
    site, text = lm.site(SITES[0]), lm.is_text(ids)
    result = evaluate(sae, lm, site, ids, batch_size=2)
    clean, crossed, divergence = by_hand(lm, ids, Patch(site, lambda acts: sae(acts)))
    assert list(result.positions.index) == list(range(1, ids.shape[1] - 1))
    for position, row in result.positions.iterrows():
        at = text[:, position]
        assert row["tokens"] == at.sum()
        for name, values in {
            "kl_div_with_sae": divergence, "ce_loss_without_sae": clean, "ce_loss_with_sae": crossed,
        }.items():  # fmt: skip
            assert row[name] == pytest.approx(values[:, position][at].mean().item(), rel=1e-3, abs=1e-6), name
    order = divergence.masked_fill(~text, 0)[:, :-1].flatten().sort(descending=True)
    assert len(result.worst) == 6
    assert result.worst["kl_div_with_sae"].tolist() == pytest.approx(order.values[:6].tolist(), rel=1e-3)
    assert (result.worst["block"] * (ids.shape[1] - 1) + result.worst["position"]).tolist() == order.indices[
        :6
    ].tolist()
    first: Any = result.worst.iloc[0]
    row = ids[first["block"]].tolist()
    assert first["token"] == lm.tokenizer.decode([row[first["position"]]])
    assert first["before"].endswith(lm.tokenizer.decode(row[first["position"] - 3 : first["position"]]))
    likeliest = lm.logits(ids[first["block"]][None])[0, first["position"]].argmax()
    assert first["likeliest_without_sae"] == lm.tokenizer.decode([int(likeliest)])


def figures(result: Evaluation) -> dict[str, float]:
    """Without the one whose mean is a batch's."""
    return {name: value for name, value in result.metrics.items() if name != "explained_variance_legacy"}


@pytest.mark.parametrize("pad", ["<s>", "!"])
def test_padding_and_order_change_no_figure(tiny_lm: TinyLM, ids: Tensor, pad: str) -> None:
    lm, sae = copy.copy(tiny_lm("llama")), random_sae("topk")
    lm.tokenizer = copy.deepcopy(lm.tokenizer)
    lm.tokenizer.pad_token = pad
    site = lm.site(SITES[0])
    padded = F.pad(ids[[2, 0, 1]], (0, 9), value=lm.tokenizer.pad_token_id)
    expected = figures(evaluate(sae, lm, site, ids, 2))
    assert figures(evaluate(sae, lm, site, padded, 3)) == pytest.approx(expected, rel=2e-4, abs=1e-6)


def test_activations_that_are_not_finite_are_refused_in_a_sentence(tiny_lm: TinyLM, ids: Tensor) -> None:
    lm = tiny_lm("gpt2", seed=9)
    with torch.no_grad():
        lm.model.get_submodule("transformer.h.1.mlp.c_proj").bias[0] = torch.inf
    with pytest.raises(InputError, match=r"activations of .* at blocks.1.hook_resid_post are not finite .*dtype"):
        evaluate(random_sae("topk"), lm, lm.site(SITES[0]), ids, 2)


def test_the_next_tokens_are_those_of_three_passes(tiny_lm: TinyLM, ids: Tensor) -> None:
    lm, sae = tiny_lm("gpt2"), random_sae("topk")
    site, one = lm.site(SITES[0]), ids[2:3, :25]
    table = next_tokens(sae, lm, site, one, k=3)
    assert table.index.names == ["position", "rank"]
    assert len(table) == 25 * 3
    assert "".join(table["token"].xs(1, level="rank")) == lm.tokenizer.decode(one[0])
    patches = {
        "model": None, "sae": Patch(site, lambda acts: sae.decode(sae.encode(acts))),
        "zeros": Patch(site, torch.zeros_like, everywhere=True),
    }  # fmt: skip
    for way, patch in patches.items():
        probabilities = lm.logits(one, patch)[0].softmax(-1)
        for position in (0, 7, 24):
            best = probabilities[position].argsort(descending=True)[:3].tolist()
            rows = table.loc[position]
            assert rows[f"{way}_token"].tolist() == [lm.tokenizer.decode([i]) for i in best]
            assert rows[f"{way}_probability"].tolist() == pytest.approx(
                probabilities[position, best].tolist(), rel=1e-4
            )


def test_what_follows_a_text_with_and_without_the_sae(tiny_lm: TinyLM, ids: Tensor) -> None:
    lm, sae = tiny_lm("gpt2"), random_sae("topk")
    site, one = lm.site(SITES[0]), ids[2:3, :18]
    ways = [
        lm.logits(one, patch)[0, -1].softmax(-1)
        for patch in (None, Patch(site, lambda acts: sae.decode(sae.encode(acts))))
    ]
    table = after_last(sae, lm, site, one, k=3)
    assert set(table.index) == {i for way in ways for i in way.argsort(descending=True)[:3].tolist()}
    assert table["model"].is_monotonic_decreasing
    for i, row in table.iterrows():
        assert row["token"] == lm.tokenizer.decode([i])
        assert [row["model"], row["sae"]] == pytest.approx([float(way[i]) for way in ways], rel=1e-4)
        assert row["change"] == pytest.approx(float(ways[1][i] - ways[0][i]), abs=1e-6)
