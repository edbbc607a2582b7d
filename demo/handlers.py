"""What happens on each click: check the values, ask the workbench, give back the parts of the page that change.

Each method returns a `View`: new contents by the name of the part. Knows the parts' names, not their place.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from demo import about, limits, plots
from demo.cards import card_body, card_head, firing_rows, firing_table, label_of, next_table
from demo.limits import Refused
from demo.results import Results
from demo.workbench import Opened, Reading, Which, Workbench, Written
from sae_tools.analysis.steering import Mode
from sae_tools.reports.render import escape, legend, note, number, strip, visible

View = dict[str, Any]
NO_FINETUNED = (
    "This SAE was made without a finetuned model. Name one in <code>params.yaml</code> "
    "(language_model.finetuned) and run <code>dvc repro</code>."
)
EQUAL = "Both texts are equal: the change did not matter here."
LEAVES = "Coloured: where the steered text leaves the default one."
PLAIN_MODES: dict[str, Mode] = {"Add": "add", "Clamp": "clamp", "Ablate": "ablate"}


class Handlers:
    """The page's answers, over the results of one run of the pipeline."""

    def __init__(self, results: Results) -> None:
        self._results = results
        self._names = results.names()
        self._bench = Workbench(results.artifacts)
        self._agreement = {name: results.agreement(name) for name in self._names}
        self._random = random.Random()

    def open(self, sae: object) -> Opened:
        return self._bench.open(limits.choice(sae, "SAE", self._names))

    def first(self, query: Mapping[str, str], example: str) -> tuple[View, list[str]]:
        """The page as it is first seen: what the address asks for, else an example and its strongest feature.

        The second value lists, in words, what in the address could not be honoured.
        """
        problems: list[str] = []

        def wanted(name: str, read: Any, otherwise: Any) -> Any:
            try:
                return read(query[name]) if name in query else otherwise
            except Refused as refused:
                problems.append(f"In the address: {refused}")
                return otherwise

        name = wanted("sae", lambda v: limits.choice(v, "SAE", self._names), self._names[0])
        opened = self.open(name)
        prompt = wanted("prompt", limits.prompt, example)
        feature = wanted("feature", lambda v: limits.feature(_parse(v), opened.d_sae), None)
        if feature is None:
            feature = self._strongest(opened, prompt)
        return {"sae": name, "prompt": prompt, **self._all(opened, prompt, feature, True)}, problems

    def change_sae(self, sae: object, prompt: object, hide_dense: object) -> View:
        """Everything that belongs to one SAE; its features are others, so the strongest one is chosen anew."""
        opened = self.open(sae)
        text = limits.prompt(prompt)
        return self._all(opened, text, self._strongest(opened, text), hide_dense)

    def _strongest(self, opened: Opened, prompt: str) -> int | None:
        firings, _ = firing_rows(opened, self._bench.read(opened, prompt), hide_dense=True)
        return firings[0].feature if firings else None

    def _all(self, opened: Opened, prompt: str, chosen: int | None, hide_dense: object) -> View:
        metrics = self._results.evaluation(opened.name)
        return {
            "badges": about.badges(opened, metrics),
            "about": about.about(opened, metrics, self._results.verdict(opened.name)),
            "compared": "",
            "compared_prompt": "",
            **self._transfer(opened, chosen),
            **self.explore(opened.name, prompt, chosen, hide_dense),
        }

    def explore(self, sae: object, prompt: object, feature: object, hide_dense: object) -> View:
        """A prompt read token by token, its strongest features, and the chosen feature's card."""
        opened = self.open(sae)
        text = limits.prompt(prompt)
        chosen = None if feature is None else limits.feature(feature, opened.d_sae)
        reading = self._bench.read(opened, text)
        return {
            "shown_prompt": text, "feature": chosen, "feature_box": chosen,
            "strip": self._strip(opened, reading, chosen),
            "table": firing_table(opened, reading, chosen, hide_dense is True),
            "following": next_table(reading),
            **self._card(opened, chosen, text),
        }  # fmt: skip

    def lucky(self, sae: object, prompt: object, hide_dense: object) -> View:
        """A random feature that is not dead."""
        opened = self.open(sae)
        alive = opened.store.table.index[opened.store.table["maximum"] > 0].tolist()
        if not alive:
            raise Refused("Every feature of this SAE is dead.")
        return self.explore(sae, prompt, int(self._random.choice(alive)), hide_dense)

    def _strip(self, opened: Opened, reading: Reading, chosen: int | None, which: str = "") -> str:
        cut = note(f"Only the first {len(reading.pieces)} tokens were read.") if reading.cut else ""
        if chosen is None:
            values = reading.strongest()
            top = max(values, default=0.0)
            return strip(reading.pieces, values, top) + legend(top, "strongest feature on each token") + cut
        row = opened.feature(chosen)
        values = reading.of(chosen)
        colours = strip(reading.pieces, values, row["maximum"])
        name = f"feature {chosen}, {label_of(row)}"
        if not any(values):
            where = f"in the {which} model" if which else "on this prompt"
            return colours + legend(0, f"{name}: <em>does not fire {where}</em>") + cut
        here = f"{name}: at most <b>{number(max(values))}</b> here"
        return colours + legend(row["maximum"], here) + cut

    def _card(self, opened: Opened, chosen: int | None, prompt: str) -> View:
        if chosen is None:
            empty = note("Pick a feature in the table to see what it is.", "empty")
            return {"card_head": empty, "histogram": None, "card_body": "", "steer_feature": empty}
        row = opened.feature(chosen)
        head = card_head(opened, chosen, prompt, self._correlation(opened, chosen))
        dead = row["maximum"] <= 0
        never = " <span>(it never fired, so it can't be added)</span>" if dead else ""
        steering = f"Steering with <b>feature {chosen}</b>, {label_of(row)}{never}"
        return {
            "card_head": head,
            "histogram": None if dead else plots.histogram(row["histogram"], row["maximum"]),
            "card_body": card_body(opened, chosen),
            "steer_feature": f'<p class="steered-by">{steering}</p>',
        }

    def _correlation(self, opened: Opened, feature: int) -> float | None:
        table = self._agreement[opened.name]
        if table is None or feature not in table.index or pd.isna(table.at[feature, "correlation"]):
            return None
        return float(table.at[feature, "correlation"])

    def steer(
        self, sae: object, feature: object, mode: object, strength: object, prompt: object, new_tokens: object,
        temperature: object, seed: object,
    ) -> Iterator[View]:  # fmt: skip
        """Two continuations of one prompt, growing side by side."""
        opened = self.open(sae)
        text = limits.prompt(prompt)
        if feature is None:
            raise Refused("Pick a feature first: in the Explore tab, or by its id above.")
        chosen = limits.feature(feature, opened.d_sae)
        kind = PLAIN_MODES[limits.choice(mode, "Mode", list(PLAIN_MODES))]
        most = limits.MAX_STRENGTH
        amount = 0.0 if kind == "ablate" else limits.finite(strength, "Strength", -most, most)
        length = limits.whole(new_tokens, "New tokens", 1, limits.MAX_NEW_TOKENS)
        heat = limits.finite(temperature, "Temperature", 0, 2)
        start = limits.whole(seed, "Seed", 0, limits.MAX_SEED)
        change = f"Feature {chosen}: {kind}" + ("" if kind == "ablate" else f" {amount:g} × a typical activation") + "."
        for written in self._bench.write(opened, text, chosen, kind, amount, length, heat, start):
            yield _columns(text, written, f"{change} Writing…")
        ending = EQUAL if written.default == written.steered else LEAVES
        yield _columns(text, written, f"{change} {ending} {written.over}")

    def compare(self, sae: object, feature: object, prompt: object) -> View:
        """One prompt through the base and the finetuned model, in the chosen feature's colours."""
        opened = self.open(sae)
        if not opened.has_finetuned:
            return {"compared": "", "compared_prompt": ""}
        text = limits.prompt(prompt)
        chosen = None if feature is None else limits.feature(feature, opened.d_sae)
        base, finetuned = about.models(opened.store.about)
        columns = []
        which: Which
        for which, title, name in (("base", "Base", base), ("finetuned", "Finetuned", finetuned)):  # type: ignore[assignment]
            body = self._strip(opened, self._bench.read(opened, text, which), chosen, which)
            columns.append(f"<div><h4>{title} <small>{name}</small></h4>{body}</div>")
        compared = f'<div class="pair">{"".join(columns)}</div>'
        return {"compared": compared, "compared_prompt": text, "scatter": self._transfer(opened, chosen)["scatter"]}

    def _transfer(self, opened: Opened, chosen: int | None) -> View:
        """The numbers of the Base vs finetuned tab."""
        if not opened.has_finetuned:
            return {"transfer_metrics": note(NO_FINETUNED, "empty"), "scatter": None, "scatter_note": ""}
        table = self._agreement[opened.name]
        shown = about.metrics_table(self._results.transfer(opened.name), explained=False)
        if table is None:
            why = note("No feature-by-feature comparison is there yet.", "empty")
            return {"transfer_metrics": shown, "scatter": None, "scatter_note": why}
        figure, left_out = plots.densities(table, opened.store.table["label"], chosen)
        known = table["correlation"].dropna()
        words = "Each dot is a feature; on the dotted line it fires equally often in both models."
        words += f" Left out, since they stay silent in one of them: {left_out:,}." if left_out else ""
        if len(known):
            words += f" Median correlation of a feature with itself across the models: {known.median():.2f}."
        return {"transfer_metrics": shown, "scatter": figure, "scatter_note": note(words)}


def _parse(value: str) -> object:
    return int(value) if value.isascii() and value.isdecimal() and len(value) < 12 else value


def _columns(prompt: str, written: Written, words: str) -> View:
    return {
        "default_text": _continuation(prompt, written.default, len(written.default)),
        "steered_text": _continuation(prompt, written.steered, written.shared),
        "steer_note": note(escape(words)),
    }


def _continuation(prompt: str, text: str, shared: int) -> str:
    changed = f'<span class="changed">{visible(text[shared:])}</span>' if text[shared:] else ""
    given = f'<span class="given">{visible(prompt)}</span>'
    return f'<div class="text" dir="auto">{given}{visible(text[:shared])}{changed}</div>'
