"""The pages on finetuning show what was measured, whatever text is in it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from sae_tools.reports.difference import DifferenceContents, Latent, difference_report, relative_norms
from sae_tools.reports.meanings import MEANINGS, shown
from sae_tools.reports.transfer import (
    ACTIVATIONS,
    COMPARED,
    TOKENIZER,
    WAYS,
    Changed,
    TransferContents,
    transfer_report,
)
from tests.sae_tools.reports.test_render import HOSTILE, parsed
from tests.sae_tools.reports.test_report import text_of


@pytest.mark.parametrize("name", ["topk", "standard"])
def test_a_transfer_report_shows_verdict_figures_repairs_and_changed_features(workbench: Path, name: str) -> None:
    page = workbench / f"reports/transfer-{name}.html"
    text, folder = text_of(page), workbench / "artifacts/transfer" / name
    for sentence in json.loads((folder / "verdict.json").read_text()):
        assert sentence in text
    figures = json.loads((folder / "figures.json").read_text())
    for key in COMPARED:
        row = [
            shown(key, figures[of][which][key])
            for of in ("base_text", "finetuned_text")
            for which in ("base", "finetuned")
        ]
        assert f"{MEANINGS[key][0]} {' '.join(row)}" in text
    adapted = json.loads((workbench / "artifacts/adapted" / name / "figures.json").read_text())
    for way, words in WAYS.items():
        values = adapted[way]["finetuned_text"]
        row = [shown(key, values[key]) for key in ("explained_variance", "ce_loss_score", "l0")]
        assert f"{words} {' '.join(row)}" in text
    for words in (*ACTIVATIONS.values(), *TOKENIZER.values()):
        assert words in text
    changed = pd.read_parquet(folder / "changed.parquet")
    for feature in changed.index:
        assert re.search(rf" {feature} · fires on", text)


def test_the_difference_is_shown_with_its_latents(workbench: Path) -> None:
    text, folder = text_of(workbench / "reports/difference.html"), workbench / "artifacts/crosscoder"
    latents = pd.read_parquet(folder / "latents.parquet")
    live = latents[latents["density"] > 0].sort_values("relative_norm", kind="stable")
    for side in (live[:8], live[-8:]):
        for latent, row in side.iterrows():
            assert f"{latent} · relative norm {row['relative_norm']:.2f}" in text
    figures = json.loads((folder / "figures.json").read_text())
    bars = relative_norms(figures["relative_norms"]).data[0]
    assert sum(bars.y) == len(live)
    assert "transfer-topk.html" in (workbench / "reports/index.html").read_text()
    assert "difference.html" in (workbench / "reports/index.html").read_text()


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(workbench: Path, text: str) -> None:
    folder = workbench / "artifacts/transfer/topk"
    tables = {path.stem: pd.read_parquet(path) for path in folder.glob("*.parquet")}
    tables["outliers-finetuned_text"] = tables["outliers-finetuned_text"].assign(token=text)
    figures = json.loads((folder / "figures.json").read_text())
    changed = [Changed(3, text, {"density_base": 0.1, "density_finetuned": 0.0, "correlation": 0.5},
                       [("parts", [text, "b"], [1.0, 0.0], [0.0, 0.5])])]  # fmt: skip
    hostile = TransferContents(text, text, text, text, [text], figures, tables, changed)
    plain = replace(hostile, name="x", verdict=["x"])
    latent = Latent(3, {"label": text, "maximum": 1.0, "relative_norm": 0.9, "nu_eps": 0.1, "nu_r": 0.1, "density": 0.1,
                        "genuine": True}, [([text, "b"], [1.0, 0.0])])  # fmt: skip
    found = json.loads((workbench / "artifacts/crosscoder/figures.json").read_text())
    difference = DifferenceContents(text, text, text, [text], found, {"finetuned": [latent], "base": []})
    for page, harmless in (
        (transfer_report(hostile), transfer_report(plain)),
        (difference_report(difference), difference_report(replace(difference, verdict=["x"]))),
    ):
        assert set(parsed(page).tags) == set(parsed(harmless).tags)
        assert parsed(page).attributes == parsed(harmless).attributes
