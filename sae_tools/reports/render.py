"""Tokens as HTML: everything that comes from a visitor or a model is escaped here, and nowhere left raw.

`visible` makes any text safe and readable; the rest of the page builds on it and on fixed markup. Knows no Gradio.
"""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Sequence

# Characters that reorder or hide the text around them; a zero-width joiner (emoji families) stays.
_BIDI = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
_UNSEEN = {*"\u200b\u200e\u200f\u2028\u2029\u2060\u061c\ufeff", *map(chr, _BIDI)}


def escape(text: str) -> str:
    """Text for any place in HTML, attributes included; half surrogates, which no stream can carry, are replaced."""
    return html.escape(text.encode("utf-8", "replace").decode("utf-8"), quote=True)


def visible(text: str) -> str:
    """Escaped text in which characters that would act instead of show are spelled out."""
    return "".join(_shown(character) for character in text)


def _shown(character: str) -> str:
    if character in "\n\t":
        return character
    if character in _UNSEEN:
        return f'<span class="mark">U+{ord(character):04X}</span>'
    if unicodedata.category(character) == "Cc":
        picture = chr(0x2400 + ord(character)) if ord(character) < 0x20 else f"U+{ord(character):04X}"
        return f'<span class="mark">{picture}</span>'
    return escape(character)


def isolated(text: str) -> str:
    """`visible` text whose writing direction does not reach its surroundings."""
    return f"<bdi>{visible(text)}</bdi>"


def chip(text: str) -> str:
    """One token on its own: its leading space and line breaks are marked, since nothing else would show them."""
    if not text:
        return '<span class="chip mark">part of a character</span>'
    marked = "".join({" ": "␣", "\n": "⏎", "\t": "⇥"}.get(c, c) for c in text[: len(text) - len(text.lstrip())])
    rest = text[len(marked) :].replace("\n", "⏎")
    mark = f'<span class="mark">{marked}</span>' if marked else ""
    return f'<span class="chip">{mark}{isolated(rest)}</span>'


def number(value: float) -> str:
    """Three significant digits, no exponent for everyday sizes."""
    if value == 0:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")


def share(value: float) -> str:
    """A fraction as a percentage; what is rare is not rounded to nothing."""
    if value <= 0:
        return "0%"
    return "<0.01%" if value < 0.0001 else f"{100 * value:.{2 if value < 0.01 else 1 if value < 0.1 else 0}f}%"


def strip(
    pieces: Sequence[str], values: Sequence[float], maximum: float, small: bool = False, attributes: Sequence[str] = ()
) -> str:
    """A text token by token, each the more coloured the nearer its value is to `maximum`; the value shows on hover.

    Tokens that are only part of a character (empty pieces) are drawn with the token that completes it. A small strip
    stays one paragraph: its line breaks are marked, not made. `attributes` are markup of our own, one for each token.
    """
    tokens: list[str] = []
    strongest = 0.0
    for i, (piece, value) in enumerate(zip(pieces, values, strict=True)):
        strongest = max(strongest, value)
        if piece:
            tokens.append(_token(piece, strongest, maximum, small, attributes[i] if attributes else ""))
            strongest = 0.0
    return f'<div class="strip{" small" if small else ""}" dir="auto">{"".join(tokens)}</div>'


def _token(piece: str, value: float, maximum: float, small: bool, attributes: str) -> str:
    heat = min(1.0, max(0.0, value / maximum)) if maximum > 0 else 0.0
    style = f' style="--heat:{heat:.2f}"' if heat > 0 else ""
    hot = " hot" if heat > 0.8 else ""
    shown = piece.replace("\n", "⏎" if small else "⏎\n")
    more = f" {attributes}" if attributes else ""
    return f'<span class="token{hot}"{style} title="{number(value)}"{more}>{isolated(shown)}</span>'


def legend(maximum: float, what: str) -> str:
    """The colour scale under a strip; `what` is markup of our own."""
    if maximum <= 0:
        return f'<div class="legend"><span>{what}</span></div>'
    return f'<div class="legend"><span>{what}</span><span class="scale">0 <i></i> {number(maximum)}</span></div>'


def note(text: str, kind: str = "note") -> str:
    """A line of help or an honest empty state; `text` is markup of our own."""
    return f'<p class="{kind}">{text}</p>'
