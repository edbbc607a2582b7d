"""Words and tokens with their numbers, as bars and chips."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from demo import cards
from demo.workbench import Opened
from sae_tools.reports.render import chip, isolated, share


def shares(row: dict[str, Any], column: str, column_of_shares: str, most: int = 10) -> str:
    """Words with a bar and a percentage each; "" where the stage made none."""
    words, parts = cards.listed(row, column)[:most], cards.listed(row, column_of_shares)[:most]
    items = [(isolated(str(word)), float(part), share(float(part))) for word, part in zip(words, parts, strict=True)]
    return _bars(items)


def gained(opened: Opened, row: dict[str, Any], most: int = 10) -> str:
    """Tokens that a push makes likelier, with the change in probability; "" where it was not measured."""
    tokens, by = cards.listed(row, "gained_tokens")[:most], cards.listed(row, "gained")[:most]
    texts = cards.token_texts(opened, tokens) if tokens else []
    largest = max((float(change) for change in by), default=0.0) or 1.0
    items = [
        (chip(text), float(change) / largest, f"+{share(float(change))}")
        for text, change in zip(texts, by, strict=True)
        if change > 0
    ]
    return _bars(items)


def _bars(items: Sequence[tuple[str, float, str]]) -> str:
    """Markup of our own, the length of its bar (0 to 1) and what stands at its end, a line each."""
    lines = "".join(
        f'<li style="--part:{min(max(part, 0.0), 1.0):.3f}"><span>{what}</span><small>{said}</small></li>'
        for what, part, said in items
    )
    return f'<ul class="bars">{lines}</ul>' if items else ""


def valued(texts: Sequence[str], values: Sequence[str]) -> str:
    """Tokens as chips, each with its value as text."""
    chips = (f"<span>{chip(text)} <small>{value}</small></span>" for text, value in zip(texts, values, strict=True))
    return f'<div class="chips valued">{"".join(chips)}</div>'
