"""All that is known of a feature, to take along: as JSON, and as lines of a table."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from demo import cards, exports
from demo.workbench import Opened
from sae_tools.analysis.store import Example
from sae_tools.models.lm import shown_pieces

LISTS = {
    "words": "word_shares", "before": "before_shares", "after": "after_shares", "gained_tokens": "gained",
    "top_tokens": "top_logits", "bottom_tokens": "bottom_logits", "together": "together_scores",
    "neighbours": "neighbour_cosines",
}  # fmt: skip
"""Columns of what, and the column of the number that belongs to each."""


def record(opened: Opened, feature: int) -> dict[str, Any]:
    """Every column, and the examples; tokens with their text, what is unknown as None."""
    row, about = opened.row(feature), opened.about
    found: dict[str, Any] = {
        "sae": opened.name, "model": about["base"]["name"].rsplit("/", 1)[-1], "site": about["site"],
        "feature": feature,
    }  # fmt: skip
    numbers = set(LISTS.values())
    for name, value in row.items():
        if name in LISTS:
            found[name] = _list(opened, row, name)
        elif name not in numbers:
            found[name] = _plain(value)
    found["correlation_in_finetuned"] = cards.correlated(opened, feature)
    found["examples"] = [_example(opened, each) for each in opened.store.examples(feature)]
    return found


def _list(opened: Opened, row: dict[str, Any], name: str) -> list[dict[str, Any]]:
    entries = cards.listed(row, name)
    values = [_plain(value) for value in cards.listed(row, LISTS[name])]
    if name.endswith("_tokens"):
        texts = cards.token_texts(opened, entries) if entries else []
        return [{"id": int(i), "text": t, "value": v} for i, t, v in zip(entries, texts, values, strict=True)]
    what = "text" if name in ("words", "before", "after") else "feature"
    return [{what: _plain(entry), "value": value} for entry, value in zip(entries, values, strict=True)]


def _example(opened: Opened, each: Example) -> dict[str, Any]:
    return {
        "band": each.band, "value": _plain(each.activation), "position": int(each.position),
        "tokens": shown_pieces(opened.base.tokenizer, [int(i) for i in each.ids]),
        "values": [_plain(value) for value in each.values],
    }  # fmt: skip


def _plain(value: Any) -> Any:
    """A value of a table as JSON has it: to six digits, None for what is no number."""
    if isinstance(value, np.ndarray):
        return [_plain(each) for each in value.tolist()]
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def lines(found: dict[str, Any]) -> list[dict[str, object]]:
    """The same as rows: what, rank, text, value."""
    rows: list[dict[str, object]] = []
    for name, value in found.items():
        if not isinstance(value, list):
            rows.append({"what": name, "rank": "", "text": value if isinstance(value, str) else "",
                         "value": "" if value is None or isinstance(value, str) else value})  # fmt: skip
            continue
        for rank, each in enumerate(value, 1):
            entry = each if isinstance(each, dict) else {"value": each}
            text = entry.get("text", entry.get("feature", "".join(entry.get("tokens", []))))
            rows.append({"what": name, "rank": rank, "text": text, "value": entry["value"]})
    return rows


def links(opened: Opened, feature: int) -> str:
    """Two links that hold the files."""
    found = record(opened, feature)
    name = f"{opened.name}-{feature}"
    return exports.data_link(f"{name}.csv", "text/csv", exports.csv(lines(found)), "CSV") + exports.data_link(
        f"{name}.json", "application/json", json.dumps(found, ensure_ascii=False, indent=1), "JSON"
    )
