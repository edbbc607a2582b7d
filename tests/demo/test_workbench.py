"""What the page says of a text is what the SAE says, and one visitor's steering never reaches another's text."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from demo.limits import MAX_TOKENS
from demo.reading import read
from demo.results import Results
from demo.workbench import Opened, Workbench
from demo.writing import Written, write
from sae_tools.analysis.steering import Push, steer
from sae_tools.common.errors import ArtifactError

TEXT = "Once upon a time there was a little dog. It ran."


@pytest.fixture(scope="module")
def results(workbench: Path) -> Results:
    return Results(workbench / "artifacts")


@pytest.fixture(scope="module")
def opened(results: Results) -> Opened:
    return Workbench(results).open(results.names()[0])


def dense(opened: Opened, text: str) -> torch.Tensor:
    """(tokens, d_sae) features straight from the model and the SAE, special tokens left out."""
    lm = opened.base
    ids = lm.tokens(text)
    site = lm.site(opened.about["site"])
    with torch.no_grad():
        return torch.as_tensor(opened.sae.encode(lm.activations(ids, [site])[site.name])[0][lm.is_text(ids)[0]])


def test_a_reading_is_what_the_sae_says(opened: Opened) -> None:
    reading, features = read(opened, TEXT), dense(opened, TEXT)
    assert "".join(reading.pieces) == TEXT
    assert reading.strongest() == features.max(1).values.tolist()
    firings = reading.firings()
    assert {firing.feature for firing in firings} == set(features.max(0).values.nonzero().squeeze(1).tolist())
    for firing in firings:
        assert firing.value == features[:, firing.feature].max() == features[firing.token, firing.feature]
        assert reading.of(firing.feature) == features[:, firing.feature].tolist()
    assert [firing.value for firing in firings] == sorted((firing.value for firing in firings), reverse=True)


@pytest.mark.parametrize("text", ["👨‍👩‍👧 and שלום", "a\u202eb\0c", "naïve café\n\ttab", "日本語"])
def test_pieces_join_to_the_text(opened: Opened, text: str) -> None:
    if "<unk>" in "".join(read(opened, text).pieces):
        pytest.skip("this tokenizer does not know the text")
    assert "".join(read(opened, text).pieces) == text


def test_a_long_text_is_cut_to_what_the_model_holds(opened: Opened) -> None:
    reading = read(opened, "dog, cat " * 200)
    assert reading.cut
    assert len(reading.pieces) <= min(MAX_TOKENS, opened.base.context_size)


def texts(opened: Opened, feature: int, mode: Any, strength: float, seed: int = 0) -> Iterator[Written]:
    patch = steer(opened.sae, opened.site, [Push(feature, mode, strength)], opened.unit)
    return write(opened, opened.base, TEXT, patch, 12, 1.0, seed)


def finished(opened: Opened, feature: int, mode: Any, strength: float, seed: int = 0) -> Written:
    return list(texts(opened, feature, mode, strength, seed))[-1]


def loudest(opened: Opened) -> int:
    return read(opened, TEXT).firings()[0].feature


def test_strength_0_changes_nothing_and_a_seed_repeats(opened: Opened) -> None:
    feature = loudest(opened)
    still = finished(opened, feature, "add", 0.0)
    assert still.default == still.steered
    assert len(still.default) > 0
    pushed = finished(opened, feature, "add", 1.0)
    assert pushed.default == still.default
    assert pushed.steered != pushed.default
    assert pushed.default[: pushed.shared] == pushed.steered[: pushed.shared]
    assert finished(opened, feature, "add", 1.0) == pushed


def test_visitors_at_once_get_what_each_would_get_alone(opened: Opened) -> None:
    feature = loudest(opened)
    asks = [
        (feature, mode, strength, seed)
        for seed in (0, 1)
        for mode, strength in (("add", 1.0), ("ablate", 0.0), ("add", 0.0))
    ]
    alone = [finished(opened, *ask) for ask in asks]
    next(texts(opened, feature, "add", 1.0))  # one who leaves after the first words
    with ThreadPoolExecutor(len(asks)) as pool:
        assert list(pool.map(lambda ask: finished(opened, *ask), asks)) == alone
    hooks = [
        hook for module in opened.base.model.modules() for hook in (*module._forward_hooks, *module._forward_pre_hooks)
    ]
    assert hooks == []


def test_what_comes_next_is_that_of_the_model(opened: Opened) -> None:
    text = "Once upon a time there was a little"
    following = read(opened, text).following
    probabilities = opened.base.logits(opened.base.tokens(text))[0, -1].softmax(-1)
    best = probabilities.argsort(descending=True)[:5].tolist()
    first = following.head(5)
    assert first["token"].tolist() == [opened.base.tokenizer.decode([token]) for token in best]
    assert first["model"].tolist() == pytest.approx(probabilities[best].tolist(), rel=1e-3)
    assert first["change"].tolist() == pytest.approx((first["sae"] - first["model"]).tolist())


def test_nothing_there_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="dvc repro"):
        Results(tmp_path).names()
    assert Results(tmp_path).evaluation("x") == {}
    assert Results(tmp_path).transfer("x") == {}


def test_the_models_wait_until_they_are_asked_for(results: Results) -> None:
    opened = Workbench(results).open(results.names()[0])
    assert opened.row(0)["label"] is not None
    assert not {"base", "sae", "finetuned"} & vars(opened).keys()
