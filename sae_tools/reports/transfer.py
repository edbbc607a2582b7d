"""The page of what finetuning did to an SAE's model: whether the SAE holds, what changed, what repairs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from markupsafe import Markup

from sae_tools.reports import render, transfer_figures
from sae_tools.reports.meanings import MEANINGS, shown
from sae_tools.reports.report import as_plot, page
from sae_tools.reports.transfer_figures import TEXTS

COMPARED = (
    "explained_variance", "ce_loss_score", "l0", "kl_div_with_sae", "mse", "cossim", "ce_loss_without_sae",
    "ce_loss_with_sae", "ce_loss_with_ablation", "dead_share", "n_tokens",
)  # fmt: skip
COLUMNS = {
    "base": "base model", "finetuned": "finetuned model", "base_without_outliers": "base model, no outliers",
    "finetuned_without_outliers": "finetuned model, no outliers",
}  # fmt: skip
TOKENIZER = {
    "size_base": "Tokens of the base model",
    "size_finetuned": "Tokens of the finetuned model",
    "only_base": "In the base model only",
    "only_finetuned": "In the finetuned model only",
    "moved": "In both, with another id",
    "agreement": "Base tokens with the same id in the finetuned model",
    "agreement_finetuned": "Finetuned tokens with the same id in the base model",
    "added_rows": "Rows added to the unembedding, left out",
}
ACTIVATIONS = {
    "cosine": "Cosine of a token's two activations",
    "distance": "Distance between them",
    "norm_ratio": "Length in the finetuned model / in the base model",
    "cosine_first_position": "Cosine at the first position",
    "cosine_without_outliers": "Cosine, outliers left out",
    "cka": "Linear CKA",
    "norm_scale": "S, which gives a row the expected norm √d",
    "outlier_limit": "Norm above which a token is an outlier",
    "outlier_share_base": "Outliers in the base model, of all tokens",
    "outlier_share_finetuned": "Outliers in the finetuned model",
    "outlier_share_of_text_base": "Outliers in the base model, of text tokens",
    "outlier_share_of_text_finetuned": "Outliers in the finetuned model, of text tokens",
}
KINDS = {
    "base": "strongest in the base model",
    "finetuned": "strongest in the finetuned model",
    "parts": "where the two part most",
}
WAYS = {
    "finetuned": "Going on training it",
    "extended": "Adding latents, the others as they are",
    "scratch": "A new one from scratch",
}
Example = tuple[str, Sequence[str], Sequence[float], Sequence[float]]
"""Kind, pieces of text, the feature in the base model and in the finetuned one."""


@dataclass(frozen=True)
class Changed:
    """A feature that finetuning changed."""

    feature: int
    label: str
    figures: Mapping[str, float]
    examples: Sequence[Example]


@dataclass(frozen=True)
class TransferContents:
    """All that a transfer report shows of one SAE."""

    name: str
    base: str
    finetuned: str
    site: str
    verdict: Sequence[str]
    figures: Mapping[str, Any]
    """As `transfer` gives them, and `own`."""
    tables: Mapping[str, pd.DataFrame]
    """features, and by text `positions-<text>`, `sequences-`, `tokens-`, `cosines-`, `outliers-`."""
    changed: Sequence[Changed]
    adapted: Mapping[str, Any] = field(default_factory=dict)
    """By way and text the figures of the repaired SAEs; empty where none was made."""
    has_crosscoder: bool = False
    curve: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Of the repairs: way, tokens, explained_variance, l0."""


def transfer_report(contents: TransferContents) -> str:
    """The page of one SAE."""
    texts = [text for text in TEXTS if text in contents.figures]
    features = contents.figures["features"]
    return page(
        "transfer.html",
        it=contents,
        tiles=_tiles(contents, texts[-1]),
        metrics=_columns(contents.figures, texts),
        own=_columns(contents.figures["own"], texts) if "own" in contents.figures else None,
        activations=[
            (name, [_activation(key, contents.figures[text]["activations"][key]) for text in texts])
            for key, name in ACTIVATIONS.items()
        ],
        texts=[TEXTS[text] for text in texts],
        tokenizer=[(name, _count(key, contents.figures["tokenizer"][key])) for key, name in TOKENIZER.items()],
        features=features,
        unembedding=contents.figures["unembedding"],
        charts={name: as_plot(figure) for name, figure in _charts(contents, texts).items()},
        outliers=contents.tables[f"outliers-{texts[-1]}"].head(12).to_dict("records"),
        changed=[(it, _pairs(it.examples)) for it in contents.changed],
        repairs=_repairs(contents, texts[-1]),
    )


