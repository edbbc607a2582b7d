"""What the Steer tab shows, as pieces of HTML; all text is escaped."""

from __future__ import annotations

import re

import pandas as pd

from demo import cards
from demo.steering.ask import Ask, Source
from demo.steering.pushes import FLUENT
from demo.words import fired_on
from demo.workbench import Opened
from demo.writing import Written
from sae_tools.analysis.sweep import repeated_bigrams
from sae_tools.reports.render import chip, escape, isolated, note, number, share, visible

REPEATED = 0.2
"""Share of repeated bigrams above which a text reads as broken."""
EQUAL = "Both texts are equal: the change did not matter here."
ADVICE = "<b>The steered text repeats itself: too strong.</b> Try {}."
BOTH_REPEAT = "Both texts repeat themselves: raise the temperature."


def columns(prompt: str, written: Written, words: list[str]) -> tuple[str, str]:
    """The default and the steered text; where they part is coloured, `words` are marked in both."""
    pattern = _pattern(words)
    cut = parting(written)
    return (
        _text(prompt, written.default, len(written.default), pattern),
        _text(prompt, written.steered, cut, pattern),
    )  # fmt: skip


def parting(written: Written) -> int:
    """Where the steered text leaves the default one, at the start of a word; its length where it does not."""
    if written.default == written.steered:
        return len(written.steered)
    return len(re.sub(r"\w+$", "", written.steered[: written.shared]))


def _text(prompt: str, text: str, cut: int, pattern: re.Pattern[str] | None) -> str:
    changed = f'<span class="changed">{_marked(text[cut:], pattern)}</span>' if text[cut:] else ""
    given = f'<span class="given">{visible(prompt)}</span>'
    return f'<div class="text" dir="auto">{given}{_marked(text[:cut], pattern)}{changed}</div>'


def _pattern(words: list[str]) -> re.Pattern[str] | None:
    """Finds any of the words, also with an s."""
    if not words:
        return None
    longest_first = sorted(map(re.escape, words), key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(longest_first)})s?(?!\w)", re.IGNORECASE)


def _marked(text: str, pattern: re.Pattern[str] | None) -> str:
    if pattern is None:
        return visible(text)
    parts, done = [], 0
    for found in pattern.finditer(text):
        parts += [visible(text[done : found.start()]), f'<mark class="own">{visible(found[0])}</mark>']
        done = found.end()
    return "".join(parts) + visible(text[done:])


def ending(source: Source, written: Written) -> str:
    """What there is to say when both texts are written."""
    said = [EQUAL if written.default == written.steered else "Coloured: where the steered text leaves the default one."]
    if (pattern := _pattern(source.words)) is not None:
        counts = [len(pattern.findall(text)) for text in (written.default, written.steered)]
        said.append(f"The features' own words: {counts[0]} in the default text, {counts[1]} in the steered one.")
    said.append(escape(written.over))
    return note(" ".join(said)) + warning(source, written)


def warning(source: Source, written: Written) -> str:
    """That the steered text repeats itself, and what to try; empty where it does not."""
    default, steered = (repeated_bigrams(ids) for ids in written.ids)
    if steered <= REPEATED or written.default == written.steered:
        return ""
    if default > REPEATED:
        return note(BOTH_REPEAT, "warning")
    softer = min(abs(source.strength) * 0.75, FLUENT[1])
    sign = "-" if source.strength < 0 else ""
    advice = f"a strength of {sign}{softer:.2f}".rstrip("0") if softer else "to remove fewer features"
    return note(ADVICE.format(advice), "warning")


def head(opened: Opened, feature: int) -> str:
    """What a pushed feature is: its label, and the words it fires on where the label does not say them."""
    row = opened.row(feature)
    words = " · ".join(fired_on(row)[:5])
    more = f": {isolated(words)}" if words and words != row["label"] else ""
    return f'{cards.act("open", feature, cards.label_of(row), "name")}<p class="sub">Feature {feature}{more}</p>'


def band(low: float, high: float, most: float) -> str:
    """The range of strengths at which texts stay fluent, to stand under a slider from -most to most."""
    left, width = (low + most) / (2 * most), (high - low) / (2 * most)
    return (
        f'<div class="band"><i style="left:{left:.1%};width:{width:.1%}"></i>'
        f'<span style="left:50%">0</span><span style="left:{left + width / 2:.1%}">fluent</span></div>'
    )


def tries(opened: Opened, features: list[int], what: str, lead: str) -> str:
    """Features that a click pushes (`what`), after a word of introduction."""
    if not features:
        return ""
    buttons = "".join(cards.act(what, feature, cards.label_of(opened.row(feature)), "try") for feature in features)
    return f'<div class="tries"><span>{lead}</span>{buttons}</div>'


def changes(table: pd.DataFrame) -> str:
    """The tokens that a change makes likelier and less likely after the prompt."""
    rises, falls = table[table["change"] > 0], table[table["change"] < 0][::-1]
    sides = (("Likelier as the next token", rises), ("Less likely", falls))
    return (
        '<div class="pair">' + "".join(f"<div><h5>{name}</h5>{_changes(rows)}</div>" for name, rows in sides) + "</div>"
    )


def _changes(rows: pd.DataFrame) -> str:
    if rows.empty:
        return note("None.")
    body = "".join(
        f'<tr><td>{chip(row.token)}</td><td class="id">{share(row.without)} → {share(row.with_)}</td>'
        f'<td class="bar"><span style="--part:{min(1.0, abs(row.change)):.2f}">{100 * row.change:+.2g} pts</span></td>'
        "</tr>"
        for row in rows.rename(columns={"with": "with_"}).itertuples()
    )
    return f'<table class="rows"><tbody>{body}</tbody></table>'


def swept(table: pd.DataFrame, ask: Ask, words: list[str]) -> str:
    """The texts of a sweep, one below the other."""
    pattern = _pattern(words)
    texts = []
    for row in table.itertuples():
        broken = ' <em class="warning">repeats itself</em>' if row.repeated > REPEATED else ""
        texts.append(
            f'<div class="swept"><b>{row.strength:+g}</b><div><div class="text" dir="auto">{_marked(row.text, pattern)}'
            f"</div><small>nll {number(row.nll)}{broken}</small></div></div>"
        )
    return f'<p class="given">{visible(ask.prompt)} …</p>' + "".join(texts)


def code(text: str) -> str:
    """A script with a button that copies it."""
    button = f'<button type="button" class="act" data-copy="{escape(text)}">Copy</button>'
    return f'<div class="acts">{button}</div><pre class="code"><code>{escape(text)}</code></pre>'
