"""Charts of a transfer report."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from sae_tools.reports.figures import COLOURS, INK, chart, line, numbers

TEXTS = {"base_text": "the base model's text", "finetuned_text": "the finetuned model's text"}
MOST_CELLS, MOST_DOTS = (96, 256), 4000
WAYS = {"finetuned": "trained on", "extended": "latents added", "scratch": "from scratch"}


def by_position(tables: Mapping[str, pd.DataFrame], measure: str, title: str) -> go.Figure:
    """A mean at each position of the block, a line for each text."""
    traces = [
        line(table.index, table[measure], TEXTS[text], colour)
        for (text, table), colour in zip(tables.items(), COLOURS, strict=False)
    ]
    return chart(traces, "position in the block", title)


def by_token(tables: Mapping[str, pd.DataFrame], measure: str, title: str) -> go.Figure:
    """How many tokens have which value, as shares of their text."""
    traces = []
    for (text, table), colour in zip(tables.items(), COLOURS, strict=False):
        rows = table[table["measure"] == measure]
        traces.append(line(rows["from"], rows["tokens"] / max(rows["tokens"].sum(), 1), TEXTS[text], colour))
    return chart(traces, title, "share of tokens", yaxis={"rangemode": "tozero"})


def by_sequence(tables: Mapping[str, pd.DataFrame], measure: str, title: str) -> go.Figure:
    """A histogram of the blocks' means."""
    traces = [
        go.Histogram(x=numbers(table[measure]), nbinsx=30, name=TEXTS[text], marker={"color": colour}, opacity=0.7)
        for (text, table), colour in zip(tables.items(), COLOURS, strict=False)
    ]
    return chart(traces, title, "blocks").update_layout(barmode="overlay")


def heat(table: pd.DataFrame) -> go.Figure:
    """Cosine by block and position; of a large table means over neighbours."""
    values = table.to_numpy(dtype=float)[: MOST_CELLS[0]]
    step = -(-values.shape[1] // MOST_CELLS[1])
    edges = np.arange(0, values.shape[1], step)
    means = np.add.reduceat(values, edges, axis=1) / np.diff(np.append(edges, values.shape[1]))
    trace = go.Heatmap(
        z=np.round(means, 3), x=edges, colorscale="Viridis", zmin=min(0.0, float(means.min())), zmax=1,
        colorbar={"thickness": 10, "outlinewidth": 0},
    )  # fmt: skip
    return chart([trace], "position in the block", "block")


def densities(features: pd.DataFrame) -> go.Figure:
    """Each feature by how often it fires in both models; the dotted line is "equally often"."""
    live = features[(features["density_base"] > 0) & (features["density_finetuned"] > 0)]
    few = live.sample(min(len(live), MOST_DOTS), random_state=0)
    logs = np.log10(few[["density_base", "density_finetuned"]])
    dots = go.Scatter(
        x=numbers(logs["density_base"]), y=numbers(logs["density_finetuned"]), mode="markers", name="features",
        marker={"color": COLOURS[0], "size": 4, "opacity": 0.5},
    )  # fmt: skip
    low = float(logs.min().min()) if len(few) else -5.0
    same = go.Scatter(
        x=[low, 0], y=[low, 0], mode="lines", line={"color": INK, "dash": "dot", "width": 1}, hoverinfo="skip"
    )
    figure = chart([dots, same], "log₁₀ density in the base model", "in the finetuned model")
    return figure.update_layout(showlegend=False)


def shares(features: pd.DataFrame, columns: Mapping[str, str], title: str) -> go.Figure:
    """Histograms of values from -1 to 1, as shares of the features that have one."""
    edges = np.linspace(-1, 1, 51)
    traces = []
    for (column, name), colour in zip(columns.items(), COLOURS, strict=False):
        values = features[column].dropna()
        if values.empty:
            continue
        counts, _ = np.histogram(values, bins=edges)
        traces.append(line(edges[:-1] + 0.02, counts / max(len(values), 1), name, colour))
    return chart(traces, title, "share of features", yaxis={"rangemode": "tozero"})


def adaptation(curve: pd.DataFrame, measure: str, title: str, goal: float | None = None) -> go.Figure:
    """A measure against the tokens spent, a line a way; dotted: what the SAE has in the base model."""
    traces = [
        line(rows["tokens"], rows[measure], WAYS[way], colour, mode="lines+markers")
        for (way, colour) in zip(WAYS, COLOURS, strict=False)
        if len(rows := curve[(curve["way"] == way) & curve[measure].notna()])
    ]
    figure = chart(traces, "tokens of the finetuned model", title)
    if goal is not None:
        figure.add_hline(y=goal, line={"color": INK, "dash": "dot", "width": 1})
    return figure
