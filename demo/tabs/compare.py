"""One text in the base and in the finetuned model: what the same features do in both, and what is left of the SAE."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from demo import limits, plots
from demo.asked import Asked
from demo.cards import label_of
from demo.comparing import overall, paired
from demo.comparing.compared import changes, write_both
from demo.comparing.transferred import transferred
from demo.inputs import prompt_box, unchecked
from demo.limits import Refused
from demo.metrics import metrics_table
from demo.page import PRIVATE
from demo.reading import read
from demo.steering.ask import PROMPT, Ask
from demo.steering.pushes import FIRM, checked, start
from demo.tab import Tab, View
from demo.tabs.explore import EXAMPLES
from demo.words import own_words
from demo.workbench import Opened
from sae_tools.reports.render import escape, note

TEXTS = {
    "A play": "ROMEO: O, speak again, bright angel! for thou art as glorious to this night.",
    "A story": "Once upon a time there was a little dog named Max. He loved to run in the park.",
    "Both": "Once upon a time there was a king. KING: What, art thou come to mock me, little girl?",
}
NOBODY = -1
"""No feature: the address names one, so the page does not begin with one of its own."""
STOPPED = note("Stopped.")
READY = note("One feature, one strength, one seed; two models.")
DOTS = "Each dot is a feature, the ringed one the chosen; on the dotted line it fires equally often in both models."
DONE = note("Coloured: where a steered text leaves the one beside it.")


class Compare(Tab):
    id = "compare"
    title = "Base vs finetuned"

    def lay_out(self) -> None:
        self.text = gr.State("")
        """What both models have read; empty before the tab was first looked at."""
        self.looked = gr.State(False)
        """Whether it was."""
        self.first = gr.State(None)
        """The feature that nobody chose: the page begins with it."""
        self.none = gr.HTML('<p class="empty">Opening…</p>', elem_id="compare-none")
        with gr.Column(visible=False, elem_id="compare") as self.body:
            self._lay_out_text()
            self._lay_out_steering()
            self._lay_out_overall()

    def _lay_out_text(self) -> None:
        self.intro = gr.HTML("")
        with gr.Row(elem_classes="ask"):
            self.box = prompt_box(TEXTS["A play"], "One text for both models", "compare-prompt")
            self.run = gr.Button("Compare", variant="primary", scale=1, min_width=100, elem_id="compare-run")
        with gr.Row(elem_classes="examples"):
            self.examples = {text: gr.Button(name, size="sm", min_width=60) for name, text in TEXTS.items()}
        self.strips = gr.HTML("", elem_id="compared")
        with gr.Row(elem_classes="columns"):
            with gr.Column(scale=6, min_width=300):
                gr.HTML("<h4>Changed most on this text</h4><p class='note'>Pick one to see it in both models.</p>")
                self.here = self.page.clickable("", elem_id="changed-here")
            with gr.Column(scale=5, min_width=300, elem_classes="framed"):
                self.card = self.page.clickable("", elem_id="compare-card")

    def _lay_out_steering(self) -> None:
        gr.HTML("<h3 class='section'>Turn it up in both</h3>")
        self.pushed = gr.HTML("", elem_id="compare-pushed")
        with gr.Row(elem_classes="ask"):
            self.prompt = prompt_box(PROMPT, "Text to continue", "compare-text")
            self.write = gr.Button("Write four", variant="primary", scale=1, min_width=110, elem_id="compare-write")
            self.stop = gr.Button("Stop", scale=1, min_width=70, elem_id="compare-stop")
        with gr.Row():
            most = limits.MAX_STRENGTH
            self.strength = unchecked(
                gr.Slider(-most, most, value=FIRM, step=0.05, label="Strength", min_width=180, elem_id="both-strength")
            )
            self.length = unchecked(
                gr.Slider(1, limits.MAX_NEW_TOKENS, value=40, step=1, label="New tokens", min_width=180)
            )
            self.temperature = unchecked(gr.Slider(0, 2, value=0.7, step=0.1, label="Temperature", min_width=180))
            self.seed = unchecked(gr.Number(0, label="Seed", minimum=0, maximum=limits.MAX_SEED, min_width=100))
        self.note = gr.HTML(READY, elem_id="compare-note")
        self.written = gr.HTML("", elem_id="quartet")

    def _lay_out_overall(self) -> None:
        gr.HTML("<h3 class='section'>Over all text</h3>")
        self.verdict = gr.HTML("", elem_id="transfer-verdict")
        with gr.Column(elem_id="measured") as self.measured:
            self._lay_out_measured()
        gr.HTML("<h4 class='section'>What did finetuning add?</h4>"
                "<p class='note'>A crosscoder: one dictionary, trained on both models at once.</p>")  # fmt: skip
        self.difference = gr.HTML("", elem_id="difference")

    def _lay_out_measured(self) -> None:
        with gr.Row(elem_classes="columns"):
            with gr.Column(min_width=300):
                gr.HTML("<h4>Features that changed most</h4>")
                self.overall = self.page.clickable("", elem_id="changed-overall")
            with gr.Column(min_width=300):
                gr.HTML("<h4>Does each feature fire as often?</h4>")
                self.scatter = gr.Plot(show_label=False, elem_id="scatter")
                self.scatter_note = gr.HTML("")
        with gr.Row(elem_classes="columns"):
            with gr.Column(min_width=300):
                gr.HTML("<h4>Does the SAE still fit?</h4><p class='note'>Trained on the base model, tried on both.</p>")
                self.metrics = gr.HTML("", elem_id="transfer-metrics")
            with gr.Column(min_width=300):
                gr.HTML("<h4>Can it be repaired?</h4><p class='note'>Trained on, with the finetuned model's text.</p>")
                self.repairs = gr.HTML("", elem_id="repairs")

    @property
    def filled(self) -> list[Any]:
        overall = [self.verdict, self.measured, self.metrics, self.repairs]
        texts = [self.box, self.text, self.first, self.strips, self.here, self.written]
        return [self.none, self.body, self.intro, *texts, *overall]

    @property
    def chosen(self) -> list[Any]:
        """What shows the chosen feature."""
        scatter = [self.scatter, self.scatter_note]
        return [self.strips, self.here, self.card, self.overall, *scatter, self.pushed, self.strength]

    def wire(self) -> None:
        page = self.page
        asked = [self.text, page.feature, self.first]
        seen = [self.box, self.text, self.looked, page.feature, page.address, self.difference, *self.chosen]
        for trigger in (self.run.click, self.box.submit, self.part.select):
            page.on(trigger, self._compare, [self.box, *asked], seen, "read")
        for text, button in self.examples.items():
            page.on(button.click, self._example(text), asked, seen, "read")
        for opened in page.opened:
            page.on(opened, self._again, [self.looked, self.box, *asked], seen, "read")
        page.on(page.feature.change, self._other, asked, [self.first, *self.chosen], "read")
        page.on(page.prompt.change, self._follow, [page.prompt], [self.box])
        pushed = [page.feature, self.strength, self.prompt, self.length, self.temperature, self.seed]
        writing = [
            page.on(trigger, self._write, pushed, [self.written, self.note], "write")
            for trigger in (self.write.click, self.prompt.submit)
        ]
        self.stop.click(lambda: STOPPED, None, self.note, cancels=writing, queue=False, **PRIVATE)

    def show(self, opened: Opened, asked: Asked) -> View:
        if not opened.has_finetuned:
            return {self.none: gr.update(value=note(overall.NO_FINETUNED, "empty"), visible=True),
                    self.body: gr.update(visible=False), self.text: ""}  # fmt: skip
        found = transferred(opened.results.artifacts, opened.name)
        base, finetuned = paired.names(opened)
        intro = (
            f"<p class='lead'><b>{finetuned}</b> is <b>{base}</b>, trained further on other text. "
            "One SAE looks into both as they read the same words: what did the new training change?</p>"
        )
        return {
            self.none: gr.update(visible=False), self.body: gr.update(visible=True), self.intro: intro,
            self.box: asked.get("prompt", limits.prompt, TEXTS["A play"]), self.text: "", self.strips: "",
            self.first: asked.get("feature", lambda _: NOBODY, None),
            self.here: "", self.written: "", self.verdict: overall.verdict(found),
            self.metrics: metrics_table(opened.results.transfer(opened.name), explained=False),
            self.repairs: overall.repairs(found),
            self.measured: gr.update(visible=opened.agreement is not None),
        }  # fmt: skip

    def _compare(self, opened: Opened, text: object, shown: str, feature: int | None, first: int | None) -> View:
        """Let both models read the text; where nobody chose a feature yet, choose the one that changed most."""
        if not opened.has_finetuned:
            return {}
        prompt = limits.prompt(text)
        fresh: View = {}
        if not shown:
            found = transferred(opened.results.artifacts, opened.name)
            fresh |= {self.looked: True, self.difference: overall.difference(opened, found)}
        if feature is None or (not shown and first in (None, feature)):
            changed = self._changes(opened, prompt)
            feature = changed[0].feature if changed else 0
        return {
            self.text: prompt, self.page.feature: feature, **self.page.at(prompt=prompt, feature=feature),
            **self._pick(opened, prompt, feature), **fresh,
        }  # fmt: skip

    def _example(self, text: str) -> Any:
        def compare(opened: Opened, *asked: Any) -> View:
            return {self.box: text, **self._compare(opened, text, *asked)}

        return compare

    def _again(self, opened: Opened, looked: bool, *asked: Any) -> View:
        """Another SAE was opened while the comparison is on the page."""
        return self._compare(opened, *asked) if looked else {}

    def _other(self, opened: Opened, prompt: str, feature: int | None, first: int | None) -> View:
        """Another feature was chosen, here or in another tab; the very first one by the page itself."""
        if not prompt and first is None:
            return {self.first: feature}
        return self._pick(opened, prompt, feature)

    def _follow(self, opened: Opened, prompt: str) -> View:
        """A text that somebody typed in Explore is what one wants to compare."""
        return {self.box: prompt} if prompt and prompt != EXAMPLES[0] else {}

    def _changes(self, opened: Opened, prompt: str) -> Any:
        maxima = opened.store.table["maximum"].to_numpy()
        return changes(read(opened, prompt), read(opened, prompt, "finetuned"), maxima)

    def _pick(self, opened: Opened, prompt: str, feature: int | None) -> View:
        """The comparison in another feature's colours; nothing before the tab was first looked at."""
        if not prompt or feature is None or not opened.has_finetuned:
            return {}
        base, finetuned = read(opened, prompt), read(opened, prompt, "finetuned")
        found = transferred(opened.results.artifacts, opened.name)
        view = {
            self.strips: paired.strips(opened, (base, finetuned), feature),
            self.card: paired.feature_card(opened, feature, found.examples),
            self.overall: paired.changed_overall(opened, found.changed, feature),
            self.pushed: f'<p class="lead">With <b>{label_of(opened.row(feature))}</b>, feature {feature}.</p>',
            self.strength: start(opened, feature).strength,
        }
        try:
            view[self.here] = paired.changed_here(opened, base, self._changes(opened, prompt), feature)
        except Refused as refused:
            view[self.here] = note(escape(str(refused)), "empty")
        if opened.agreement is not None:
            labels = opened.store.table["label"]
            view[self.scatter], left_out = plots.densities(opened.agreement, labels, feature)
            view[self.scatter_note] = note(f"{DOTS} Left out, since one of the two never fires them: {left_out:,}.")
        return view

    def _write(self, opened: Opened, feature: int | None, strength: object, *asked: object) -> Iterator[View]:
        """Four texts, growing side by side."""
        if feature is None:
            raise Refused("Pick a feature first, in one of the tables above.")
        if not opened.has_finetuned:
            raise Refused("There is no finetuned model to write with.")
        (push,) = checked(opened, [[feature, "add", strength]])
        ask, words = Ask.checked(*asked), own_words(opened, push.feature)
        yield {self.note: note("Writing…")}
        for written in write_both(opened, ask, push):
            yield {self.written: paired.quartet(opened, ask.prompt, written, words)}
        over = next((each.over for each in (written.base, written.finetuned) if each.over), "")
        yield {self.note: note(escape(over)) if over else DONE}
