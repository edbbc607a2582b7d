"""Nothing but the values that the page offers gets past `limits`."""

from __future__ import annotations

import math
from typing import Any

import pytest

from demo import limits
from demo.limits import Refused

NOT_NUMBERS: list[Any] = [math.nan, math.inf, -math.inf, 1e308, 10**400, True, False, None, "5", [5], {"a": 5}, -1, 100]


@pytest.mark.parametrize("value", [*NOT_NUMBERS, 1.5])
def test_a_feature_id_is_a_whole_number_in_range(value: Any) -> None:
    with pytest.raises(Refused, match="whole number from 0 to 99"):
        limits.feature(value, 100)


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (99, 99), (12.0, 12)])
def test_a_good_feature_id(value: Any, expected: int) -> None:
    assert limits.feature(value, 100) == expected


@pytest.mark.parametrize("value", NOT_NUMBERS)
def test_a_strength_is_finite_and_in_range(value: Any) -> None:
    with pytest.raises(Refused, match="number from 0 to 3"):
        limits.finite(value, "Strength", 0, 3)


@pytest.mark.parametrize("value", ["", "  \n", None, 5, ["a"], "x" * 2_001, "a\ud800b", True])
def test_a_prompt_is_text_of_bounded_length(value: Any) -> None:
    with pytest.raises(Refused, match="prompt"):
        limits.prompt(value)


def test_a_prompt_at_the_limit_is_read_as_it_is() -> None:
    assert limits.prompt("é" * 2_000) == "é" * 2_000


@pytest.mark.parametrize("value", ["add", "", None, 1, True, ["Add"]])
def test_a_choice_is_one_of_those_offered(value: Any) -> None:
    with pytest.raises(Refused, match="one of: Add, Clamp"):
        limits.choice(value, "Mode", ["Add", "Clamp"])


@pytest.mark.parametrize(
    "value",
    [[], None, "0:add:1", [[0]], [[0, "add"]], [[0, "Add", 0.4]], [[-1, "add", 0.4]], [[100, "add", 0.4]], [{"a": 1}],
     [[0, "add", math.nan]], [[0, "add", 1.1]], [[0, "add", "1"]], [[0, "add", 0.4]] * 2,
     [[i, "add", 0] for i in range(6)]],
)  # fmt: skip
def test_pushes_are_one_to_five_features_in_range(value: Any) -> None:
    with pytest.raises(Refused):
        limits.pushes(value, 100)


def test_an_ablated_feature_has_no_use_for_a_strength() -> None:
    assert limits.pushes([[3, "ablate", math.nan], (4, "clamp", -1)], 100) == [(3, "ablate", 0.0), (4, "clamp", -1.0)]


@pytest.mark.parametrize("value", ["", "a", "1;2", "1.5", "--1", "-", "999", None, 1, ["1"], ",".join("1" * 17)])
def test_positions_are_a_few_whole_numbers(value: Any) -> None:
    with pytest.raises(Refused):
        limits.positions(value)


def test_good_positions() -> None:
    assert limits.positions(" 0, -1,3") == [0, -1, 3]
