"""Features are ranked as a plain loop over what fires ranks them."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from demo.ranking import apart, common, ranked
from demo.reading import Reading

D_SAE = 12


def reading(seed: int, pieces: list[str]) -> Reading:
    chance = torch.Generator().manual_seed(seed)
    acts = torch.rand(len(pieces), D_SAE, generator=chance) * (torch.rand(len(pieces), D_SAE, generator=chance) < 0.4)
    token, feature = acts.nonzero(as_tuple=True)
    return Reading(pieces, token, feature, acts[token, feature], [0.0] * len(pieces), False, pd.DataFrame())


@pytest.fixture
def table() -> pd.DataFrame:
    chance = torch.Generator().manual_seed(9)
    columns = {name: torch.rand(D_SAE, generator=chance).double().numpy() for name in ("maximum", "density", "concept")}
    found = pd.DataFrame(columns).rename_axis("feature")
    found.loc[3, "concept"] = float("nan")
    return found


def test_the_most_telling_come_first(table: pd.DataFrame) -> None:
    one = reading(0, ["a", "b", "c", "d", "e"])
    scores = {}
    for feature in range(D_SAE):
        values = one.of(feature)
        concept = 1.0 if feature == 3 else table.at[feature, "concept"]
        if any(values):
            scores[feature] = max(values) / table.at[feature, "maximum"] * concept
    found = ranked(one, table)
    assert found.index.tolist() == sorted(scores, key=lambda feature: -scores[feature])
    assert [one.of(feature)[token] for feature, token in found["token"].items()] == pytest.approx(found["value"])
    assert ranked(one, table, "value")["value"].is_monotonic_decreasing
    plain = ranked(one, table.drop(columns="concept"))
    assert plain["telling"].tolist() == (plain["value"] / table["maximum"][plain.index]).tolist()
    assert common(found, table).tolist() == [table.at[feature, "density"] > 0.1 for feature in found.index]


def test_a_token_counts_with_the_parts_that_it_completes(table: pd.DataFrame) -> None:
    one = reading(1, ["a", "", "", "🦊", "e"])
    fires = {feature for feature in range(D_SAE) if any(one.of(feature)[1:4])}
    assert set(ranked(one, table, token=3).index) == fires
    assert set(ranked(one, table, token=4).index) == {f for f in range(D_SAE) if one.of(f)[4]}


@pytest.mark.parametrize("over", ["max", "mean"])
def test_what_tells_two_texts_apart(table: pd.DataFrame, over: str) -> None:
    first, second = reading(2, list("abcd")), reading(3, list("efghij"))

    def value(text: Reading, feature: int) -> float:
        values = text.of(feature)
        return max(values) if over == "max" else sum(values) / len(values)

    more = {f: value(first, f) - value(second, f) for f in range(D_SAE)}
    expected = sorted((f for f in more if more[f] > 0), key=lambda f: -more[f])
    found = apart(first, second, table, over, "value")  # type: ignore[arg-type]
    assert found.index.tolist() == expected
    assert found["first"].tolist() == pytest.approx([value(first, f) for f in expected])
    assert found["second"].tolist() == pytest.approx([value(second, f) for f in expected])
    concept = table["concept"].fillna(1.0)
    telling = {f: more[f] / table.at[f, "maximum"] * concept[f] for f in expected}
    assert apart(first, second, table, over).index.tolist() == sorted(  # type: ignore[arg-type]
        telling, key=lambda f: -telling[f]
    )
