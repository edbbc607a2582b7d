"""What the page says of a text is what the SAE says, and one visitor's steering never reaches another's text."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from demo.handlers import Handlers

from demo.limits import MAX_TOKENS, Refused
from demo.results import Results
from demo.workbench import Opened, Workbench
from sae_tools.common.errors import ArtifactError

TEXT = "Once upon a time there was a little dog. It ran."


@pytest.fixture(scope="module")
def results(workbench: Path) -> Results:
    return Results(workbench / "artifacts")


@pytest.fixture(scope="module")
def bench(workbench: Path) -> Workbench:
    return Workbench(workbench / "artifacts")


@pytest.fixture(scope="module")
def opened(bench: Workbench, results: Results) -> Opened:
    return bench.open(results.names()[0])


@pytest.fixture(scope="module")
def handlers(results: Results) -> Handlers:
    return Handlers(results)


def dense(opened: Opened, text: str) -> torch.Tensor:
    """(tokens, d_sae) features straight from the model and the SAE, special tokens left out."""
    lm = opened.base
    ids = lm.tokens(text)
    site = lm.site(opened.store.about["site"])
    with torch.no_grad():
        return torch.as_tensor(opened.sae.encode(lm.activations(ids, [site])[site.name])[0][lm.is_text(ids)[0]])


def test_a_reading_is_what_the_sae_says(bench: Workbench, opened: Opened) -> None:
    reading, features = bench.read(opened, TEXT), dense(opened, TEXT)
    assert "".join(reading.pieces) == TEXT
    assert reading.strongest() == features.max(1).values.tolist()
    firings = reading.firings()
    assert {firing.feature for firing in firings} == set(features.max(0).values.nonzero().squeeze(1).tolist())
    for firing in firings:
        assert firing.value == features[:, firing.feature].max() == features[firing.token, firing.feature]
        assert reading.of(firing.feature) == features[:, firing.feature].tolist()
    assert [firing.value for firing in firings] == sorted((firing.value for firing in firings), reverse=True)


@pytest.mark.parametrize("text", ["👨‍👩‍👧 and שלום", "a\u202eb\0c", "naïve café\n\ttab", "日本語"])
def test_pieces_join_to_the_text(bench: Workbench, opened: Opened, text: str) -> None:
    if "<unk>" in "".join(bench.read(opened, text).pieces):
        pytest.skip("this tokenizer does not know the text")
    assert "".join(bench.read(opened, text).pieces) == text


def test_a_long_text_is_cut_to_what_the_model_holds(bench: Workbench, opened: Opened) -> None:
    reading = bench.read(opened, "dog, cat " * 200)
    assert reading.cut
    assert len(reading.pieces) <= min(MAX_TOKENS, opened.base.context_size)


def finished(bench: Workbench, opened: Opened, feature: int, mode: Any, strength: float, seed: int = 0) -> Any:
    return list(bench.write(opened, TEXT, feature, mode, strength, 12, 1.0, seed))[-1]


def loudest(bench: Workbench, opened: Opened) -> int:
    return bench.read(opened, TEXT).firings()[0].feature


def test_strength_0_changes_nothing_and_a_seed_repeats(bench: Workbench, opened: Opened) -> None:
    feature = loudest(bench, opened)
    still = finished(bench, opened, feature, "add", 0.0)
    assert still.default == still.steered
    assert len(still.default) > 0
    pushed = finished(bench, opened, feature, "add", 1.0)
    assert pushed.default == still.default
    assert pushed.steered != pushed.default
    assert pushed.default[: pushed.shared] == pushed.steered[: pushed.shared]
    assert finished(bench, opened, feature, "add", 1.0) == pushed


def test_visitors_at_once_get_what_each_would_get_alone(bench: Workbench, opened: Opened) -> None:
    feature = loudest(bench, opened)
    asks = [
        (feature, mode, strength, seed)
        for seed in (0, 1)
        for mode, strength in (("add", 1.0), ("ablate", 0.0), ("add", 0.0))
    ]
    alone = [finished(bench, opened, *ask) for ask in asks]
    bench.write(opened, TEXT, feature, "add", 1.0, 12, 1.0, 0).__next__()  # one who leaves after the first words
    with ThreadPoolExecutor(len(asks)) as pool:
        assert list(pool.map(lambda ask: finished(bench, opened, *ask), asks)) == alone
    hooks = [
        hook for module in opened.base.model.modules() for hook in (*module._forward_hooks, *module._forward_pre_hooks)
    ]
    assert hooks == []


def steer(handlers: Handlers, name: str, **changes: Any) -> list[Any]:
    asked = {"sae": name, "feature": 0, "mode": "Ablate", "strength": 1.0, "prompt": TEXT}
    asked |= {"new_tokens": 2, "temperature": 1.0, "seed": 0}
    return list(handlers.steer(**{**asked, **changes}))


NAN, INF = float("nan"), float("inf")
BAD: dict[str, list[Any]] = {
    "sae": ["nope", "../x", None],
    "feature": [None, -1, 10**9, 1.5, True, "0"],
    "mode": ["Explode", None],
    "prompt": ["", "a\ud800", "x" * 3000],
    "new_tokens": [0, 10**9, NAN],
    "temperature": [-1, INF, None],
    "seed": [-1, 1.5, [0]],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in BAD for value in BAD[name]])
def test_bad_values_are_refused_in_words(handlers: Handlers, results: Results, name: str, value: Any) -> None:
    with pytest.raises(Refused) as refused:
        steer(handlers, results.names()[0], **{name: value})
    assert "/" not in str(refused.value)


@pytest.mark.parametrize("value", [NAN, INF, 1e308, True, "5", None, 1.1])
def test_bad_strengths_are_refused_where_strength_counts(handlers: Handlers, results: Results, value: Any) -> None:
    name = results.names()[0]
    with pytest.raises(Refused, match="Strength"):
        steer(handlers, name, mode="Add", strength=value)
    assert steer(handlers, name, mode="Ablate", strength=value)


def test_a_dead_feature_says_so(handlers: Handlers, results: Results) -> None:
    dead = [
        (name, int(feature))
        for name in results.names()
        for feature, row in handlers.open(name).store.table.iterrows()
        if row["maximum"] == 0
    ]
    if not dead:
        pytest.skip("no feature is dead")
    name, feature = dead[0]
    view = handlers.explore(name, TEXT, feature, True)
    assert "never fired" in view["card_head"]
    assert "does not fire on this prompt" in view["strip"]
    with pytest.raises(Refused, match="never fired"):
        steer(handlers, name, mode="Clamp", feature=feature)


def test_the_address_is_honoured_or_explained(handlers: Handlers, results: Results) -> None:
    name = results.names()[-1]
    view, problems = handlers.first({"sae": name, "feature": "3", "prompt": "A <b>dog"}, "example")
    assert (view["sae"], view["feature"], view["prompt"], problems) == (name, 3, "A <b>dog", [])
    assert "<b>dog" not in view["strip"]
    view, problems = handlers.first({"sae": "x", "feature": "-1", "prompt": " "}, "example")
    assert view["prompt"] == "example"
    assert len(problems) == 3


def test_what_comes_next_is_that_of_the_model(bench: Workbench) -> None:
    opened = bench.open("topk")
    text = "Once upon a time there was a little"
    following = bench.read(opened, text).following
    probabilities = opened.base.logits(opened.base.tokens(text))[0, -1].softmax(-1)
    best = probabilities.argsort(descending=True)[:5].tolist()
    assert following["model_token"].tolist() == [opened.base.tokenizer.decode([token]) for token in best]
    assert following["model_probability"].tolist() == pytest.approx(probabilities[best].tolist(), rel=1e-3)
    assert set(following["sae_token"]) & set(following["model_token"])


def test_nothing_there_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="dvc repro"):
        Results(tmp_path).names()
    assert Results(tmp_path).evaluation("x") == {}
    assert Results(tmp_path).transfer("x") == {}
