"""Pairs that a visitor types become the direction that the mathematics says, and what is added is as long as asked."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from demo.limits import Refused
from demo.steering.ask import Ask, Source, both
from demo.steering.by_direction import ByDirection
from demo.steering.by_features import ByFeatures
from demo.steering.pairs import EXAMPLE, Asked, Seen, look, looked, typed
from demo.steering.snippet import snippet
from demo.workbench import Opened
from sae_tools.analysis.contrast import contrast
from sae_tools.analysis.pairs import Pair
from sae_tools.analysis.steering import Push
from tests.conftest import ASSETS


@pytest.fixture(scope="module")
def asked(opened: Opened) -> Asked:
    _, layer, kind = str(opened.about["site"]).split(".", 2)
    return Asked.checked(EXAMPLE, "last", "", int(layer), kind)


@pytest.fixture(scope="module")
def seen(opened: Opened, asked: Asked) -> Seen:
    return looked(opened, asked)


def test_lines_with_a_bar_json_lines_and_caa_are_read() -> None:
    assert typed(" a dog | a cat \n\nhot|cold") == [Pair("a dog", "a cat"), Pair("hot", "cold")]
    assert typed('{"positive": "a | b", "negative": "c"}') == [Pair("a | b", "c")]
    caa = {"question": "Q", "answer_matching_behavior": "(A)", "answer_not_matching_behavior": "(B)"}
    assert typed(json.dumps([caa])) == [Pair("Input: Q\nResponse: (A)", "Input: Q\nResponse: (B)")]


@pytest.mark.parametrize(
    "text", ["a | b\nc", "a | b | c", " | b", "alone", "{}", '{"positive": 1, "negative": "b"}', "[", "[]"]
)
def test_what_is_no_pair_is_refused_in_words(text: str) -> None:
    with pytest.raises(Refused) as refused:
        typed(text)
    assert str(refused.value)[0].isupper()


@pytest.mark.parametrize(
    "changed",
    [
        {"text": "a|b\n" * 65}, {"text": f"{'x' * 2001}|b"}, {"text": "x" * 40_001}, {"text": None},
        {"text": "a\ud800|b"}, {"kind": "hook_x"},
        {"where": "middle"}, {"where": "chosen", "tokens": "one"}, {"where": "chosen", "tokens": "999"},
        {"where": "chosen", "tokens": None}, {"layer": -1}, {"layer": True}, {"layer": float("nan")},
    ],
)  # fmt: skip
def test_hostile_values_are_refused(changed: dict[str, Any]) -> None:
    good = {"text": "a|b", "where": "last", "tokens": "-1", "layer": 2, "kind": "hook_resid_post"}
    with pytest.raises(Refused):
        Asked.checked(**{**good, **changed})


def test_a_layer_that_is_not_there_and_texts_that_do_not_differ_are_refused(opened: Opened) -> None:
    with pytest.raises(Refused, match="layer 99"):
        looked(opened, Asked.checked("a dog|a cat", "last", "", 99, "hook_resid_post"))
    with pytest.raises(Refused, match="no direction"):
        looked(opened, Asked.checked("a dog|a dog", "last", "", 1, "hook_resid_post"))


def test_pairs_read_a_few_at_a_time_give_the_contrast_of_all(opened: Opened) -> None:
    pairs = typed(EXAMPLE) * 2
    text = "\n".join(f"{pair.positive} | {pair.negative}" for pair in pairs)
    steps = list(look(opened, Asked.checked(text, "chosen", "0, -1", 1, "hook_mlp_out")))
    assert steps[:-1] == [0, 8]
    seen = steps[-1]
    assert isinstance(seen, Seen)
    whole = contrast(pairs, opened.base, opened.base.site("blocks.1.hook_mlp_out"), [0, -1])
    assert seen.ways is None
    torch.testing.assert_close(seen.contrast.vector, whole.vector, rtol=1e-4, atol=1e-5)


def added(source: ByDirection) -> torch.Tensor:
    """(d_in,) what the patch adds to an activation of zeros."""
    return source.patch().edit(torch.zeros(1, 1, len(source.seen.contrast.vector)))[0, 0]


def by(opened: Opened, seen: Seen, kind: str, strength: float = -0.5, chosen: Any = ()) -> ByDirection:
    return ByDirection.checked(opened, seen, kind, "pursuit", chosen, strength, False)


def test_what_is_added_is_as_long_as_asked(opened: Opened, seen: Seen) -> None:
    v, length = seen.contrast.vector, 0.5 * opened.unit
    torch.testing.assert_close(added(by(opened, seen, "vector")), -length * v / v.norm())
    control = added(by(opened, seen, "random"))
    assert float(control.norm()) == pytest.approx(length, rel=1e-5)
    assert abs(float(control @ v) / float(control.norm() * v.norm())) < 0.5
    assert seen.ways is not None
    rebuilt = added(by(opened, seen, "reconstruction"))
    torch.testing.assert_close(rebuilt, -length / v.norm() * seen.ways.reconstruction("pursuit"))


def test_chosen_features_add_their_coefficients(opened: Opened, seen: Seen) -> None:
    assert seen.ways is not None
    table = seen.ways.tables["pursuit"]
    every = [["pursuit", int(feature)] for feature in table.index]
    # All latents of the pursuit together are its reconstruction.
    torch.testing.assert_close(
        added(by(opened, seen, "chosen", chosen=every)), added(by(opened, seen, "reconstruction"))
    )
    with pytest.raises(Refused, match="No feature is chosen"):
        by(opened, seen, "chosen")
    stranger = next(f for f in range(opened.d_sae) if f not in table.index)
    with pytest.raises(Refused, match="no longer"):
        added(by(opened, seen, "chosen", chosen=[["pursuit", stranger]]))


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), 1.5, True, "1", None])
def test_a_direction_has_a_finite_strength(opened: Opened, seen: Seen, strength: Any) -> None:
    with pytest.raises(Refused, match="Strength"):
        by(opened, seen, "vector", strength)


@pytest.mark.parametrize("kind", ["features", "vector", "reconstruction", "chosen", "random"])
def test_the_copied_python_writes_the_texts_of_the_page(
    kind: str,
    opened: Opened,
    seen: Seen,
    alive: list[int],
    workbench: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert seen.ways is not None
    chosen = [["pursuit", int(feature)] for feature in seen.ways.tables["pursuit"].index[:2]]
    ask = Ask('She said: "it\'s\n{x}"', 8, 0.9, 3)
    pushes = [Push(alive[0], "add", 0.6), Push(alive[1], "ablate", 0.0)]
    source: Source = ByFeatures(opened, pushes, True) if kind == "features" else by(opened, seen, kind, 0.7, chosen)
    code = snippet(source, ask)
    assert str(ASSETS) not in code
    name = Path(str(opened.about["base"]["name"]))
    for link, target in ((name.name, ASSETS / name.name), ("artifacts", workbench / "artifacts")):
        (tmp_path / link).symlink_to(target)
    printed = io.StringIO()
    monkeypatch.chdir(tmp_path)
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "copied", "exec"), {})
    written = list(both(source, ask))[-1]
    assert printed.getvalue() == f"{written.default}\n{written.steered}\n"
