"""Probes find what is there and nothing else, and score as scikit-learn does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import roc_auc_score

from sae_tools.analysis.probing import Labelled, auc, pooled, probe, read_table, scored
from sae_tools.common.errors import InputError
from tests.conftest import DATA, TinyLM, random_sae

SITE = "blocks.1.hook_resid_post"
WORDS = ("fox", "bear", "owl", "river", "sun", "sang", "little", "big")


def labelled(n: int = 160, learnable: bool = True) -> Labelled:
    """Whether a text has the word "fox"; or a coin."""
    chance = np.random.default_rng(0)
    has = np.arange(n) % 2 == 0
    texts = []
    for i in range(n):
        words = list(chance.choice(WORDS[1:], size=6))
        if has[i] and learnable:
            words[int(chance.integers(6))] = "fox"
        texts.append(" ".join(words))
    return Labelled("fox", texts, has if learnable else chance.permuted(has), ("no", "yes"))


def test_a_property_that_a_latent_has_is_found_by_one(tiny_lm: TinyLM) -> None:
    lm, sae = tiny_lm("gpt2"), random_sae("standard")
    site = lm.site(SITE)
    # A latent that reads the direction which tells texts with the word from others; its bias keeps it above 0.
    data = labelled()
    acts, _ = pooled(sae, lm, site, data.texts, 16)
    direction = LinearDiscriminantAnalysis().fit(acts, data.has).coef_[0]
    with torch.no_grad():
        sae.W_enc[:, 7] = torch.from_numpy(direction)
        sae.b_enc[7] = 1000.0
    table = probe(sae, lm, site, data).set_index("probe")
    assert list(table.index) == ["dense", "1 latent", "2 latents", "5 latents", "20 latents"]
    assert table.at["1 latent", "latents"].tolist() == [7]
    assert table.at["1 latent", "raises"].tolist() == [True]
    assert table.at["1 latent", "auc"] > 0.95
    assert table.at["dense", "auc"] > 0.95
    assert (table["n_train"] == 112).all()
    assert (table["n_test"] == 48).all()
    for name in ("accuracy", "auc"):
        assert (table[f"{name}_low"] <= table[name]).all()
        assert (table[name] <= table[f"{name}_high"]).all()


def test_a_coin_is_not_known(tiny_lm: TinyLM) -> None:
    lm = tiny_lm("gpt2")
    table = probe(random_sae("topk"), lm, lm.site(SITE), labelled(learnable=False))
    assert ((table["auc_low"] < 0.6) & (table["auc"] < 0.75)).all()


def test_pooling_is_the_mean_over_each_text_alone(tiny_lm: TinyLM) -> None:
    lm, sae = tiny_lm("llama"), random_sae("topk")
    site = lm.site(SITE)
    texts = ["fox", "the big bear sang because the river is near", "owl!", "a sun"]
    acts, features = pooled(sae, lm, site, texts, 3)
    for i, text in enumerate(texts):
        alone = lm.activations(lm.tokens(text), [site])[SITE][0, 1:]
        np.testing.assert_allclose(acts[i], alone.mean(dim=0), rtol=1e-4, atol=1e-5)
        with torch.no_grad():
            np.testing.assert_allclose(features[i], sae.encode(alone).mean(dim=0), rtol=1e-4, atol=1e-5)


def test_scores_equal_scikit_learn_s_ties_included() -> None:
    chance = np.random.default_rng(0)
    scores, has = chance.integers(-3, 6, size=(5, 40)).astype(float), chance.random((5, 40)) < 0.4
    np.testing.assert_allclose(auc(scores, has), [roc_auc_score(h, s) for h, s in zip(has, scores, strict=True)])
    found = scored(scores[0], has[0])
    assert found["accuracy"] == np.mean((scores[0] > 0) == has[0])
    # The normal approximation of a share's interval.
    half = 1.96 * (found["accuracy"] * (1 - found["accuracy"]) / 40) ** 0.5
    assert found["accuracy_high"] - found["accuracy_low"] == pytest.approx(2 * half, rel=0.15)


def write(path: Path, **columns: Any) -> Path:
    table = pd.DataFrame(columns)
    table.to_parquet(path) if path.suffix == ".parquet" else table.to_csv(path, index=False)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet"])
def test_tables_are_read(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"speech{suffix}", prompt=["a", "b"] * 10, target=["x", "y"] * 10)
    found = read_table(path)
    assert found.name == "speech"
    assert found.classes == ("x", "y")
    assert found.texts == ["a", "b"] * 10
    assert found.has.tolist() == [False, True] * 10


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"prompt": [], "target": []}, "has the targets {}"),
        ({"prompt": ["a"] * 20, "target": [1] * 20}, "has the targets {'1': 20}, but two"),
        ({"prompt": ["a"] * 30, "target": [0, 1, 2] * 10}, "but two of at least 10 texts each"),
        ({"text": ["a"] * 20, "target": [0, 1] * 10}, "has no column 'prompt'; it has: text, target"),
        ({"prompt": ["a"] * 20, "label": [0, 1] * 10}, "has no column 'target'"),
    ],
)
def test_a_table_that_cannot_be_probed_is_refused_in_a_sentence(
    tmp_path: Path, columns: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError) as error:
        read_table(write(tmp_path / "t.csv", **columns))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_none_is_refused_in_a_sentence(tmp_path: Path) -> None:
    for name, content in {"a.parquet": b"x", "b.csv": b"", "c.csv.zst": b"x"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match="cannot be read"):
            read_table(tmp_path / name)
    with pytest.raises(InputError, match="cannot be read"):
        read_table(tmp_path / "absent.csv")


@pytest.mark.skipif(not DATA.exists(), reason="shared/data, real tables, is not beside this checkout")
def test_real_tables_are_read() -> None:
    tables = [read_table(path) for path in sorted((DATA / "probes").glob("*.csv.zst"))]
    assert len(tables) == 6
    assert all(len(table.texts) > 1500 and 0.45 < table.has.mean() < 0.55 for table in tables)
