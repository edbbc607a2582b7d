"""Metrics as a table, with their meaning."""

from __future__ import annotations

from sae_tools.reports.meanings import MEANINGS, shown
from sae_tools.reports.render import escape, note

SHOWN = (
    "l0", "explained_variance", "ce_loss_score", "top1_agreement", "ce_loss_without_sae", "ce_loss_with_sae",
    "ce_loss_with_ablation", "kl_div_with_sae", "cossim", "l2_ratio", "dead_share", "freq_over_10_percent",
    "duplicate_share",
)  # fmt: skip
"""Of what the pipeline measured, that which the page shows."""


def metrics_table(columns: dict[str, dict[str, float]], explained: bool = True) -> str:
    """Metrics as rows, one column a model; the meaning stands below or shows on hover."""
    columns = {name: values for name, values in columns.items() if values}
    if not columns:
        return note("No metrics are there yet. They are written by the pipeline's evaluate stage.", "empty")
    present = {key for values in columns.values() for key in values}
    keys = [key for key in SHOWN if key in present]
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(_metric_row(key, columns, explained) for key in keys)
    top = f"<thead><tr><th>Metric</th>{head}</tr></thead>"
    return f'<div class="scroll" tabindex="0"><table class="metrics">{top}<tbody>{body}</tbody></table></div>'


def _metric_row(key: str, columns: dict[str, dict[str, float]], explained: bool) -> str:
    name, meaning = MEANINGS[key]
    cells = []
    for values in columns.values():
        cell = shown(key, values[key]) if key in values else "–"
        cells.append(f"<td>{escape(cell)}</td>")
    below = f"<small>{meaning}</small>" if explained else ""
    return f'<tr><td title="{escape(meaning)}">{name}{below}</td>{"".join(cells)}</tr>'
