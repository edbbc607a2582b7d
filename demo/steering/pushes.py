"""Which features are pushed and how hard: what to begin with, and how the address says it. Knows no Gradio."""

from __future__ import annotations

from typing import Any

from demo import limits
from demo.asked import numeral
from demo.cards import known
from demo.limits import Refused
from demo.workbench import PLAIN, Opened
from sae_tools.analysis.steering import Push

FIRM = 0.4
"""A strength that shows and leaves the text whole, where a feature's own was not measured; in median norms."""
FLUENT = (0.25, 0.5)
MOST_SUGGESTED = 8
COMMON = 60
BEGINS = ("Ġ", "▁", " ")
"""How a token's name tells that it begins a word."""
LEAST_SHARE = 0.02
"""Of a feature's activation, on a word of its own."""


def checked(opened: Opened, value: object) -> list[Push]:
    """Pushes from [feature, mode, strength] triples.

    Raises:
        Refused: anything that `limits.pushes` refuses, or a dead feature.
    """
    found = [Push(*each) for each in limits.pushes(value, opened.d_sae)]  # type: ignore[arg-type]
    for push in found:
        if opened.store.table.at[push.feature, "maximum"] <= 0:
            raise Refused(f"Feature {push.feature} never fired: nothing is known of its direction. Choose another.")
    return found


def triples(pushes: list[Push]) -> list[list[Any]]:
    """As `checked` reads them."""
    return [[push.feature, push.mode, push.strength] for push in pushes]


def written(pushes: list[Push]) -> str:
    """For the address: 12:add:0.4,7:ablate:0"""
    return ",".join(f"{push.feature}:{push.mode}:{push.strength:g}" for push in pushes)


def parsed(opened: Opened, text: str) -> list[Push]:
    """What `written` wrote.

    Raises:
        Refused: it does not say pushes, or they are refused.
    """
    entries = [each.split(":") for each in text.split(",")[: limits.MAX_PUSHES + 1]]
    if any(len(each) != 3 for each in entries):
        raise Refused("pushes have the form 12:add:0.4 (feature, mode, strength), with commas between them.")
    return checked(opened, [[numeral(feature), mode, _decimal(strength)] for feature, mode, strength in entries])


def _decimal(text: str) -> object:
    try:
        return float(text)
    except ValueError:
        return text


def start(opened: Opened, feature: int) -> Push:
    """A feature added at the strength found best for it, else a firm one."""
    strength = known(opened.row(feature), "strength")
    most = limits.MAX_STRENGTH
    return Push(feature, "add", FIRM if strength is None else max(-most, min(most, round(strength, 2))))


def suggested(opened: Opened) -> list[int]:
    """Features that steer well, the best first: those of the gallery, else by score, else the loudest."""
    shown = [int(entry["feature"]) for entry in opened.store.gallery.get("steering", [])]
    if shown:
        return shown[:MOST_SUGGESTED]
    table = opened.store.table
    alive = table[table["maximum"] > 0]
    by = "steering" if "steering" in table and (alive["steering"] > 0).any() else "maximum"
    return [int(feature) for feature in alive[by].nlargest(MOST_SUGGESTED).index]


def fluent(row: dict[str, Any]) -> tuple[float, float]:
    """The strengths at which a feature's text stays whole, as measured, else as is usual."""
    low, high = known(row, "strength_low"), known(row, "strength_high")
    return FLUENT if low is None or high is None else (low, high)


def own_words(opened: Opened, feature: int) -> list[str]:
    """A feature's own words: those it fires on, and those that pushing it makes likelier; whole and uncommon ones."""
    row, lm = opened.row(feature), opened.base
    gained = row.get("gained_tokens")
    tokens = [int(token) for token in (row.get("top_tokens", []) if gained is None else gained)]
    begins = [str(raw).startswith(BEGINS) for raw in lm.tokenizer.convert_ids_to_tokens(tokens)]
    words = fired_on(row) + [lm.pieces([token])[0] for token, first in zip(tokens, begins, strict=True) if first]
    plain = dict.fromkeys(word.strip().lower() for word in words)
    return [word for word in plain if word.isalpha() and len(word) > 1 and word not in common(opened)]


def common(opened: Opened) -> frozenset[str]:
    """Words that the model expects anywhere in `PLAIN`: of its `COMMON` likeliest by mean and by mean logarithm."""
    key = ("common", opened.about["base"]["name"])
    with opened.turn:
        if key not in opened.readings:
            logits = opened.base.logits(opened.base.tokens(PLAIN))[0].float().log_softmax(-1)
            by = (logits.exp().mean(dim=0), logits.mean(dim=0))
            likeliest = [set(each.topk(min(COMMON, len(each))).indices.tolist()) for each in by]
            found = likeliest[0] & likeliest[1]
            opened.readings[key] = frozenset(opened.base.pieces([token])[0].strip().lower() for token in found)
        words: frozenset[str] = opened.readings[key]
    return words


def fired_on(row: dict[str, Any]) -> list[str]:
    """The words that hold a fiftieth of a feature's activation at least; none where the stage did not look."""
    words, shares = row.get("words"), row.get("word_shares")
    if words is None or shares is None:
        return []
    return [str(word) for word, share in zip(words, shares, strict=True) if share >= LEAST_SHARE]
