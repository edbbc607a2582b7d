"""The page of what two models have in common and alone: a crosscoder's latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
from markupsafe import Markup

from sae_tools.reports import render
from sae_tools.reports.figures import COLOURS, chart, numbers
from sae_tools.reports.report import as_plot, page


@dataclass(frozen=True)
class Latent:
    """A latent near one end, with its strongest examples: texts by token, and its activation at each."""

    latent: int
    figures: Mapping[str, Any]
    """As a row of `difference`'s table."""
    examples: Sequence[tuple[Sequence[str], Sequence[float]]]


@dataclass(frozen=True)
class DifferenceContents:
    """All that the page shows."""

    base: str
    finetuned: str
    site: str
    verdict: Sequence[str]
    figures: Mapping[str, Any]
    latents: Mapping[str, Sequence[Latent]]
    """finetuned, base: those nearest to that model alone, the nearest first."""


def difference_report(contents: DifferenceContents) -> str:
    """The page."""
    figures = contents.figures
    tiles = [
        ("Shared latents", f"{figures['classes']['shared']:,}"),
        ("In the base model only", f"{figures['classes']['base_only']:,}"),
        ("In the finetuned model only", f"{figures['classes']['finetuned_only']:,}"),
        ("Explained in the base model", render.number(figures["crosscoder_base_explained_variance"])),
        ("Explained in the finetuned one", render.number(figures["crosscoder_finetuned_explained_variance"])),
        ("Dead", render.share(figures["dead_share"])),
    ]
    halves = [
        (
            model,
            render.number(figures[f"half_{model}_explained_variance"]),
            render.number(figures[f"half_{model}_l0"]),
        )
        for model in ("base", "finetuned")
    ]
    latents = {
        side: [(it, [_strip(it, *example) for example in it.examples]) for it in found]
        for side, found in contents.latents.items()
    }
    norms = as_plot(relative_norms(figures["relative_norms"]))
    return page("difference.html", it=contents, tiles=tiles, halves=halves, latents=latents, norms=norms)


def relative_norms(counts: Sequence[int]) -> go.Figure:
    """How many live latents lie how near to which model."""
    step = 1 / len(counts)
    bars = go.Bar(
        x=numbers([(i + 0.5) * step for i in range(len(counts))]), y=list(counts), marker={"color": COLOURS[0]}
    )
    axis = {"range": [-0.06, 1.06], "tickvals": [0, 0.5, 1], "ticktext": ["base only", "shared", "finetuned only"]}
    return chart([bars], "relative norm of a latent's two directions", "latents", xaxis=axis)


def _strip(latent: Latent, pieces: Sequence[str], values: Sequence[float]) -> Markup:
    return Markup(render.strip(pieces, values, latent.figures["maximum"], small=True))
