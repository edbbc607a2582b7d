"""A feature in short: what it is called, when it fires, what it does."""

from __future__ import annotations

from demo import cards
from demo.pieces import bars
from demo.pieces.label import said
from demo.workbench import Opened

WORDS, GAINED, EXAMPLES = 6, 6, 4


def card(opened: Opened, feature: int) -> str:
    """The card beside a text."""
    row = opened.row(feature)
    head = cards.title(opened, feature) + said(row) + cards.buttons(feature) + cards.facts(opened, feature)
    if row["maximum"] <= 0:
        return head
    parts = [
        ("Words it fires on", bars.shares(row, "words", "word_shares", WORDS)),
        (
            "What it makes likelier <small>change in probability</small>",
            bars.gained(opened, row, GAINED),
        ),
        ("Its strongest moments in the training text", cards.examples(opened, feature, top=EXAMPLES)),
    ]
    return head + "".join(f"<h4>{name}</h4>{part}" for name, part in parts if part)
