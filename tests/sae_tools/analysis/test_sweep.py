"""A sweep is generation at each strength, and its figures are those of the unsteered model, by hand."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

from sae_tools.analysis.next_tokens import next_token_changes
from sae_tools.analysis.steering import Push, steer, steer_by_vector
from sae_tools.analysis.sweep import presence, projection, repeated_bigrams, sweep
from sae_tools.common.errors import SettingError
from sae_tools.models.lm import LanguageModel, Patch
from tests.conftest import CONTEXT, TinyLM, random_sae

SITE = "blocks.1.hook_resid_post"


@pytest.fixture
def lm(tiny_lm: TinyLM) -> LanguageModel:
    return tiny_lm("llama")


def test_each_row_is_generation_at_that_strength_and_the_first_that_without(lm: LanguageModel, ids: Tensor) -> None:
    sae, site, start = random_sae("topk"), lm.site(SITE), ids[:1, :10]

    def patch_of(strength: float) -> Patch:
        return steer(sae, site, [Push(5, "add", strength)], 3.0)

    table = sweep(lm, start, [0.0, 1.0, 3.0], patch_of, lambda _: 0.0, new_tokens=12, temperature=0.7, seed=3)
    assert table["strength"].tolist() == [0, 1, 3]
    assert table["ids"][0] == list(lm.generate(start, 12, 0.7, 3))
    for row in table.itertuples():
        assert row.ids == list(lm.generate(start, 12, 0.7, 3, patch_of(row.strength)))
        whole = start[0].tolist() + row.ids
        assert "".join(lm.pieces(whole)).endswith(row.text)
        assert row.text == "".join(lm.pieces(whole)[10:])
    assert table["ids"][2] != table["ids"][0]


def test_the_figures_are_the_unsteered_model_s_over_the_new_tokens(lm: LanguageModel, ids: Tensor) -> None:
    sae, site, start = random_sae("standard"), lm.site(SITE), ids[:1, :10]
    vector = torch.linspace(-2, 5, 32)
    for measured, by_hand in (
        (presence(sae, lm, site, [7, 9], 10), lambda x: float(sae.encode(x)[:, [7, 9]].detach().mean())),
        (projection(lm, site, vector, 10), lambda x: float((x @ vector).mean() / vector.norm())),
    ):
        table = sweep(lm, start, [2.0], lambda s: steer_by_vector(site, s * vector), measured, new_tokens=8)
        new = table["ids"][0]
        out = lm.model(torch.tensor([start[0].tolist() + new]), output_hidden_states=True)
        log_p = out.logits[0].log_softmax(dim=-1)
        assert table["nll"][0] == pytest.approx(
            -sum(float(log_p[9 + i, token]) for i, token in enumerate(new)) / len(new), rel=1e-4
        )
        assert table["amount"][0] == pytest.approx(by_hand(out.hidden_states[2][0, 10:]), rel=1e-4)  # type: ignore[no-untyped-call]
        assert table["repeated"][0] == repeated_bigrams(new)


def test_a_text_that_ends_at_once_has_no_figures(lm: LanguageModel, ids: Tensor) -> None:
    start = ids[:1, :10]
    tokenizer = copy.deepcopy(lm.tokenizer)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(next(lm.generate(start, 1, temperature=0)))
    ended = LanguageModel(lm.model, tokenizer)
    nothing = Patch(lm.site(SITE), lambda acts: acts)
    (row,) = sweep(ended, start, [1.0], lambda _: nothing, lambda _: 1.0, temperature=0).itertuples()
    assert (row.ids, row.text, row.repeated) == ([], "", 0)
    assert math.isnan(row.amount)
    assert math.isnan(row.nll)


@pytest.mark.parametrize(("strengths", "new_tokens", "n"), [([], 5, 10), ([1.0], 0, 10), ([1.0], 5, CONTEXT)])
def test_what_cannot_be_swept_is_refused(lm: LanguageModel, strengths: list[float], new_tokens: int, n: int) -> None:
    start = torch.arange(2, 2 + n)[None]
    with pytest.raises(SettingError, match=f"{len(strengths)} strengths and {new_tokens} new tokens after {n} of at"):
        sweep(lm, start, strengths, lambda s: steer_by_vector(lm.site(SITE), torch.ones(32)), lambda _: 0.0, new_tokens)


@pytest.mark.parametrize(
    ("ids", "share"),
    [
        ([], 0),
        ([4], 0),
        ([4, 5], 0),
        ([4, 4, 4], 0.5),
        ([1, 2, 1, 2], 1 / 3),
        ([1, 2, 3, 2, 1], 0),
        ([7] * 41, 39 / 40),
    ],
)
def test_repeated_bigrams_by_hand(ids: list[int], share: float) -> None:
    assert repeated_bigrams(ids) == pytest.approx(share)


@pytest.mark.parametrize("new_tokens_only", [False, True])
def test_next_token_changes_are_those_of_the_logits(lm: LanguageModel, ids: Tensor, new_tokens_only: bool) -> None:
    start = ids[:1, :20]
    patch = steer_by_vector(lm.site(SITE), torch.linspace(-2, 2, 32), new_tokens_only)
    table = next_token_changes(lm, start, patch, k=7)
    p, q = (torch.softmax(lm.logits(start, each)[0, -1], dim=-1) for each in (None, patch))
    change = {token: float(q[token] - p[token]) for token in range(lm.d_vocab)}
    order = sorted(change, key=lambda token: -change[token])
    assert table.index.tolist() == order[:7] + order[-7:]
    assert table["token"].tolist() == [lm.tokenizer.decode([token]) for token in table.index]
    for token, row in table.iterrows():
        assert [row["without"], row["with"], row["change"]] == pytest.approx(
            [float(p[token]), float(q[token]), change[token]], abs=1e-6
        )
    everything = next_token_changes(lm, start, patch, k=10**6)
    assert len(everything) == lm.d_vocab // 2 * 2
