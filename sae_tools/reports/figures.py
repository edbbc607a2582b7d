"""Charts of a report, readable on white and on near-black alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

COLOURS = ("#14a394", "#e2574c", "#8b7cf0", "#d99a2b", "#4b8fe0", "#c65aa6", "#6f9f3c", "#7c8896")
INK, GRID = "#7c8896", "rgba(124,136,150,0.22)"


LEGEND = {"orientation": "h", "x": 0, "y": 1.01, "yanchor": "bottom"}
RIGHT = {"type": "log", "overlaying": "y", "side": "right", "showgrid": False}
"""A second axis, on the right."""


def chart(traces: list[Any], x: str, y: str, **axes: Mapping[str, object]) -> go.Figure:
    """Traces on two named axes; `xaxis`, `yaxis` and `yaxis2` add to theirs."""
    return go.Figure(traces, go.Layout(
        height=300, margin={"l": 56, "r": 56 if "yaxis2" in axes else 24, "t": 30, "b": 44}, bargap=0.06,
        showlegend=len(traces) > 1, legend=LEGEND, paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)",
        font={"color": INK, "size": 12, "family": "system-ui, sans-serif"}, hovermode="closest",
        xaxis=_axis(x) | dict(axes.get("xaxis", {})), yaxis=_axis(y) | dict(axes.get("yaxis", {})),
        **({"yaxis2": dict(axes["yaxis2"])} if "yaxis2" in axes else {}),
    ))  # fmt: skip


def _axis(title: str) -> dict[str, object]:
    return {"title": {"text": title}, "gridcolor": GRID, "zeroline": False, "fixedrange": True}


def line(x: object, y: object, name: str, colour: str, mode: str = "lines", **more: object) -> go.Scatter:
    return go.Scatter(x=numbers(x), y=numbers(y), name=name, mode=mode, line={"color": colour, "width": 2}, **more)


def numbers(values: object) -> list[float | None]:
    """Four digits: a report is a file that people send."""
    array = np.asarray(values, dtype=float)
    return [float(f"{value:.4g}") if np.isfinite(value) else None for value in array]


def training(curve: pd.DataFrame) -> go.Figure:
    """Explained variance, and the loss on a logarithmic axis, over the tokens trained on, logarithmic too."""
    traces = [
        line(curve["tokens"], curve["explained_variance"], "explained variance", COLOURS[0]),
        line(curve["tokens"], curve["loss"], "loss", COLOURS[1], yaxis="y2"),
    ]
    left, right = {"range": [-0.05, 1.02]}, _axis("loss") | RIGHT | {"nticks": 4, "tickformat": ".3~r"}
    tokens = {"type": "log", "dtick": 1}
    return chart(traces, "tokens (log)", "explained variance", xaxis=tokens, yaxis=left, yaxis2=right)


def density(table: pd.DataFrame) -> go.Figure:
    """How many latents fire how often; those at the left end never did."""
    bars = go.Bar(x=numbers(table.index), y=table["features"].tolist(), marker={"color": COLOURS[0]})
    return chart([bars], "log₁₀ of the share of tokens", "latents", yaxis={"type": "log", "dtick": 1})


def tokens_by(table: pd.DataFrame, x: str) -> go.Figure:
    """A histogram of tokens, by the lower edges of its steps."""
    bars = go.Bar(x=numbers(table.index), y=table["tokens"].tolist(), marker={"color": COLOURS[0]})
    return chart([bars], x, "tokens")


def by_position(positions: pd.DataFrame) -> go.Figure:
    """KL at each position of a block."""
    trace = line(positions.index, positions["kl_div_with_sae"], "KL", COLOURS[0])
    return chart([trace], "position in the block", "KL with the SAE, nats", yaxis={"rangemode": "tozero"})


def round_trip(latents: pd.DataFrame) -> go.Figure:
    """The three ratios of a decoded and encoded one-hot latent, each sorted from high to low."""
    step = max(1, len(latents) // 400)
    traces = [
        line(
            range(0, len(latents), step), np.sort(latents[column])[::-1][::step], name, colour,
            **({} if column == "round_trip_max" else {"yaxis": "y2"}),
        )
        for column, name, colour in (
            ("round_trip_max", "÷ maximum", COLOURS[0]),
            ("round_trip_mean", "÷ mean", COLOURS[1]),
            ("round_trip_square", "squares", COLOURS[2]),
        )
    ]  # fmt: skip
    left, right = {"range": [-0.02, 1.05]}, _axis("value ÷ mean") | RIGHT | {"dtick": 1}
    return chart(traces, "latents, sorted", "value ÷ maximum", yaxis=left, yaxis2=right)


def front(saes: Mapping[str, Mapping[str, float]], y: str, title: str) -> go.Figure:
    """SAEs by L0 and another figure, with the front that no other one beats in both."""
    points = sorted(((found["l0"], found[y], name) for name, found in saes.items()), key=lambda p: (p[0], -p[1]))
    best, front = -np.inf, []
    for l0, value, _ in points:
        if value > best:
            best = value
            front.append((l0, value))
    trace = go.Scatter(
        x=numbers([l0 for l0, _ in front]), y=numbers([v for _, v in front]), mode="lines", name="front",
        line={"color": INK, "dash": "dot", "width": 1}, hoverinfo="skip",
    )  # fmt: skip
    dots = go.Scatter(
        x=numbers([l0 for l0, _, _ in points]), y=numbers([v for _, v, _ in points]), name="SAEs",
        text=[name for _, _, name in points], mode="markers+text", textposition="top center",
        marker={"color": COLOURS[0], "size": 10}, cliponaxis=False,
    )  # fmt: skip
    wide = {"range": [0, 1.3 * max(l0 for l0, _, _ in points) or 1]}
    figure = chart([trace, dots], "L0: latents that fire on a token", title, xaxis=wide)
    return figure.update_layout(showlegend=False)
