"""The two texts as HTML: nothing acts that should show, and what is marked is what should be."""

from __future__ import annotations

import re

from demo.steering.pieces import band, columns, parting
from demo.writing import Written

HOSTILE = "<img src=x onerror=alert(1)> ${alert(1)}"


def written(default: str, steered: str) -> Written:
    shared = next(
        (i for i, (a, b) in enumerate(zip(default, steered, strict=False)) if a != b), min(len(default), len(steered))
    )
    return Written(default, steered, shared, ([], []))


def test_texts_part_at_the_start_of_a_word() -> None:
    text = written(" He was happy", " He wanted")
    assert text.steered[: text.shared] == " He wa"
    assert text.steered[: parting(text)] == " He "
    assert parting(written(" same", " same")) == len(" same")


def test_own_words_are_marked_whole_and_in_any_case() -> None:
    _, steered = columns("Go.", written(" A car.", " A garden, Gardens and gardener."), ["garden"])
    assert re.findall(r'<mark class="own">(.*?)</mark>', steered) == ["garden", "Gardens"]


def test_nothing_a_model_writes_acts() -> None:
    for shown in columns(HOSTILE, written(HOSTILE, f"{HOSTILE} img"), ["img", "("]):
        assert "<img" not in shown
        assert "&lt;" in shown


def test_the_band_lies_where_the_slider_has_its_range() -> None:
    assert 'style="left:62.5%;width:12.5%"' in band(0.25, 0.5, 1.0)
