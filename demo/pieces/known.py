"""What is known of a feature, in sections: where it fires, what it does, what is near it, how good a concept it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from demo import cards
from demo.pieces import bars
from demo.workbench import Opened
from sae_tools.reports.render import note, number, share

SCORES = {
    "concept": ("Concept score", "How much it is about one thing: whole, uncommon words that belong together and come "
                "back where they came once."),
    "steering": ("Steering score", "How much a push brings whole words, and ones that it is about."),
}  # fmt: skip

TRUTH = "Change in the next token's probability when it is pushed on held-out text: all later layers have their say."
DIRECT = "Change in the logits, as if no layer came after."
UNMEASURED = "The features stage did not measure it: run <code>dvc repro</code>."


def words(row: dict[str, Any]) -> str:
    """The words it fires on, and what stands before and after them."""
    on = bars.shares(row, "words", "word_shares")
    if not on:
        return ""
    before, after = (bars.shares(row, side, f"{side}_shares", 5) for side in ("before", "after"))
    around = [(name, part) for name, part in (("Before it", before), ("After it", after)) if part]
    columns = "".join(f"<div><h5>{name}</h5>{part}</div>" for name, part in around)
    return (
        f"<h4>Words it fires on <small>share of its activation</small></h4>{on}"
        f'<h4>What stands around it <small>share of its firings</small></h4><div class="pair tight">{columns}</div>'
    )


def effects(opened: Opened, row: dict[str, Any]) -> str:
    """What it makes likelier in truth, beside its direct effect on the model's last layer."""
    truth = bars.gained(opened, row) or note(UNMEASURED, "empty")
    direct = "".join(
        f"<h5>{name}</h5>{_direct(opened, row, f'{end}_tokens', f'{end}_logits')}"
        for name, end in (("Promoted", "top"), ("Suppressed", "bottom"))
    )
    columns = (("Makes likelier in truth", note(TRUTH) + truth), ("Its direct effect", note(DIRECT) + direct))
    return _pair(columns)


def _direct(opened: Opened, row: dict[str, Any], tokens: str, logits: str) -> str:
    ids = cards.listed(row, tokens)
    if not ids:
        return note("None were kept.")
    return bars.valued(cards.token_texts(opened, ids), [f"{float(value):+.2f}" for value in cards.listed(row, logits)])


def near(opened: Opened, row: dict[str, Any]) -> str:
    """Features that fire with it, and those whose direction is nearest."""
    together = _others(
        opened, row, "together", "together_scores", "Phi",
        "Fires on the same tokens, more than chance has it (phi: 1 always together, 0 chance).",
    )  # fmt: skip
    nearest = _others(
        opened, row, "neighbours", "neighbour_cosines", "Cosine", "Writes in nearly the same direction (cosine)."
    )  # fmt: skip
    return _pair((("Fire together", together), ("Nearest in direction", nearest)))


def _pair(columns: Sequence[tuple[str, str]]) -> str:
    return f'<div class="pair">{"".join(f"<div><h4>{name}</h4>{part}</div>" for name, part in columns)}</div>'


def _others(opened: Opened, row: dict[str, Any], column: str, scores: str, name: str, words: str) -> str:
    others = [int(other) for other in cards.listed(row, column)]
    if not others:
        return note("None is known.", "empty")
    cells = [f'<span class="id">{float(score):.2f}</span>' for score in cards.listed(row, scores)]
    return note(words) + cards.rows(opened, others, {name: cells})


def scores(opened: Opened, row: dict[str, Any]) -> str:
    """Its scores, with a word on what they mean and where it stands among all features."""
    found = []
    for column, (name, words) in SCORES.items():
        value = cards.known(row, column)
        if value is not None:
            better = share(float((opened.store.table[column] < value).mean()))
            found.append((name, number(value), f"{words} Above {better} of this SAE's features."))
    if (strength := cards.known(row, "strength")) is not None:
        found.append(("Strength to steer with", f"{strength:.2f}", _written(row)))
    return _table(found)


def _written(row: dict[str, Any]) -> str:
    """What steered texts that were written with it gave."""
    good, low, high = (cards.known(row, name) for name in ("good_share", "strength_low", "strength_high"))
    if good is None:
        return "In median norms. A firm push; not tested by writing with this feature."
    lasting = f" The text stays fluent from {low:.2f} to {high:.2f}." if low is not None and high is not None else ""
    return f"In median norms. {share(good)} of the texts written with it were on topic and fluent.{lasting}"


def _table(found: Sequence[tuple[str, str, str]]) -> str:
    if not found:
        return ""
    lines = "".join(f"<div><dt>{name} <b>{value}</b></dt><dd>{words}</dd></div>" for name, value, words in found)
    return f'<h4>Scores</h4><dl class="scores">{lines}</dl>'
