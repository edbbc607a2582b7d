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
