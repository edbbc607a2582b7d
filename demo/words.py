"""The words that a feature is seen by in a text, and texts in which they are marked. Knows no Gradio."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from demo import cards
from demo.workbench import Opened
from sae_tools.reports.render import visible

LEAST_SHARE = 0.02
"""A word with less of a feature's activation is none of its own."""


def own_words(opened: Opened, feature: int, gained: bool = True) -> list[str]:
    """A feature's own words in lower case: those it fires on and, `gained`, those that pushing it makes likelier, for
    which the tokenizer is loaded. Common words are nobody's own.
    """
    row = opened.row(feature)
    tokens = row.get("gained_tokens", row.get("top_tokens")) if gained else None
    texts = [] if tokens is None else cards.token_texts(opened, tokens)
    words = fired_on(row) + [text for text in texts if text.startswith(" ")]
    plain = dict.fromkeys(word.strip().lower() for word in words)
    return [word for word in plain if len(word) > 1 and word.isalpha() and word not in opened.common_words]


def fired_on(row: dict[str, Any]) -> list[str]:
    """The words that hold a fiftieth of a feature's activation at least; none where the stage did not look."""
    words, shares = row.get("words"), row.get("word_shares")
    if words is None or shares is None:
        return []
    return [str(word) for word, share in zip(words, shares, strict=True) if share >= LEAST_SHARE]


def marked(text: str, words: Collection[str]) -> str:
    """Text, escaped, in which some whole words are marked, in whatever case."""
    own = '<mark class="own">{}</mark>'
    parts = ((part, visible(part)) for part in re.split(r"(\w+)", text))
    return "".join(own.format(shown) if part.lower() in words else shown for part, shown in parts)
