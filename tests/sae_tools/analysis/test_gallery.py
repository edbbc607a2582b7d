"""Who is shown: in order, all different, with the text that the first seed gives."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

from sae_tools.analysis import judge
from sae_tools.analysis.gallery import PROMPT, SEED, gallery
from sae_tools.analysis.steering import Push, steer
from sae_tools.common.settings import Features
from tests.conftest import TinyLM, random_sae

CONFIG = Features(n_gallery=(3, 2), new_tokens=6, temperature=0.8)
UNIT = 3.0


@pytest.fixture
def table() -> pd.DataFrame:
    made = pd.DataFrame(
        {"concept": 0.0, "steering": 0.1, "word": [f"w{i}" for i in range(64)], "strength": 0.5,
         "shown": float("nan"), "good_share": 0.5, "texts": 0},
    )  # fmt: skip
    made.loc[[5, 6, 7, 8, 9], "concept"] = [0.5, 0.4, 0.3, 0.2, 0.1]
    made.loc[[6, 7], "word"] = ["W5s", "w7"]
    made.loc[[1, 2, 3, 4], "shown"] = [1.0, 0.75, 0.75, 0.0]
    made.loc[[1, 2, 3, 4], "texts"] = [1, 40, 40, 40]
    made.loc[[2, 3], "steering"] = [0.2, 0.3]
    return made


def test_the_best_are_shown_once_each(tiny_lm: TinyLM, table: pd.DataFrame) -> None:
    lm, sae = tiny_lm("llama"), random_sae("topk")
    with torch.no_grad():
        sae.W_dec.copy_(torch.nn.functional.normalize(torch.eye(64, 32) + 0.01 * torch.eye(64, 32).roll(1, 1), dim=1))
        sae.W_dec[8] = sae.W_dec[7] + 0.3 * sae.W_dec[20]
    site = lm.site("blocks.1.hook_resid_post")
    shown = gallery(sae, lm, site, table, UNIT, CONFIG)
    assert [entry["feature"] for entry in shown["concepts"]] == [5, 7, 9]  # 6 has 5's word, 8 lies close to 7
    assert [entry["feature"] for entry in shown["steering"]] == [3, 2]  # 1 of 1 counts for less than 30 of 40
    patch = steer(sae, site, [Push(3, "add", 0.5)], UNIT)
    ids = lm.tokens(PROMPT)
    for key, each in (("default", None), ("steered", patch)):
        new = list(lm.generate(ids, 6, 0.8, SEED, each))
        assert (
            shown["steering"][0][key] == lm.tokenizer.decode(ids[0].tolist() + new)[len(lm.tokenizer.decode(ids[0])) :]
        )
    assert json.loads(json.dumps(shown)) == shown


def test_one_whose_first_text_breaks_is_not_offered(
    tiny_lm: TinyLM, table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm, sae = tiny_lm("llama"), random_sae("topk")
    broken = iter([9.0, 2.0])
    monkeypatch.setattr(judge, "loss", lambda lm, ids, new: np.array([next(broken, 2.0)]))
    monkeypatch.setattr(judge, "repeated", lambda new: np.zeros(1))
    shown = gallery(sae, lm, lm.site("blocks.1.hook_resid_post"), table, UNIT, CONFIG)
    assert 3 not in [entry["feature"] for entry in shown["steering"]]


def test_nothing_to_show_is_an_empty_gallery(tiny_lm: TinyLM, table: pd.DataFrame) -> None:
    lm = tiny_lm("llama")
    empty = table.assign(concept=0.0, shown=float("nan"))
    shown = gallery(random_sae("topk"), lm, lm.site("blocks.1.hook_resid_post"), empty, UNIT, CONFIG)
    assert shown == {"concepts": [], "steering": []}
