"""What processes make together equals what one makes alone: counts, labels and texts the same, means to 1e-9."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from sae_tools.analysis.changed import examples
from sae_tools.analysis.evaluate import evaluate
from sae_tools.analysis.imported import Label
from sae_tools.analysis.probing import Labelled, pooled, probe
from sae_tools.analysis.tables import make_tables
from sae_tools.analysis.transfer import transfer
from sae_tools.common import distributed
from sae_tools.common.settings import Features
from sae_tools.models.corpus import Tokens
from sae_tools.models.lm import LanguageModel
from tests.conftest import TinyLM, random_sae
from tests.sae_tools import forked
from tests.sae_tools.analysis.test_probing import labelled

SITE = "blocks.1.hook_resid_post"
Found = dict[str, pd.DataFrame | dict[str, Any]]
"""Tables and figures by name."""


@pytest.fixture(scope="module")
def lm(tiny_lm: TinyLM) -> LanguageModel:
    return tiny_lm("llama")


@pytest.fixture(autouse=True)
def many_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few latents in a pass that there are several passes of everything."""
    for name, value in (
        ("analysis.latents.BLOCK", 12), ("metrics.dictionary.BLOCK", 12), ("analysis.survival.BLOCK", 12),
        ("analysis.gains.LATENTS", 4), ("analysis.gains.SAMPLE", 10), ("analysis.calibrate.ROWS", 3),
        ("analysis.words.COMMON", 5), ("analysis.words.LEAST", 1), ("analysis.words.RARE", 1),
        ("analysis.concepts.FEWEST", 1), ("analysis.concepts.DENSEST", 1),
    ):  # fmt: skip
        monkeypatch.setattr(f"sae_tools.{name}", value)


def keep(work: Callable[..., Found], args: tuple[Any, ...], out: Path) -> None:
    """Do the work as this process's rank, and leave what the rank ended with in `out`."""
    with distributed.group():
        folder = out / str(distributed.rank())
        folder.mkdir(parents=True)
        for name, found in work(*args).items():
            if isinstance(found, dict):
                (folder / f"{name}.json").write_text(json.dumps(found))
            else:
                found.to_parquet(folder / f"{name}.parquet")


def compare(one: Path, other: Path) -> None:
    names = {path.name for path in one.iterdir()}
    assert names == {path.name for path in other.iterdir()}
    for name in names:
        if name.endswith(".json"):
            expected, found = (flat(json.loads((folder / name).read_text())) for folder in (one, other))
            assert found == pytest.approx(expected, rel=1e-9, abs=1e-14, nan_ok=True), name
        else:
            tables = [pd.read_parquet(folder / name) for folder in (other, one)]
            pd.testing.assert_frame_equal(*tables, rtol=1e-9, atol=1e-14)


def flat(values: dict[str, Any], above: str = "") -> dict[str, float]:
    found = {}
    for name, value in values.items():
        found |= flat(value, f"{above}{name}.") if isinstance(value, dict) else {above + name: value}
    return found


def alike(n: int, work: Callable[..., Found], out: Path, *args: Any) -> None:
    """Each of n processes ends with what one alone has."""
    assert forked.run(keep, work, args, out / "alone") == 0
    assert forked.ranks(n, keep, work, args, out / "many") == [0] * n
    for rank in range(n):
        compare(out / "alone" / "0", out / "many" / str(rank))


def evaluated(lm: LanguageModel, architecture: str, ids: Tensor) -> Found:
    result = evaluate(random_sae(architecture), lm, lm.site(SITE), ids, 2)
    assert len(result.worst) == 20
    assert len(set(result.worst["block"])) > 1
    return {"metrics": result.metrics, **result.tables()}


