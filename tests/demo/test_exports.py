"""What is taken along holds what it says, and acts in no spreadsheet."""

from __future__ import annotations

import base64
import csv
import io
import re

import pytest

from demo import exports
from tests.sae_tools.reports.test_render import HOSTILE, parsed


def test_a_table_is_read_back_as_it_was() -> None:
    rows = [{"feature": 3, "label": 'a "b", c\nd'}, {"feature": 4, "density": 0.5, "label": "é"}]
    found = list(csv.DictReader(io.StringIO(exports.csv(rows))))
    assert [row["label"] for row in found] == ['a "b", c\nd', "é"]
    assert [row["feature"] for row in found] == ["3", "4"]
    assert [row["density"] for row in found] == ["", "0.5"]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n"])
def test_no_cell_of_text_begins_as_a_formula(start: str) -> None:
    text = f'{start}cmd|" /C calc"!A0'
    lines = csv.reader(io.StringIO(exports.csv([{text: text}]), newline=""))
    for cell in (cell for line in lines for cell in line):
        assert cell == f"'{text}"
    assert exports.csv([{"change": -0.25}]).splitlines() == ["change", "-0.25"]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_link_holds_its_file_and_nothing_acts(text: str) -> None:
    link = exports.data_link(f"{text}.csv", "text/csv", text, text)
    assert set(parsed(link).tags) == {"a"}
    held = re.search(r"base64,([^\"]*)", link)
    assert held
    assert base64.b64decode(held[1]).decode() == text.encode("utf-8", "replace").decode()
