"""What the gallery shows of a features' table, and how it says that something was not made."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from demo.showcase import by_rule, concepts, steering
from demo.tabs.gallery import gallery
from demo.words import marked

N = 40


def opened(chosen: dict[str, Any] | None = None, **columns: Any) -> Any:
    """Forty features: 0 is dead, 1 fires on every third token, 2 hardly ever; the higher, the stronger."""
    density = np.full(N, 0.01)
    density[:3] = 0, 0.3, 0.0001
    table = pd.DataFrame(
        {"label": [f"word{i} · x" for i in range(N)], "density": density, "maximum": np.arange(N) * 1.0, **columns}
    ).rename_axis("feature")
    store = SimpleNamespace(table=table, gallery=chosen or {}, examples=lambda feature: [])
    return SimpleNamespace(
        store=store, about={"n_tokens": 20_000}, d_sae=N, row=lambda i: dict(table.loc[i]), common_words=frozenset()
    )


def test_without_a_gallery_features_are_picked_by_a_rule_that_is_told() -> None:
    labels = [f"word{i} · x" for i in range(N)]
    labels[38], labels[37] = "Word39 · y", ". · x"
    page = opened(label=labels)
    assert by_rule(page) == [39, *range(36, 25, -1)]  # 38 begins with the same word, 37 with none
    told = gallery(page, complete=False)
    assert "dvc repro" in told
    assert "the strongest first" in told
    assert told.count("<article") == 12
    scored = opened(concept=np.where(np.arange(N) < 10, np.arange(N) / 10, np.nan))
    assert by_rule(scored) == [9, 8, 7, 6, 5, 4, 3]


def test_a_chosen_gallery_is_shown_as_it_was_chosen() -> None:
    pushed = {"feature": 5, "strength": 0.3, "prompt": "Tom sat.", "seed": 2, "default": " He.", "steered": " Word5!"}
    chosen = {"concepts": [{"feature": i} for i in (7, 4, N, -1, "x")], "steering": [pushed, {"feature": 1e9}]}
    page = opened(chosen)
    assert concepts(page) == [7, 4]
    (only,) = steering(page)
    assert (only.feature, only.strength, only.prompt, only.seed) == (5, 0.3, "Tom sat.", 2)
    told = gallery(page, complete=False)
    assert told.index("word7") < told.index("word4") < told.index("word5")
    assert "with seed 2" in told
    assert "dvc repro" not in told


def test_words_of_a_feature_are_marked_as_whole_words() -> None:
    words = {"dog", "the", "tail"}
    shown = marked("The DOG <b>dogs</b> tail.", words).replace('<mark class="own">', "[").replace("</mark>", "]")
    assert shown == "[The] [DOG] &lt;b&gt;dogs&lt;/b&gt; [tail]."
