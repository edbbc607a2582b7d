"""The tables of a small SAE against a brute force over all tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import kurtosis
from torch import Tensor

from sae_tools import saes
from sae_tools.analysis import features
from sae_tools.analysis.examples import BANDS, pick_examples
from sae_tools.analysis.features import automatic_labels, describe, neighbours, promoted_tokens
from sae_tools.analysis.firings import find_firings
from sae_tools.analysis.imported import Label
from sae_tools.analysis.store import FeatureStore, write
from sae_tools.common.artifacts import new_folder
from sae_tools.common.settings import Features
from sae_tools.models.lm import LanguageModel
from tests.conftest import TinyLM, random_sae
from tests.sae_tools.analysis.made import firings_of

SITE = "blocks.1.hook_resid_post"
CONFIG = Features(batch_size=2, n_top=5, n_per_band=2, window=4, n_promoted=6, n_neighbours=3)
DEAD = 11


@pytest.fixture(scope="module")
def sae() -> saes.TrainingSAE[Any]:
    sae = random_sae("standard", seed=3)
    with torch.no_grad():
        sae.b_enc[DEAD] = -1e6
    return sae


@pytest.fixture(scope="module")
def lm(tiny_lm: TinyLM) -> LanguageModel:
    return tiny_lm("llama")


@pytest.fixture(scope="module")
def acts(sae: Any, lm: LanguageModel, blocks: Tensor) -> np.ndarray:
    """(tokens, d_sae) features at every token, 0 at special ones: the brute force."""
    rows = []
    with torch.no_grad():
        for block in torch.split(blocks.long(), 2):
            hidden = lm.model(block, output_hidden_states=True).hidden_states[2]
            rows.append(sae.encode(hidden) * ((block != 0) & (block != 1))[..., None])
    return torch.cat(rows).flatten(0, 1).numpy()


Tables = tuple[pd.DataFrame, pd.DataFrame]


@pytest.fixture(scope="module")
def tables(sae: Any, lm: LanguageModel, blocks: Tensor) -> Tables:
    return describe(sae, lm, lm.site(SITE), blocks, CONFIG)


def test_firings_are_all_activations(sae: Any, lm: LanguageModel, blocks: Tensor, acts: np.ndarray) -> None:
    firings = find_firings(sae, lm, lm.site(SITE), blocks, 2)
    assert firings.n_tokens == int(((blocks != 0) & (blocks != 1)).sum())
    for feature in range(64):
        token, value = firings.of(feature)
        assert token.tolist() == np.flatnonzero(acts[:, feature] > 0).tolist()
        np.testing.assert_allclose(value, acts[token, feature], rtol=1e-4, atol=1e-6)


def test_each_row_s_numbers(tables: Tables, blocks: Tensor, acts: np.ndarray) -> None:
    table = tables[0]
    assert table.index.tolist() == list(range(64))
    n_text = int(((blocks != 0) & (blocks != 1)).sum())
    for feature, row in table.iterrows():
        fired = acts[:, feature][acts[:, feature] > 0]
        assert row["density"] == pytest.approx(len(fired) / n_text)
        assert row["maximum"] == pytest.approx(fired.max() if len(fired) else 0, rel=1e-4)
        assert row["mean"] == pytest.approx(fired.mean() if len(fired) else 0, rel=1e-4)
        assert sum(row["histogram"]) == len(fired)


def test_the_histogram_counts_in_equal_steps_up_to_the_maximum(tables: Tables, acts: np.ndarray) -> None:
    feature = int(np.argmax((acts > 0).sum(axis=0)))
    fired = acts[:, feature][acts[:, feature] > 0]
    counts = tables[0].loc[feature, "histogram"]
    bins = np.minimum((fired / fired.max() * len(counts)).astype(int), len(counts) - 1)
    expected = np.bincount(bins, minlength=len(counts))
    assert np.abs(np.cumsum(counts) - np.cumsum(expected)).max() <= 1  # a value on an edge may fall on either side


def examples_of(tables: Tables, feature: int) -> pd.DataFrame:
    return tables[1][tables[1]["feature"] == feature]


def test_the_top_examples_are_the_strongest_tokens_one_a_block(
    tables: Tables, blocks: Tensor, acts: np.ndarray
) -> None:
    by_block = acts.reshape(len(blocks), blocks.shape[1], -1).max(axis=1)
    for feature in range(64):
        best = np.sort(by_block[:, feature][by_block[:, feature] > 0])[::-1][: CONFIG.n_top]
        examples = examples_of(tables, feature)
        found = examples.loc[examples["band"] == "top", "activation"]
        np.testing.assert_allclose(found, best, rtol=1e-4)


def test_windows_hold_the_tokens_and_values_around(tables: Tables, blocks: Tensor, acts: np.ndarray) -> None:
    values = acts.reshape(len(blocks), blocks.shape[1], -1)
    assert len(tables[1]) > 200
    for example in tables[1].itertuples():
        places = []
        close = np.isclose(values[:, :, example.feature], example.activation, rtol=1e-4)
        for b, p in np.argwhere(close):
            start, end = max(0, p - CONFIG.window), min(blocks.shape[1], p + CONFIG.window // 2 + 1)
            same = blocks[b, start:end].tolist() == list(example.ids) and example.position == p - start
            places.append(same and np.allclose(values[b, start:end, example.feature], example.values, atol=1e-4))
        assert any(places), example
        assert example.values[example.position] == pytest.approx(example.activation)


def test_bands_lie_in_their_quarter_and_repeat_no_top_example(tables: Tables, acts: np.ndarray) -> None:
    for feature in range(64):
        examples = examples_of(tables, feature)
        fired = np.sort(acts[:, feature][acts[:, feature] > 0])
        if not len(fired):
            assert len(examples) == 0
            continue
        top = examples.loc[examples["band"] == "top", "activation"].to_numpy()
        others = fired[~np.isclose(fired[:, None], top, rtol=1e-6).any(axis=1)]
        for quarter, band in enumerate(BANDS):
            found = examples.loc[examples["band"] == band, "activation"]
            low, high = quarter / 4 * fired.max(), (quarter + 1) / 4 * fired.max()
            assert ((found >= low * 0.9999) & (found <= high * 1.0001)).all()
            assert len(found) == min(CONFIG.n_per_band, ((others >= low) & (others < high)).sum())
        order = [*["top"] * len(top), *[b for b in reversed(BANDS) for _ in range((examples["band"] == b).sum())]]
        assert examples["band"].tolist() == order


def test_a_second_run_gives_the_same_tables(sae: Any, lm: LanguageModel, blocks: Tensor, tables: Tables) -> None:
    again = describe(sae, lm, lm.site(SITE), blocks, CONFIG)
    for one, two in zip(tables, again, strict=True):
        pd.testing.assert_frame_equal(one, two)


def test_a_dead_feature_has_a_row_and_nothing_to_show(tables: Tables) -> None:
    row = tables[0].loc[DEAD]
    assert (row["label"], row["density"], row["maximum"], row["mean"]) == ("", 0, 0, 0)
    for column in ("histogram", "top_tokens", "bottom_tokens", "neighbours", "words", "before", "after", "together"):
        assert len(row[column]) == 0
    assert len(examples_of(tables, DEAD)) == 0


def test_labels_are_tested_on_held_out_text_and_give_way_to_imported_ones(
    sae: Any, lm: LanguageModel, blocks: Tensor, acts: np.ndarray
) -> None:
    given = {0: Label("colours", "person", 0.9), DEAD: Label("<b>", "gpt")}
    firings = find_firings(sae, lm, lm.site(SITE), blocks[:9], 2)
    table, _ = describe(
        sae, lm, lm.site(SITE), blocks[:9], CONFIG, held_out=blocks[9:], firings=firings, imported=given
    )
    labels = automatic_labels(firings, blocks[:9], lm)
    assert table["automatic_label"].tolist() == labels
    assert table["label"].tolist() == ["colours", *labels[1:DEAD], "<b>", *labels[DEAD + 1 :]]
    assert table["label_source"].value_counts().to_dict() == {"automatic": 62, "person": 1, "gpt": 1}
    fires = (acts > 0).reshape(len(blocks), -1, 64)[9:].any(axis=(0, 1))
    assert table["detection"].notna().tolist() == fires.tolist()
    assert table.loc[0, "label_score"] == 0.9
    assert np.isnan(table.loc[DEAD, "label_score"])
    others = table.drop([0, DEAD])
    assert others["label_score"].equals(others["detection"])
    assert others["detection"].mean() > 0.1


def test_without_held_out_text_no_label_has_a_score(tables: Tables) -> None:
    assert tables[0][["label_score", "detection", "detection_precision", "detection_recall"]].isna().all(axis=None)
    assert (tables[0]["label"] == tables[0]["automatic_label"]).all()
    assert set(tables[0]["label_source"]) == {"automatic"}


def test_a_site_without_a_straight_way_to_the_logits_has_features_without_promoted_tokens(
    lm: LanguageModel, blocks: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    site = lm.site("model.layers.1.self_attn.q_proj")
    table, _ = describe(random_sae("topk"), lm, site, blocks, CONFIG)
    assert "not added to the residual stream" in caplog.text
    assert {len(tokens) for column in ("top_tokens", "bottom_logits") for tokens in table[column]} == {0}
    assert (table["label"] != "").any()


def test_promoted_tokens_are_the_largest_and_smallest_effects(tables: Tables, sae: Any, lm: LanguageModel) -> None:
    norm = lm.model.get_submodule("model.norm").weight
    effects = ((sae.W_dec * norm) @ lm.unembedding.T).detach().numpy()
    for feature in (0, 17, 63):
        row = tables[0].loc[feature]
        order = np.argsort(-effects[feature])
        np.testing.assert_allclose(row["top_logits"], effects[feature][order[:6]], rtol=1e-3)
        np.testing.assert_allclose(row["bottom_logits"], effects[feature][order[::-1][:6]], rtol=1e-3)
        np.testing.assert_allclose(effects[feature][row["top_tokens"]], row["top_logits"], rtol=1e-3)
        np.testing.assert_allclose(effects[feature][row["bottom_tokens"]], row["bottom_logits"], rtol=1e-3)


def test_effects_with_the_bias_and_how_peaked_they_are(sae: Any, lm: LanguageModel) -> None:
    norm = lm.model.get_submodule("model.norm").weight
    for with_bias in (False, True):
        found = promoted_tokens(sae, lm, lm.site(SITE), 6, with_bias)
        directions = sae.W_dec + sae.b_dec if with_bias else sae.W_dec
        effects = ((directions * norm) @ lm.unembedding.T).detach().double().numpy()
        np.testing.assert_allclose(found["top_logits"], -np.sort(-effects, axis=1)[:, :6], rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(found["kurtosis"], kurtosis(effects, axis=1, fisher=False), rtol=1e-3)
        share = np.sort(np.abs(effects))[:, -10:].sum(axis=1) / np.abs(effects).sum(axis=1)
        np.testing.assert_allclose(found["top10_share"], share, rtol=1e-3)


@pytest.mark.parametrize("fast", [False, True])
def test_neighbours_equal_a_brute_force(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if fast:
        monkeypatch.setattr(features, "LARGE", 0)
        monkeypatch.setattr(features, "product_dtype", lambda *_: torch.bfloat16)
    directions = torch.randn(1500, 8, generator=torch.Generator().manual_seed(0))  # more than one part of 1,024
    found = neighbours(directions, 4)
    rows = directions.double().numpy()
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -2)
    np.testing.assert_allclose(found["neighbour_cosines"], -np.sort(-cosines, axis=1)[:, :4], atol=1e-5)
    np.testing.assert_allclose(
        np.take_along_axis(cosines, found["neighbours"], axis=1), found["neighbour_cosines"], atol=1e-5
    )


@pytest.mark.parametrize(("d_sae", "n"), [(1, 3), (2, 3), (5, 0)])
def test_no_more_neighbours_than_there_are(d_sae: int, n: int) -> None:
    assert neighbours(torch.randn(d_sae, 4), n)["neighbours"].shape == (d_sae, min(n, d_sae - 1))


def test_examples_at_the_edges_of_a_block_stay_inside() -> None:
    firings = firings_of(([], []), ([0, 5, 6, 11], [1.0, 2, 3, 4]), ([10], [7.0]))
    examples = pick_examples(firings, np.arange(12), 6, CONFIG)
    assert examples["feature"].tolist() == [1, 1, 1, 1, 2]
    shown = [
        (e.band, e.activation, e.ids.tolist(), e.position, e.values_.tolist())
        for e in examples.rename(columns={"values": "values_"}).itertuples()
    ]
    assert shown == [
        ("top", 4, [7, 8, 9, 10, 11], 4, [0, 0, 0, 0, 4]),
        ("top", 2, [1, 2, 3, 4, 5], 4, [0, 0, 0, 0, 2]),
        ("75–100%", 3, [6, 7, 8], 0, [3, 0, 0]),
        ("25–50%", 1, [0, 1, 2], 0, [1, 0, 0]),
        ("top", 7, [6, 7, 8, 9, 10, 11], 4, [0, 0, 0, 0, 7, 0]),
    ]


def test_of_equal_activations_the_earliest_is_shown() -> None:
    tokens = [0, 1, 6, 13, 14, 18, 25]
    firings = firings_of((tokens, [1.0, 2, 2, 2, 2, 1, 2]), n_tokens=30)
    examples = pick_examples(firings, np.arange(30), 6, Features(n_top=3, n_per_band=0, window=4))
    assert [e.ids[e.position] for e in examples.itertuples()] == [1, 6, 13]


def test_draws_are_distinct_and_from_all_over_the_text() -> None:
    firings = firings_of((list(range(0, 12_000, 2)), [1.0] * 6000), n_tokens=12_000)
    examples = pick_examples(firings, np.arange(12_000), 6, Features(n_top=1, n_per_band=50, window=1))
    places = [e.ids[e.position] for e in examples.itertuples() if e.band != "top"]
    assert len(set(places)) == 50
    assert (np.histogram(places, 10, (0, 12_000))[0] == 5).all()


def test_more_promoted_tokens_than_the_vocabulary_has(lm: LanguageModel, blocks: Tensor, sae: Any) -> None:
    config = Features(n_promoted=10_000, batch_size=2)
    table, _ = describe(sae, lm, lm.site(SITE), blocks[:2], config)
    assert len(table.loc[0, "top_tokens"]) <= lm.d_vocab


def test_an_sae_whose_features_are_all_dead_is_described_and_opened(
    tmp_path: Path, lm: LanguageModel, blocks: Tensor
) -> None:
    dead = random_sae("standard")
    with torch.no_grad():
        dead.b_enc.fill_(-1e6)
    with new_folder(tmp_path / "f") as folder:
        write(folder, *describe(dead, lm, lm.site(SITE), blocks[:2], CONFIG, held_out=blocks[2:4]), {})
    store = FeatureStore.open(tmp_path / "f")
    assert (store.table["density"] == 0).all()
    assert set(store.table["label"]) == {""}
    assert store.table["detection"].isna().all()
    assert store.examples(0) == []
    assert len(store.row(0)["words"]) == len(store.row(0)["together"]) == 0
