"""What is pushed reaches the address and comes back; what cannot be pushed is refused in words."""

from __future__ import annotations

from typing import Any

import pytest

from demo import limits
from demo.limits import Refused
from demo.steering import pushes
from demo.steering.ask import Ask, both, changes, swept
from demo.steering.by_features import ByFeatures
from demo.words import own_words
from demo.workbench import Opened
from demo.writing import EVERY
from sae_tools.analysis.steering import MODES, Push


def test_the_page_offers_every_mode() -> None:
    assert limits.MODES == MODES


def test_the_address_says_pushes_and_gives_them_back(opened: Opened, alive: list[int]) -> None:
    a, b, c = alive[:3]
    shown = [Push(a, "add", 0.4), Push(b, "clamp", -0.35), Push(c, "ablate", 0.0)]
    text = pushes.written(shown)
    assert text == f"{a}:add:0.4,{b}:clamp:-0.35,{c}:ablate:0"
    assert pushes.parsed(opened, text) == shown


@pytest.mark.parametrize(
    "text",
    ["", "12", "0:add", "0:add:nan", "0:add:inf", "0:add:2", "0:explode:0.4", "-1:add:0.4", "9999999:add:0.4", ","],
)
def test_an_address_that_says_no_push_is_refused(opened: Opened, text: str) -> None:
    with pytest.raises(Refused):
        pushes.parsed(opened, text)


def test_a_feature_twice_or_six_of_them_are_refused(opened: Opened, alive: list[int]) -> None:
    one = [alive[0], "add", 0.4]
    with pytest.raises(Refused, match="there already"):
        pushes.checked(opened, [one, one])
    with pytest.raises(Refused, match="At most 5"):
        pushes.checked(opened, [[feature, "add", 0.4] for feature in alive[:6]])


def test_a_dead_feature_is_refused(opened: Opened) -> None:
    dead = opened.store.table.index[opened.store.table["maximum"] <= 0]
    if not len(dead):
        pytest.skip("no feature is dead")
    with pytest.raises(Refused, match="never fired"):
        pushes.checked(opened, [[int(dead[0]), "add", 0.4]])


def test_a_calibrated_strength_is_the_first_one(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: dict[str, Any] = {"strength": 0.3, "strength_low": 0.2, "strength_high": 0.6}
    monkeypatch.setattr(type(opened), "row", lambda self, feature: rows)
    assert pushes.start(opened, 0) == Push(0, "add", 0.3)
    assert pushes.fluent(rows) == (0.2, 0.6)
    rows.clear()
    assert pushes.start(opened, 0) == Push(0, "add", 0.4)
    assert pushes.fluent(rows) == (0.25, 0.5)


def test_the_gallery_says_what_to_begin_with(opened: Opened, alive: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = {"steering": [{"feature": alive[3]}, {"feature": alive[1]}]}
    monkeypatch.setitem(vars(opened.store), "gallery", gallery)
    assert pushes.suggested(opened) == [alive[3], alive[1]]


def test_common_words_are_no_features_own(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: dict[str, Any] = {
        "words": ["the", "Garden", "x", "?", "rare"], "word_shares": [0.5, 0.4, 0.05, 0.05, 0.01],
        "gained_tokens": opened.base.tokens(" flower.")[0, 1:].tolist(),
    }  # fmt: skip
    monkeypatch.setattr(type(opened), "row", lambda self, feature: rows)
    assert {"the", "and"} <= opened.common_words
    assert own_words(opened, 0) == ["garden", "flower"]
    assert own_words(opened, 0, gained=False) == ["garden"]


def last(source: ByFeatures, ask: Ask) -> Any:
    return list(both(source, ask))[-1]


def test_strength_0_is_the_default_and_a_seed_repeats(opened: Opened, alive: list[int]) -> None:
    ask = Ask(new_tokens=12)
    still = last(ByFeatures(opened, [Push(alive[0], "add", 0.0)], False), ask)
    assert still.steered == still.default != ""
    source = ByFeatures(opened, [Push(alive[0], "add", 0.8), Push(alive[1], "clamp", 0.5)], False)
    pushed = last(source, ask)
    assert pushed.default == still.default
    assert pushed.steered != pushed.default
    assert last(source, ask) == pushed


def test_a_sweep_grows_by_a_text_and_begins_with_the_default(opened: Opened, alive: list[int]) -> None:
    ask = Ask(new_tokens=8)
    source = ByFeatures(opened, [Push(alive[0], "add", -0.4)], False)
    tables = list(swept(source, ask))
    assert [len(table) for table in tables] == [1, 2, 3, 4, 5]
    found = tables[-1].set_index("strength")["text"]
    assert found.index.tolist() == pytest.approx([0, -0.2, -0.4, -0.6, -0.8])
    written = last(source, ask)
    assert (found.iloc[0], found.iloc[2]) == (written.default, written.steered)
    with pytest.raises(Refused, match="no strength to vary"):
        next(swept(ByFeatures(opened, [Push(alive[0], "ablate", 0.0)], False), ask))


def test_next_token_changes_are_those_of_the_push(opened: Opened, alive: list[int]) -> None:
    push, lm = Push(alive[0], "add", 0.5), opened.base
    table = changes(ByFeatures(opened, [push], False), Ask())
    ids = lm.tokens(Ask().prompt)
    atom = opened.sae.W_dec[push.feature].detach()
    step = 0.5 * opened.unit * atom / atom.norm()

    def moved(module: Any, args: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        changed = hidden + step * lm.is_text(ids)[..., None]
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    before = lm.logits(ids)[0, -1].softmax(-1)
    with lm.model.get_submodule(opened.site.path).register_forward_hook(moved):
        after = lm.logits(ids)[0, -1].softmax(-1)
    assert table["change"].to_numpy() == pytest.approx((after - before)[table.index.tolist()].tolist(), abs=1e-5)


def test_a_visitor_who_leaves_stops_both_texts_at_once(
    opened: Opened, alive: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []
    forward = opened.base.forward
    monkeypatch.setattr(opened.base, "forward", lambda *given: passes.append(1) or forward(*given))
    stream = both(ByFeatures(opened, [Push(alive[0], "add", 0.4)], False), Ask(new_tokens=100))
    next(stream)
    before = len(passes)
    stream.close()  # type: ignore[attr-defined]
    assert len(passes) == before == 2 * EVERY
    assert not opened.turn.locked()
