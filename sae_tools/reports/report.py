"""One page that holds all that is known of an SAE, and one that compares SAEs: no network, a file that people send."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from plotly.offline import get_plotlyjs

from sae_tools.reports import figures, render
from sae_tools.reports.meanings import MEANINGS, shown

NAMED = 5
"""Latents of a probe that are named."""
TILES = ("l0", "explained_variance", "ce_loss_score", "kl_div_with_sae", "top1_agreement", "dead_share")


@dataclass(frozen=True)
class Shown:
    """A feature drawn for a report."""

    feature: int
    label: str
    density: float
    maximum: float
    examples: list[tuple[list[str], list[float]]]
    """Texts by token, and the feature's activation at each."""
    promoted: list[str]


@dataclass(frozen=True)
class Contents:
    """All that a report shows of one SAE."""

    name: str
    model: str
    site: str
    architecture: str
    d_in: int
    d_sae: int
    verdict: list[str]
    figures: Mapping[str, float]
    tables: Mapping[str, pd.DataFrame]
    """As `Evaluation.tables` names them, and `curve`: the steps of training."""
    features: Sequence[Shown]
    recipe: Mapping[str, Any]
    labels: Mapping[int, str] = field(default_factory=dict)
    """Of the latents that probes name."""
    transfer: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Figures by model and text; empty where no finetuned model was given."""
    versions: Mapping[str, str] = field(default_factory=dict)


def report(contents: Contents) -> str:
    """The page of one SAE."""
    tables = contents.tables
    charts = {
        "density": figures.density(tables["density"]),
        "positions": figures.by_position(tables["positions"]),
        "round_trip": figures.round_trip(tables["latents"]),
    }
    if len(tables["l0"]) > 1:  # with TopK all tokens have the same number
        charts["l0"] = figures.tokens_by(tables["l0"], "latents that fire on a token")
    if len(tables["curve"]):
        charts["training"] = figures.training(tables["curve"])
    return page(
        "report.html",
        it=contents,
        tiles=[(*named(key), shown(key, contents.figures[key])) for key in TILES],
        rows=[(*named(key), shown(key, contents.figures[key])) for key in MEANINGS if key in contents.figures],
        charts={name: as_plot(figure) for name, figure in charts.items()},
        worst=tables["worst"].to_dict("records"),
        features=[(it, [_strip(it, *example) for example in it.examples]) for it in contents.features],
        transfer=_transfer_rows(contents.transfer),
        probes=_probes(contents),
    )


def index(
    saes: Mapping[str, Mapping[str, float]],
    verdicts: Mapping[str, list[str]],
    transfers: Mapping[str, Sequence[str]],
    has_difference: bool,
) -> str:
    """The page that compares SAEs by their figures; `transfers`: the verdicts on SAEs with a transfer report."""
    charts = {
        "explained_variance": figures.front(saes, "explained_variance", "explained variance"),
        "ce_loss_score": figures.front(saes, "ce_loss_score", "CE recovered"),
    }
    keys = [key for key in MEANINGS if all(key in found for found in saes.values())]
    rows = [(*named(key), [shown(key, found[key]) for found in saes.values()]) for key in keys]
    return page(
        "index.html", names=list(saes), rows=rows, verdicts=verdicts, transfers=transfers,
        has_difference=has_difference,
        charts={name: as_plot(figure) for name, figure in charts.items()},
    )  # fmt: skip


def named(key: str) -> tuple[str, str]:
    return MEANINGS[key]


def _transfer_rows(columns: Mapping[str, Mapping[str, float]]) -> list[tuple[str, list[str]]]:
    if not columns:
        return []
    keys = ("explained_variance", "ce_loss_score", "l0", "ce_loss_without_sae", "kl_div_with_sae")
    return [(MEANINGS[key][0], [shown(key, found[key]) for found in columns.values()]) for key in keys]


def _probes(contents: Contents) -> list[tuple[str, list[dict[str, Any]]]]:
    """Each table's probes, with the labels of the latents that they read."""
    found = contents.tables.get("probes", pd.DataFrame())
    return [
        (str(name), [row | {"named": _latents(row, contents.labels)} for row in rows.to_dict("records")])
        for name, rows in (found.groupby("table", sort=False) if len(found) else ())
    ]


def _latents(row: Mapping[str, Any], labels: Mapping[int, str]) -> list[tuple[str, str]]:
    """The first five latents of a probe: "+" or "-", and label and id."""
    signs = ["+" if raises else "−" for raises in row["raises"]]
    return [
        (sign, f"{labels.get(int(latent), '')} ({latent})")
        for sign, latent in zip(signs[:NAMED], row["latents"][:NAMED], strict=True)
    ]


def _strip(feature: Shown, pieces: list[str], values: list[float]) -> Markup:
    return Markup(render.strip(pieces, values, feature.maximum, small=True))


def as_plot(figure: go.Figure) -> Markup:
    figure = escape(figure.to_json(remove_uids=True))
    return Markup('<div class="plot" data-figure="{}" style="min-height:{}px"></div>').format(figure, 300)


@cache
def _plotly() -> str:
    """Plotly's script, packed: 2 MB in place of 4.8. The page unpacks it."""
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def page(template: str, **values: object) -> str:
    pages = Environment(
        loader=PackageLoader("sae_tools.reports", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    safe = {"visible": render.isolated, "chip": render.chip}
    pages.filters |= {name: lambda text, how=how: Markup(how(text)) for name, how in safe.items()}
    pages.filters |= {"number": render.number, "share": render.share}
    return pages.get_template(template).render(plotly=_plotly(), **values)
