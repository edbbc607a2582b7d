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


def test_a_sweep_is_two_curves_on_their_own_axes() -> None:
    swept = pd.DataFrame({"strength": [0.0, -0.4], "amount": [0.1, float("nan")], "nll": [1.0, 2.5]})
    amount, nll = plots.strengths(swept, "mean activation").data
    assert (list(amount.x), amount.y[0], amount.yaxis) == ([0.0, -0.4], 0.1, "y")
    assert (list(nll.y), nll.yaxis) == ([1.0, 2.5], "y2")
