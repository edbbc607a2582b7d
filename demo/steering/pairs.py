"""Pairs of texts as a visitor types or pastes them, and what they say at a site. Knows no Gradio."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from demo import limits
from demo.limits import Refused
from demo.workbench import PLAIN, Opened
from sae_tools.analysis.contrast import Contrast, Positions, contrast
from sae_tools.analysis.decompose import Decomposition, decompose
from sae_tools.analysis.norms import median_norm
from sae_tools.analysis.pairs import Pair, read_pairs
from sae_tools.common.errors import InputError, SettingError
from sae_tools.models.sites import KINDS, Site

EXAMPLE = """Lily was so happy that she laughed | Lily was so sad that she cried
Tom smiled because he was very happy | Tom frowned because he was very sad
They were happy and had a fun day | They were sad and had a bad day
Mom was glad and gave a big smile | Mom was upset and shed a big tear
The boy felt happy when he got the toy | The boy felt sad when he lost the toy
What a happy and lucky dog | What a sad and lonely dog"""
MOST_IN_ADDRESS = 1_500
"""Characters of pairs."""
EXPLAINED_BY = 8
"""Latents of each way."""
ROUNDING = 1e-5
"""Part of an activation's length that passes over other batches differ by."""
AT_ONCE = 8
"""Pairs that are read in one turn."""
REMEMBERED = 64


@dataclass(frozen=True)
class Asked:
    """Pairs to compare, where in the texts and where in the model."""

    pairs: tuple[Pair, ...]
    positions: Positions
    site: str

    @classmethod
    def checked(cls, text: object, where: object, tokens: object, layer: object, kind: object) -> Asked:
        """From what a browser sent; whether the model has the layer is seen when it is read."""
        place = limits.choice(where, "Position", ("last", "all", "chosen"))
        number = limits.whole(layer, "Layer", 0, 999)
        site = f"blocks.{number}.{limits.choice(kind, 'Site', KINDS)}"
        positions: Any = tuple(limits.positions(tokens)) if place == "chosen" else place
        return cls(tuple(typed(limits.text(text, "The list of pairs", limits.MAX_PAIRS_CHARACTERS))), positions, site)


@dataclass(frozen=True)
class Seen:
    """What the pairs say."""

    asked: Asked
    site: Site
    contrast: Contrast
    unit: float
    """Median norm at the site."""
    ways: Decomposition | None
    """The direction seen through the SAE; None at a site that is not the SAE's own."""


def typed(text: str) -> list[Pair]:
    """One pair a line, "positive | negative"; or all that `read_pairs` reads.

    Raises:
        Refused: a line is no pair, or there are too many.
    """
    try:
        pairs = _of_bars(text) if "|" in text and text.lstrip()[:1] not in ("{", "[") else read_pairs(text)
    except InputError as error:
        raise Refused(sentence(error)) from None
    if len(pairs) > limits.MAX_PAIRS:
        raise Refused(f"{len(pairs)} pairs were given; at most {limits.MAX_PAIRS} are read.")
    for pair in pairs:
        for each in (pair.positive, pair.negative):
            limits.text(each, "A text of a pair", limits.MAX_CHARACTERS)
    return pairs


def _of_bars(text: str) -> list[Pair]:
    pairs = []
    for number, line in enumerate(text.splitlines(), 1):
        sides = [side.strip() for side in line.split("|")]
        if line.strip() and (len(sides) != 2 or not all(sides)):
            raise Refused(f'Line {number} is not a pair: write "positive | negative", with one | between the texts.')
        if line.strip():
            pairs.append(Pair(*sides))
    return pairs


def own_site(opened: Opened) -> tuple[int, str]:
    """Layer and kind of the SAE's site."""
    found = re.fullmatch(r"blocks\.(\d+)\.(.+)", str(opened.about["site"]))
    return (int(found[1]), found[2]) if found else (0, KINDS[0])


def look(opened: Opened, asked: Asked) -> Iterator[int | Seen]:
    """How many pairs are read, then what they say; the turn is held for `AT_ONCE` pairs.

    Raises:
        Refused: no such site, a text is too long or lacks a position, or the texts do not differ.
    """
    try:
        yield from _look(opened, asked)
    except (InputError, SettingError) as error:
        raise Refused(sentence(error)) from None


def _look(opened: Opened, asked: Asked) -> Iterator[int | Seen]:
    lm, site = opened.base, opened.base.site(asked.site)
    own = (site.path, site.side) == (opened.site.path, opened.site.side)
    _ = opened.sae, opened.unit
    key = ("pairs", asked)
    seen: Seen | None = opened.readings.get(key)
    if seen is None:
        parts: list[Contrast] = []
        for done in range(0, len(asked.pairs), AT_ONCE):
            yield done
            with opened.turn:
                parts.append(contrast(asked.pairs[done : done + AT_ONCE], lm, site, _as_given(asked.positions)))
        found = Contrast(torch.cat([each.positive for each in parts]), torch.cat([each.negative for each in parts]))
        if found.norm <= ROUNDING * float(found.positive.norm(dim=-1).mean()):
            raise Refused("Positive and negative texts give equal activations here: there is no direction.")
        with opened.turn:
            unit = opened.unit if own else median_norm(lm, site, lm.tokens(PLAIN))
            seen = Seen(asked, site, found, unit, decompose(found, opened.sae, EXPLAINED_BY) if own else None)
            opened.readings[key] = seen
            while len(opened.readings) > REMEMBERED:
                opened.readings.popitem(last=False)
    yield seen


def looked(opened: Opened, asked: Asked) -> Seen:
    """The last of `look`."""
    *_, seen = look(opened, asked)
    assert isinstance(seen, Seen)
    return seen


def _as_given(positions: Positions) -> Positions:
    return positions if isinstance(positions, str) else list(positions)


def sentence(error: Exception) -> str:
    """An error's text with a capital letter."""
    text = str(error)
    return text[:1].upper() + text[1:]
