"""The Base vs finetuned tab as a person uses it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from demo.comparing import overall
from demo.comparing.transferred import transferred
from tests.demo.conftest import Visit

TAB = "?tab=compare"
HOSTILE = "Tom <b>said</b> ${alert(1)} {{7*7}} \u202e <img src=x onerror=alert(2)>"


def shown(page: Any, part: str) -> Any:
    from playwright.sync_api import expect

    expect(page.locator(part)).to_be_visible()
    return page.locator(part)


def test_one_text_in_both_models(visit: Visit) -> None:
    from playwright.sync_api import expect

    page = visit()
    page.wait_for_url(lambda url: "feature=" in url)  # the page's own choice
    page.get_by_role("tab", name="Base vs finetuned").click()
    models = page.locator("#compared .model")
    expect(models).to_have_count(2)
    texts = [models.nth(i).locator(".strip").inner_text() for i in range(2)]
    assert texts[0] == texts[1]
    assert page.locator("#compare-prompt textarea").input_value().startswith(texts[0][:20])
    rows = page.locator("#changed-here tr[data-feature]")
    expect(rows.first).to_have_class("chosen")  # nobody chose another one
    row = rows.nth(2)
    feature, values = row.get_attribute("data-feature"), row.locator("td.id").all_inner_texts()
    row.click()
    expect(page.locator("#compare-card .sub").first).to_have_text(f"Feature {feature}")
    expect(page.locator(f"#changed-here tr.chosen[data-feature='{feature}']")).to_be_visible()
    assert set(values) != {"0"}
    for i, value in enumerate(values):
        if value != "0":
            assert models.nth(i).locator(f".token[title='{value}']").count() >= 1
    page.wait_for_url(lambda url: f"feature={feature}" in url and "prompt=" in url)


def test_the_address_and_an_example_choose_the_text(visit: Visit) -> None:
    from playwright.sync_api import expect

    page = visit(f"{TAB}&prompt=Lily+had+a+cat.&feature=7")
    expect(page.locator("#compared .strip").first).to_have_text("Lily had a cat.")
    expect(page.locator("#compare-card .sub").first).to_have_text("Feature 7")
    page.get_by_role("button", name="A story").click()
    expect(page.locator("#compared .strip").last).to_contain_text("dog named Max")
    expect(page.locator("#compare-card .sub").first).to_have_text("Feature 7")


def test_both_models_write_and_strength_0_changes_neither(visit: Visit) -> None:
    from playwright.sync_api import expect

    page = visit(f"{TAB}&feature=7")
    shown(page, "#changed-here table")

    def write(strength: str) -> list[str]:
        page.locator("#both-strength input[type=number]").fill(strength)
        page.locator("#both-strength input[type=number]").blur()
        # What an earlier run said is wiped, so that this run's last words are the ones waited for.
        page.locator("#compare-note").evaluate("e => e.querySelectorAll('p').forEach(p => { p.textContent = '' })")
        page.locator("#compare-write").click()
        expect(page.locator("#compare-note")).to_contain_text("Coloured")
        texts: list[str] = page.locator("#quartet .text").all_inner_texts()
        return texts

    nothing = write("0")
    assert nothing[0] == nothing[1] != nothing[2] == nothing[3]
    pushed = write("0.95")
    assert (pushed[0], pushed[2]) == (nothing[0], nothing[2])
    assert pushed[1] != pushed[0] or pushed[3] != pushed[2]


def test_all_text_is_told_with_its_numbers(visit: Visit, workbench: Path) -> None:
    from playwright.sync_api import expect

    page = visit(TAB)
    name = page.locator("#sae input").input_value()
    folder = workbench / "artifacts" / "transfer" / name
    verdict = json.loads((folder / "verdict.json").read_text())
    expect(page.locator("#transfer-verdict p")).to_have_text(verdict[0].split(": ")[0] + ".")
    rows = page.locator("#changed-overall tr[data-feature]")
    expect(rows).to_have_count(len(pd.read_parquet(folder / "changed.parquet")))
    rows.first.click()
    expect(page.locator("#compare-card .twice").first).to_be_visible()
    expect(page.locator("#repairs .repaired")).to_have_count(3)
    figures = json.loads((folder / "figures.json").read_text())
    explained = figures["finetuned_text"]["finetuned"]["explained_variance"]
    expect(page.locator("#repairs .as-it-is b")).to_have_text(f"{explained:#.3g}")
    expect(page.locator("#difference .latent")).to_have_count(8)


def test_hostile_text_is_shown_as_it_is(visit: Visit) -> None:
    from playwright.sync_api import expect

    page = visit(TAB)
    shown(page, "#changed-here table")
    page.locator("#compare-prompt textarea").fill(HOSTILE)
    page.locator("#compare-run").click()
    expect(page.locator("#compared .strip").first).to_contain_text("<b>said</b> ${alert(1)} {{7*7}}")
    expect(page.locator("#compared .strip").first).to_contain_text("U+202E")
    assert page.locator("#compared img").count() == 0


def test_a_phone_needs_no_sideways_scrolling(visit: Visit) -> None:
    page = visit(f"{TAB}&__theme=dark", width=375)
    shown(page, "#changed-here table")
    assert page.evaluate("document.documentElement.scrollWidth") <= 375


def test_what_did_not_run_is_named(tmp_path: Path) -> None:
    nothing = transferred(tmp_path, "topk")
    assert "transfer stage" in overall.verdict(nothing)
    assert "adapt stage" in overall.repairs(nothing)
    assert "diff stage" in overall.difference(None, nothing)  # type: ignore[arg-type]


def test_repairs_are_read_as_they_were_measured(tmp_path: Path) -> None:
    def explained(value: float) -> dict[str, float]:
        return {"explained_variance": value}

    for kind, figures in (
        ("transfer", {"base_text": {"base": explained(0.9)}, "finetuned_text": {"finetuned": explained(0.5)}}),
        ("adapted", {"n_tokens": 100, "scratch": {"finetuned_text": explained(0.7)}}),
    ):
        (tmp_path / kind / "one").mkdir(parents=True)
        (tmp_path / kind / "one" / "figures.json").write_text(json.dumps(figures))
    found = transferred(tmp_path, "one")
    assert found.repair_tokens == 100
    assert [(each.explained, each.kind) for each in found.repairs] == [
        (0.9, "own"), (0.5, "as it is"), (0.7, "repaired")
    ]  # fmt: skip
