"""The two charts: a feature's histogram, and all features' densities in both models."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from sae_tools.reports.render import escape, number, share

ACCENT, CHOSEN = "#14a394", "#e2574c"
# Readable on white and on near-black alike, so a figure needs not know the theme.
INK, GRID = "#7c8896", "rgba(124,136,150,0.22)"
MOST_POINTS = 4_000


def _layout(height: int, **more: object) -> go.Layout:
    return go.Layout(
        height=height, margin={"l": 48, "r": 8, "t": 8, "b": 40}, bargap=0.08, showlegend=False,
        paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)",
        font={"color": INK, "size": 12, "family": "system-ui, sans-serif"}, **more,
    )  # fmt: skip


def _axis(title: str, **more: object) -> dict[str, object]:
    return {"title": {"text": title}, "gridcolor": GRID, "zeroline": False, "fixedrange": True, **more}


def histogram(counts: Sequence[int], maximum: float, here: float = 0.0) -> go.Figure:
    """How often a feature fires how strongly; `counts` in equal bins over (0, maximum], on a logarithmic axis.

    Above 0, `here` is its largest value on the visitor's text, and is marked.
    """
    step = maximum / max(1, len(counts))
    hover = [f"{number(i * step)} to {number((i + 1) * step)}: {int(n):,} tokens" for i, n in enumerate(counts)]
    bars = go.Bar(
        x=[(i + 0.5) * step for i in range(len(counts))], y=[int(n) for n in counts],
        marker={"color": ACCENT, "line": {"width": 0}}, hovertext=hover, hoverinfo="text",
    )  # fmt: skip
    traces: list[go.Bar | go.Scatter] = [bars]
    top = max([1, *counts])
    if here > 0:
        said, side = f"your text: {number(here)}", "left" if 2 * here > maximum else "right"
        traces.append(go.Scatter(
            x=[here, here], y=[1, 3 * top], mode="lines+text", text=["", said], textposition=f"middle {side}",
            line={"color": CHOSEN, "width": 2}, textfont={"color": CHOSEN}, hovertext=[said] * 2, hoverinfo="text",
        ))  # fmt: skip
    tokens = _axis("tokens", type="log", dtick=1, exponentformat="none", range=[-0.1, math.log10(5 * top)])
    return go.Figure(traces, _layout(180, xaxis=_axis("activation", showgrid=False), yaxis=tokens))


def densities(agreement: pd.DataFrame, labels: pd.Series, chosen: int | None) -> tuple[go.Figure, int]:
    """Each feature's density in the base (x) and the finetuned model (y), and how many are left out.

    Features that one of the two never fires have no place on logarithmic axes.
    """
    table = agreement[(agreement["density_base"] > 0) & (agreement["density_finetuned"] > 0)]
    left_out = len(agreement) - len(table)
    table = table.iloc[:: -(-len(table) // MOST_POINTS) or 1]
    x, y = table["density_base"].tolist(), table["density_finetuned"].tolist()
    hover = [_hover(int(i), str(labels.get(i, "")), a, b) for i, a, b in zip(table.index, x, y, strict=True)]
    marker = {"color": ACCENT, "size": 5, "opacity": 0.45}
    dots = go.Scatter(x=x, y=y, mode="markers", hovertext=hover, hoverinfo="text", marker=marker)
    ends = [min([*x, *y], default=1e-4), max([*x, *y], default=1.0)]
    line = go.Scatter(x=ends, y=ends, mode="lines", hoverinfo="skip", line={"color": INK, "width": 1, "dash": "dot"})
    traces = [line, dots]
    if chosen is not None and chosen in table.index:
        x, y = [float(table.at[chosen, "density_base"])], [float(table.at[chosen, "density_finetuned"])]
        hover = [_hover(chosen, str(labels.get(chosen, "")), x[0], y[0])]
        ring = {"color": "rgba(0,0,0,0)", "size": 14, "line": {"color": CHOSEN, "width": 2}}
        traces.append(go.Scatter(x=x, y=y, mode="markers", hovertext=hover, hoverinfo="text", marker=ring))
    ticks = [base * 10.0**-power for power in range(6) for base in (1, 0.3)]
    log = {"type": "log", "tickvals": ticks, "ticktext": [f"{100 * tick:g}%" for tick in ticks]}
    layout = _layout(360, xaxis=_axis("fires on, base model", **log), yaxis=_axis("fires on, finetuned model", **log))
    return go.Figure(traces, layout), left_out


def _hover(feature: int, label: str, base: float, finetuned: float) -> str:
    # Plotly reads <b>, <br> and <a> in hover texts.
    return f"{feature}: {escape(label)}<br>base {escape(share(base))}, finetuned {escape(share(finetuned))}"


def strengths(swept: pd.DataFrame, measured: str) -> go.Figure:
    """How much of a feature is in texts pushed at several strengths (left), and how unlikely they become (right)."""
    sides = (("amount", "y", ACCENT, measured), ("nll", "y2", CHOSEN, "nats a token, unsteered"))
    x = swept["strength"].tolist()
    curves = [
        go.Scatter(
            x=x, y=swept[column].tolist(), yaxis=axis, mode="lines+markers", name=name,
            line={"color": colour, "width": 2}, hovertemplate="%{x:+g}: %{y:.3g}",
        )
        for column, axis, colour, name in sides
    ]  # fmt: skip
    layout = _layout(
        260, xaxis=_axis("strength", showgrid=False, tickvals=x), yaxis=_axis(measured, rangemode="tozero"),
        yaxis2=_axis(sides[1][3], overlaying="y", side="right", rangemode="tozero", showgrid=False),
    )  # fmt: skip
    layout.update(showlegend=True, legend={"orientation": "h", "y": 1.2}, margin={"l": 48, "r": 48, "t": 8, "b": 40})
    return go.Figure(curves, layout)
