"""Where a feature's label comes from and how far to trust it, said in words."""

from __future__ import annotations

from typing import Any

from demo import cards
from sae_tools.reports.render import isolated, note, number, share

BEWARE = "Labels may be wrong."
TESTED = ("detection", "detection_precision", "detection_recall")


def said(row: dict[str, Any]) -> str:
    """One note: who made the label, how well it predicts unseen text, and the automatic one where another is shown."""
    if not row["label"]:
        return ""
    source = str(row.get("label_source") or "automatic")
    if source == "automatic":
        return note(f"Label made automatically from where it fires. {_detected(row)} {BEWARE}", "note said")
    by = "a person" if source == "person" else isolated(source)
    score = cards.known(row, "label_score")
    given = "No score came with it." if score is None else f"Its score: {number(score)}."
    own = str(row.get("automatic_label") or "")
    automatic = f" The automatic label is “{isolated(own)}”. {_detected(row)}" if own else ""
    return note(f"Label by {by}. {given} {BEWARE}{automatic}", "note said")


def _detected(row: dict[str, Any]) -> str:
    """What the automatic label's test on held-out text gave."""
    f1, precision, recall = (cards.known(row, name) for name in TESTED)
    if f1 is None:
        return "It was not tested on unseen text."
    parts = ""
    if precision is not None and recall is not None:
        parts = f": right {share(precision)} of the time, and it finds {share(recall)} of the firings"
    return f"On unseen text it predicts where the feature fires with F1 <b>{f1:.2f}</b>{parts}."