def _tiles(contents: TransferContents, text: str) -> list[tuple[str, str, str]]:
    of, ev, ce = contents.figures, "explained_variance", "ce_loss_score"
    base, finetuned, features = of["base_text"]["base"], of[text]["finetuned"], of["features"]
    cosine = render.number(of[text]["activations"]["cosine"])
    same = render.share(features["share_above_0.8"])
    return [
        ("Explained in the base model", "explained variance, base model on its text", shown(ev, base[ev])),
        ("Explained in the finetuned one", f"explained variance on {TEXTS[text]}", shown(ev, finetuned[ev])),
        ("CE recovered there", MEANINGS[ce][1], shown(ce, finetuned[ce])),
        ("Cosine of activations", "of a token in both models", cosine),
        ("Features that do the same", "correlation above 0.8, of those that fire regularly in both", same),
        ("Features that fall silent", "fire in the base model only", f"{features['only_in_base']:,}"),
    ]


def _columns(figures: Mapping[str, Any], texts: list[str]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Heads and rows of a table: models and texts by figure."""
    found = {
        f"{name}, {TEXTS[text]}": figures[text][column]
        for text in texts
        for column, name in COLUMNS.items()
        if column in figures[text]
    }
    rows = [(MEANINGS[key][0], [shown(key, values[key]) for values in found.values()]) for key in COMPARED]
    return list(found), rows


def _activation(key: str, value: float) -> str:
    return render.share(value) if "share" in key else render.number(value)


def _count(key: str, value: float) -> str:
    return render.share(value) if key.startswith("agreement") else f"{value:,}"


def _charts(contents: TransferContents, texts: list[str]) -> dict[str, Any]:
    def tables(what: str) -> dict[str, pd.DataFrame]:
        return {text: contents.tables[f"{what}-{text}"] for text in texts}

    features = contents.tables["features"]
    found = {
        "heat": transfer_figures.heat(contents.tables[f"cosines-{texts[-1]}"]),
        "positions": transfer_figures.by_position(tables("positions"), "cosine", "cosine"),
        "tokens": transfer_figures.by_token(tables("tokens"), "cosine", "cosine of a token's activations"),
        "distances": transfer_figures.by_token(tables("tokens"), "distance", "distance of a token's activations"),
        "sequences": transfer_figures.by_sequence(tables("sequences"), "cosine", "mean cosine of a block"),
        "densities": transfer_figures.densities(features),
        "correlations": transfer_figures.shares(
            features, {"correlation": "activations", "logit_similarity": "effects on the logits"}, "Pearson's r"
        ),
    }
    if len(contents.curve):
        goal = contents.figures["base_text"]["base"]["explained_variance"]
        found["adaptation"] = transfer_figures.adaptation(
            contents.curve, "explained_variance", "explained variance", goal
        )
        found["adaptation_l0"] = transfer_figures.adaptation(contents.curve, "l0", "L0")
    return found


def _pairs(examples: Sequence[Example]) -> list[tuple[str, list[tuple[Markup, Markup]]]]:
    """By kind: examples as two strips of one scale, in the base model and in the finetuned one."""
    found: dict[str, list[tuple[Markup, Markup]]] = {}
    for kind, pieces, base, finetuned in examples:
        most = max(*base, *finetuned)
        one, other = (Markup(render.strip(pieces, values, most, small=True)) for values in (base, finetuned))
        found.setdefault(KINDS[kind], []).append((one, other))
    return list(found.items())


def _repairs(contents: TransferContents, text: str) -> list[tuple[str, list[str]]]:
    keys = ("explained_variance", "ce_loss_score", "l0")
    return [
        (name, [shown(key, contents.adapted[way][text][key]) for key in keys])
        for way, name in WAYS.items()
        if text in contents.adapted.get(way, {})
    ]
