"""A text token by token in a feature's colours, in which a token can be picked."""

from __future__ import annotations

from demo import cards
from demo.pieces import bars
from demo.reading import Reading
from demo.workbench import Opened
from sae_tools.reports.render import legend, note, number, strip

LISTED = 5
"""Strongest tokens whose values are written out."""

BACK = '<button type="button" class="act link" data-act="strongest">Colour by the strongest feature</button>'


def coloured(opened: Opened, reading: Reading, feature: int | None) -> str:
    """The text, a legend, and the largest values as text; coloured by the strongest feature where none is chosen."""
    return _coloured(opened, reading, feature, [])


def pickable(opened: Opened, reading: Reading, feature: int | None, picked: int | None) -> str:
    """As `coloured`, with a way to each token (`data-act="token"`) and back to all features (`"strongest"`)."""
    back = "" if feature is None else note(BACK)
    return _coloured(opened, reading, feature, _pickable(reading, picked)) + back


def _coloured(opened: Opened, reading: Reading, feature: int | None, attributes: list[str]) -> str:
    values = reading.strongest() if feature is None else reading.of(feature)
    top = max(values, default=0.0)
    maximum = top if feature is None else float(opened.store.table.at[feature, "maximum"])
    body = strip(reading.pieces, values, maximum, attributes=attributes)
    if feature is None:
        return body + legend(maximum, "The strongest feature on each token") + _cut(reading)
    name = f"Feature {feature}, {cards.name_of(opened, feature)}"
    if top <= 0:
        return body + legend(0, f"{name}: <em>does not fire on this text</em>") + _cut(reading)
    scale = legend(maximum, f"{name}: at most <b>{number(top)}</b> here")
    return body + scale + strongest(reading, values) + _cut(reading)


def strongest(reading: Reading, values: list[float]) -> str:
    """The tokens of the largest values, with the values."""
    order = sorted(range(len(values)), key=lambda i: -values[i])[:LISTED]
    found = [i for i in order if values[i] > 0]
    return bars.valued([reading.pieces[i] for i in found], [number(values[i]) for i in found])


def _pickable(reading: Reading, picked: int | None) -> list[str]:
    """One stop of the Tab key for the whole text; the arrow keys go on from there."""
    first = next((i for i, piece in enumerate(reading.pieces) if piece), 0) if picked is None else picked
    return [
        f'data-act="token" data-token="{i}" role="button" aria-pressed="{str(i == picked).lower()}" '
        f'tabindex="{0 if i == first else -1}"'
        for i in range(len(reading.pieces))
    ]


def missed(reading: Reading) -> str:
    """The text coloured by what the SAE leaves out of each token's activation."""
    if not reading.error:
        return ""
    top, mean = max(reading.error), sum(reading.error) / len(reading.error)
    scale = legend(top, f"‖x − x̂‖² / ‖x‖² of each token: <b>{number(mean)}</b> in the mean, {number(top)} at most")
    return strip(reading.pieces, reading.error, top) + scale + strongest(reading, reading.error)


def _cut(reading: Reading) -> str:
    return note(f"Only the first {len(reading.pieces)} tokens were read.") if reading.cut else ""
