"""What is said of a feature is what its row says, whatever stands in it."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from demo.pieces import bars, everything, known
from demo.pieces.label import said
from tests.sae_tools.reports.test_render import HOSTILE, parsed

ROW: dict[str, Any] = {"label": "dog", "label_source": "automatic", "automatic_label": "dog", "label_score": 0.5}
TESTED = {"detection": 0.5, "detection_precision": 0.25, "detection_recall": 1.0}


def text(markup: str) -> str:
    return str(parsed(markup).text)


def test_a_label_says_who_made_it_and_how_far_to_trust_it() -> None:
    assert "was not tested" in text(said(ROW))
    automatic = text(said(ROW | TESTED))
    assert "automatically" in automatic
    assert "F1 0.50: right 25% of the time, and it finds 100% of the firings" in automatic
    person = text(said(ROW | TESTED | {"label": "pets", "label_source": "person", "label_score": math.nan}))
    assert "by a person" in person
    assert "No score came with it" in person
    assert "automatic label is “dog”" in person
    assert "by gpt-x. Its score: 0.500" in text(said(ROW | {"label_source": "gpt-x"}))
    assert said(ROW | {"label": ""}) == ""


@pytest.mark.parametrize("hostile", HOSTILE)
def test_words_and_labels_are_shown_as_text(hostile: str) -> None:
    words = {"words": np.array([hostile, "b"], object), "word_shares": np.array([0.75, 0.25])}
    row = ROW | words | {"automatic_label": hostile, "label_source": hostile}
    ours = {"bdi", "p", "b", "ul", "li", "span", "small", "h4", "h5", "div"}
    for markup in (said(row), known.words(row)):
        assert set(parsed(markup).tags) <= ours
    assert "75%" in text(known.words(row))


def test_what_a_stage_did_not_make_is_left_out() -> None:
    assert known.words(ROW) == ""
    assert bars.shares({"words": np.array([]), "word_shares": np.array([])}, "words", "word_shares") == ""
    opened = SimpleNamespace(store=SimpleNamespace(table=pd.DataFrame({"concept": [0.1, 0.2, 0.3, 0.4]})))
    assert known.scores(opened, ROW) == ""  # type: ignore[arg-type]
    scored = text(known.scores(opened, ROW | {"concept": 0.3, "steering": math.nan}))  # type: ignore[arg-type]
    assert "0.300" in scored
    assert "Above 50%" in scored
    assert "Steering" not in scored


def test_lines_hold_every_value_of_a_record() -> None:
    rows = everything.lines({
        "feature": 3, "label": "=x", "concept": None, "histogram": [4, 5], "together": [{"feature": 9, "value": 0.5}],
        "words": [{"text": "dog", "value": 0.75}], "examples": [{"tokens": ["a", " b"], "values": [0, 1], "value": 1}],
    })  # fmt: skip
    assert [tuple(row.values()) for row in rows] == [
        ("feature", "", "", 3), ("label", "", "=x", ""), ("concept", "", "", ""), ("histogram", 1, "", 4),
        ("histogram", 2, "", 5), ("together", 1, 9, 0.5), ("words", 1, "dog", 0.75), ("examples", 1, "a b", 1),
    ]  # fmt: skip
