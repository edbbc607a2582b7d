"""The page's charts show labels as text."""

from __future__ import annotations

import pandas as pd
import pytest

from demo import plots
from tests.sae_tools.reports.test_render import HOSTILE, parsed


@pytest.mark.parametrize("text", HOSTILE)
def test_a_chart_shows_hostile_labels_as_text(text: str) -> None:
    agreement = pd.DataFrame({"density_base": [0.1], "density_finetuned": [0.2], "correlation": [1.0]})
    figure, _ = plots.densities(agreement, pd.Series([text]), 0)
    hovers = [hover for trace in figure.data if trace.hovertext for hover in trace.hovertext]
    assert len(hovers) == 2
    for hover in hovers:
        assert set(parsed(hover).tags) <= {"br"}


def test_a_histogram_marks_the_value_on_a_text() -> None:
    plain, marked = plots.histogram([3, 0, 1], 6.0), plots.histogram([3, 0, 1], 6.0, 4.5)
    assert list(plain.data[0].x) == [1.0, 3.0, 5.0]
    assert len(plain.data) == 1
    assert list(marked.data[1].x) == [4.5, 4.5]
    assert "4.50" in marked.data[1].text[1]
