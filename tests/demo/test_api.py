"""The endpoints, as a program asks them: through `gradio_client`, of the page as its user runs it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.reading import read
from demo.results import Results
from demo.workbench import Opened, Workbench
from sae_tools.analysis.next_tokens import next_tokens
from tests.conftest import REPO

TEXT = "Once upon a time there was a little dog named Max."


@pytest.fixture(scope="module")
def client(server: str) -> Iterator[Any]:
    from gradio_client import Client

    with_client = Client(server, verbose=False, analytics_enabled=False)
    yield with_client
    with_client.close()


@pytest.fixture(scope="module")
def opened(workbench: Path) -> Opened:
    results = Results(workbench / "artifacts")
    return Workbench(results).open(results.names()[0])


def test_the_endpoints_and_no_other_are_named_and_described(client: Any) -> None:
    described = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(described) == {"/features", "/feature", "/steer", "/search", "/next_tokens"}
    pushes = {it["parameter_name"]: it["type"] for it in described["/steer"]["parameters"]}
    assert pushes["pushes"]["type"] == "array"
    assert pushes["model"]["enum"] == ["base", "finetuned"]
    assert all(it["description"] for it in described.values())


def test_a_page_without_them_has_none() -> None:
    named = "from demo.app import build, Future; print(build(['one'], Future()).get_api_info()['named_endpoints'])"
    made = subprocess.run([sys.executable, "-c", named], cwd=REPO, capture_output=True, text=True, check=True)
    assert made.stdout.strip() == "{}"


def test_features_are_those_that_fire(client: Any, opened: Opened) -> None:
    reading = read(opened, TEXT)
    found = client.predict(TEXT, 5, api_name="/features")
    assert len(found) == 5
    for each in found:
        values = reading.of(each["id"])
        assert each["value"] == pytest.approx(max(values), rel=1e-5)
        assert values.index(max(values)) == each["position"]
        assert reading.pieces[each["position"]] == each["token"]


def test_a_feature_is_told_whole(client: Any, opened: Opened) -> None:
    strongest = read(opened, TEXT).firings()[0].feature
    found = client.predict(strongest, api_name="/feature")
    row = opened.row(strongest)
    assert set(row) <= set(found)
    assert found["id"] == strongest
    assert found["density"] == pytest.approx(float(row["density"]))
    assert max(each["activation"] for each in found["examples"]) == pytest.approx(float(row["maximum"]), rel=1e-5)
    assert all(len(each["tokens"]) == len(each["values"]) for each in found["examples"])


def test_steering_repeats_and_strength_0_changes_nothing(client: Any, opened: Opened) -> None:
    feature = read(opened, TEXT).firings()[0].feature

    def steered(strength: float, model: str = "base") -> dict[str, str]:
        pushes = [{"feature": feature, "mode": "add", "strength": strength}]
        answer: dict[str, str] = client.predict(
            "Tom was sitting", pushes, new_tokens=12, seed=3, model=model, api_name="/steer"
        )
        return answer

    one = steered(0.8)
    assert one == steered(0.8)
    assert one["default"] != one["steered"]
    nothing = steered(0.0)
    assert nothing["default"] == nothing["steered"] == one["default"]
    assert steered(0.8, "finetuned")["default"] != one["default"]


def test_search_finds_by_label_and_by_token(client: Any, opened: Opened) -> None:
    table = opened.store.table
    label = str(table.loc[table["density"].idxmax(), "label"])
    found = client.predict(label.upper(), count=200, api_name="/search")
    assert table["density"].idxmax() in [each["id"] for each in found]
    row = opened.row(int(table["density"].idxmax()))
    pieces = [opened.base.tokenizer.decode([int(i)]).strip() for i in row.get("gained_tokens", row["top_tokens"])]
    token = next(piece for piece in pieces if piece.isalpha())
    by_token = client.predict("", token, count=200, api_name="/search")
    assert table["density"].idxmax() in [each["id"] for each in by_token]


def test_next_tokens_with_and_without_the_sae(client: Any, opened: Opened) -> None:
    found = client.predict(TEXT, 3, api_name="/next_tokens")
    ids = opened.base.tokens(TEXT)
    expected = next_tokens(opened.sae, opened.base, opened.site, ids, 3).loc[ids.shape[1] - 1]
    for way in ("model", "sae"):
        assert [each["token"] for each in found[way]] == expected[f"{way}_token"].tolist()
        shown = [each["probability"] for each in found[way]]
        assert shown == pytest.approx(expected[f"{way}_probability"].tolist(), rel=1e-4)


PUSH = {"feature": 3, "mode": "add", "strength": 0.4}
HOSTILE = [
    ("/features", ["  "], "empty"),
    ("/features", ["x" * 2001], "2,001 characters"),
    ("/features", [TEXT, 0], "from 1 to 200"),
    ("/features", [TEXT, True], "whole number"),
    ("/features", [TEXT, 3, "../../etc"], "SAE must be one of"),
    ("/feature", [-1], "from 0 to"),
    ("/feature", [1.5], "whole number"),
    ("/feature", ["7"], "whole number"),
    ("/feature", [10**30], "from 0 to"),
    ("/steer", ["Tom", []], "No feature is pushed"),
    ("/steer", ["Tom", [{**PUSH, "feature": i} for i in range(6)]], "At most 5"),
    ("/steer", ["Tom", [PUSH, PUSH]], "each feature is pushed once"),
    ("/steer", ["Tom", ["3"]], "a mode and a strength"),
    ("/steer", ["Tom", [{**PUSH, "strength": 1e308}]], "Strength"),
    ("/steer", ["Tom", [{**PUSH, "strength": None}]], "Strength"),
    ("/steer", ["Tom", [{**PUSH, "mode": "boost"}]], "Mode must be one of: add"),
    ("/steer", ["Tom", [PUSH], 10**9], "from 1 to 128"),
    ("/steer", ["Tom", [PUSH], 10, 0.7, -1], "Seed"),
    ("/steer", ["Tom", [PUSH], 10, 0.7, 0, "other"], "base, finetuned"),
    ("/search", ["", ""], "Nothing to search"),
    ("/search", [5], "q is empty"),
    ("/next_tokens", [TEXT, 11], "from 1 to 10"),
]


@pytest.mark.parametrize(("endpoint", "values", "sentence"), HOSTILE)
def test_hostile_values_are_refused_in_words(client: Any, endpoint: str, values: list[Any], sentence: str) -> None:
    from gradio_client.exceptions import AppError

    with pytest.raises(AppError, match=sentence) as refusal:
        client.predict(*values, api_name=endpoint)
    assert "Traceback" not in str(refusal.value)
