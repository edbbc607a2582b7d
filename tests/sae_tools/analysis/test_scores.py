"""The table of all scores: one row a feature, values where they were measured and defaults elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from torch import Tensor

from sae_tools.analysis.firings import Firings, find_firings
from sae_tools.analysis.gains import STRENGTH
from sae_tools.analysis.scores import score
from sae_tools.common.settings import Features
from tests.conftest import TinyLM, random_sae

CONFIG = Features(n_gained=20, n_calibrated=3, prompts=("the fox",), new_tokens=4)
EMPTY = Firings(np.zeros(0, np.int32), np.zeros(0, np.float32), np.zeros(65, np.int64), 100)


def test_a_feature_has_what_was_measured_of_it(tiny_lm: TinyLM, ids: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("words.COMMON", 5), ("words.LEAST", 1), ("words.RARE", 1), ("concepts.FEWEST", 1)):
        monkeypatch.setattr(f"sae_tools.analysis.{name}", value)
    monkeypatch.setattr("sae_tools.analysis.concepts.DENSEST", 1)
    lm, sae = tiny_lm("llama"), random_sae("topk")
    site = lm.site("blocks.1.hook_resid_post")
    table = score(sae, lm, site, find_firings(sae, lm, site, ids, 2), ids, ids, 3.0, CONFIG)
    assert table.index.tolist() == list(range(64))
    tried = table["gained_tokens"].map(len) > 0
    assert tried.sum() == 20
    assert (table["gained"].map(len) == table["gained_tokens"].map(len)).all()
    assert (table.loc[~tried, "steering"] == 0).all()
    written = table["good_share"].notna()
    assert 0 < written.sum() <= 3
    assert table.loc[written, "steering"].min() >= table.loc[~written, "steering"].max()
    assert set(table.loc[written, "strength"]) <= set(CONFIG.strengths)
    assert (table.loc[~written, "strength"] == STRENGTH).all()
    assert (table.loc[~written, "texts"] == 0).all()


def test_an_sae_that_never_fires_has_no_scores(tiny_lm: TinyLM, ids: Tensor) -> None:
    lm = tiny_lm("llama")
    table = score(random_sae("topk"), lm, lm.site("blocks.1.hook_resid_post"), EMPTY, ids, ids, 3.0, CONFIG)
    assert len(table) == 64
    assert table[["concept", "steering"]].to_numpy().max() == 0
    assert not table["gained_tokens"].map(len).any()
