"""The features that change from one model to the other, against a plain loop; four texts from one seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from demo.comparing.compared import changes, write_both
from demo.limits import Refused
from demo.reading import Reading, read
from demo.results import Results
from demo.steering.ask import Ask
from demo.workbench import Workbench
from sae_tools.analysis.steering import Push


def reading(dense: torch.Tensor, pieces: list[str]) -> Reading:
    token, feature = dense.nonzero(as_tuple=True)
    return Reading(pieces, token, feature, dense[token, feature], [], False, pd.DataFrame())


def test_changes_are_those_that_a_loop_finds() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.rand(7, 40, generator=generator) for _ in range(2))
    one, other = one * (one > 0.6), other * (other > 0.6)
    one[:, 5] = other[:, 5] = 0.7  # does not change
    maxima = np.linspace(0, 2, 40)  # one never fired, some go beyond their maximum here
    expected = {}
    for feature in range(40):
        a, b = one[:, feature].tolist(), other[:, feature].tolist()
        at = max(range(7), key=lambda t: abs(a[t] - b[t]))
        if a[at] != b[at]:
            share = abs(a[at] - b[at]) / max(maxima[feature], *a, *b)
            expected[feature] = (share, at, a[at], b[at])
    pieces = [f"t{i}" for i in range(7)]
    found = changes(reading(one, pieces), reading(other, pieces), maxima)
    assert [each.feature for each in found] == sorted(expected, key=lambda feature: -expected[feature][0])
    assert 5 not in expected
    for each in found:
        assert (each.token, each.base, each.finetuned) == pytest.approx(expected[each.feature][1:])
    with pytest.raises(Refused, match="different tokens"):
        changes(reading(one, pieces), reading(other, ["other", *pieces[1:]]), maxima)


def test_nothing_changes_where_nothing_fires() -> None:
    nothing = reading(torch.zeros(3, 4), ["a", "b", "c"])
    assert changes(nothing, nothing, np.ones(4)) == []


def test_four_texts_of_one_seed(workbench: Path) -> None:
    results = Results(workbench / "artifacts")
    opened = Workbench(results).open(results.names()[0])
    feature = read(opened, "Once upon a time there was a dog.").firings()[0].feature
    ask = Ask("Tom was sitting", 8, 0.7, 1)

    def texts(strength: float) -> tuple[str, ...]:
        last = list(write_both(opened, ask, Push(feature, "add", strength)))[-1]
        return last.base.default, last.base.steered, last.finetuned.default, last.finetuned.steered

    nothing, pushed = texts(0.0), texts(0.9)
    assert nothing[0] == nothing[1] != nothing[2] == nothing[3]
    assert (pushed[0], pushed[2]) == (nothing[0], nothing[2])
    assert pushed[1] != pushed[0]
    assert pushed[3] != pushed[2]
    assert pushed == texts(0.9)