@pytest.mark.parametrize(("n", "n_blocks"), [(2, 11), (3, 12), (3, 2)], ids=["uneven", "even", "more than batches"])
@pytest.mark.parametrize("architecture", ["topk", "standard"])
def test_evaluation(
    lm: LanguageModel, architecture: str, blocks: Tensor, n: int, n_blocks: int, tmp_path: Path
) -> None:
    alike(n, evaluated, tmp_path, lm, architecture, blocks[:n_blocks])


def transferred(base: LanguageModel, finetuned: LanguageModel, texts: dict[str, Tensor], limit: float) -> Found:
    sae, site = random_sae("topk"), base.site(SITE)
    result = transfer(sae, base, finetuned, site, texts, 2, outlier_norm=limit)
    shares = [result.metrics[text]["activations"]["outlier_share_of_text_base"] for text in texts]
    assert all(0 < share < 0.5 for share in shares)
    shown = examples(sae, base, finetuned, site, torch.cat([*texts.values()]), 2, [1, 5, 60])
    found: Found = {"metrics": result.metrics, "features": result.features, "examples": shown}
    for text, alignment in result.alignments.items():
        found |= {
            f"{text}-positions": alignment.by_position(), f"{text}-sequences": alignment.by_sequence(),
            f"{text}-tokens": alignment.tokens(), f"{text}-heat": alignment.heat(),
            f"{text}-outliers": alignment.listed(base, texts[text]),
        }  # fmt: skip
    return found


@pytest.mark.parametrize("n", [2, 3])
def test_transfer(lm: LanguageModel, blocks: Tensor, n: int, tmp_path: Path) -> None:
    model = copy.deepcopy(lm.model)
    chance = torch.Generator().manual_seed(8)
    for parameter in model.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=chance), alpha=0.02)
    finetuned = LanguageModel(model, lm.tokenizer, "finetuned")
    limit = float(lm.activations(blocks, [lm.site(SITE)])[SITE].norm(dim=-1).quantile(0.8))
    texts = {"a": blocks[:9], "b": blocks[9:]}  # of b there are two batches
    alike(n, transferred, tmp_path, lm, finetuned, texts, limit)


CONFIG = Features(
    batch_size=2, n_tokens=400, n_held_out=80, n_top=5, n_promoted=6, n_neighbours=3, n_gained=20, n_calibrated=8,
    prompts=("the fox", "a bear", "the owl"), new_tokens=6,
)  # fmt: skip


def tables(lm: LanguageModel, blocks: Tensor, out: Path) -> None:
    with distributed.group():
        imported = {3: Label("a fox", "person", None)}
        tokens = Tokens(blocks[:10], blocks[10:])
        make_tables(random_sae("topk"), lm, lm.site(SITE), tokens, CONFIG, out, {}, imported)


def test_features(lm: LanguageModel, blocks: Tensor, tmp_path: Path) -> None:
    """To the byte: the passes are the same ones, and a text's chance is its seed's."""
    for n in (1, 2, 3):
        assert forked.ranks(n, tables, lm, blocks, tmp_path / str(n)) == [0] * n
    made = [{path.name: path.read_bytes() for path in (tmp_path / str(n)).iterdir()} for n in (1, 2, 3)]
    assert made[0] == made[1] == made[2]
    table, lists = (pd.read_parquet(tmp_path / "2" / f"{name}.parquet") for name in ("features", "lists"))
    assert (lists["gained_tokens"].map(len) > 0).sum() == 20
    assert table["texts"].nunique() > 2  # all three rounds were written
    assert table["detection"].notna().any()


def probed(lm: LanguageModel, data: Labelled) -> Found:
    acts, features = pooled(random_sae("topk"), lm, lm.site(SITE), data.texts, 16)
    assert len(probe(random_sae("topk"), lm, lm.site(SITE), data)) == (5 if distributed.rank() == 0 else 0)
    return {"acts": pd.DataFrame(acts).add_prefix("d"), "features": pd.DataFrame(features).add_prefix("f")}


def test_probing(lm: LanguageModel, tmp_path: Path) -> None:
    alike(2, probed, tmp_path, lm, labelled(72))
