"""The page's parts, by name, and where they stand; what they do is wired in `app`."""

from __future__ import annotations

from typing import Any

import gradio as gr

from demo.limits import MAX_CHARACTERS, MAX_NEW_TOKENS, MAX_SEED, MAX_STRENGTH

Parts = dict[str, Any]

TITLE = "SAE Workbench"
HEADER = (
    "<h1>Look inside a language model</h1>"
    "<p>See which concepts light up as it reads your words, then turn one up or down and watch what it writes.</p>"
)
EXAMPLES = (
    "Once upon a time there was a little dog named Max. He loved to run in the park.",
    "Lily was sad because her red ball was lost. Her mom gave her a big hug.",
    '"Can I play with you?" asked the boy. The girl smiled and said yes.',
    "ROMEO: O, speak again, bright angel! for thou art as glorious to this night.",
)
STEER_PROMPT = "Tom was sitting in his room."
SAME_SEED = '<p class="note">Both texts draw the same random numbers, so only the feature makes a difference.</p>'
STOPPED = '<p class="note">Stopped.</p>'
STRENGTH = "In units of a typical activation's length: 0.4 is a firm push, much more breaks the text."
HIDE_DENSE = "Hide features that fire on more than 10% of all tokens"
WAITING = '<p class="empty">Opening the model…</p>'
# Rows that carry a feature's id hand it on; on a narrow screen the card below is brought into sight.
PICK = """
element.addEventListener('click', (event) => {
  const row = event.target.closest('[data-feature]');
  if (!row) return;
  trigger('click', {feature: Number(row.dataset.feature)});
  if (window.innerWidth < 900) document.getElementById('card').scrollIntoView({behavior: 'smooth'});
});
"""


def lay_out(names: list[str]) -> Parts:
    """Every part of the page, made inside the current `gr.Blocks`."""
    parts: Parts = {"shown_prompt": gr.State(""), "compared_prompt": gr.State(""), "feature": gr.State(None)}
    gr.HTML(HEADER, elem_id="header")
    parts["badges"] = gr.HTML("", elem_id="badges")
    with gr.Row(elem_id="controls"):
        parts["sae"] = gr.Dropdown(names, value=names[0], label="SAE", scale=2, min_width=150, filterable=False)
        parts["feature_box"] = _unchecked(gr.Number(label="Feature id", scale=2, min_width=110))
        parts["open"] = gr.Button("Open", scale=1, min_width=80)
        parts["random"] = gr.Button("Random feature", scale=1, min_width=130)
    with gr.Tabs():
        with gr.Tab("Explore", id="explore"):
            _explore_tab(parts)
        with gr.Tab("Steer", id="steer"):
            _steer_tab(parts)
        with gr.Tab("Base vs finetuned", id="compare") as parts["compare_tab"]:
            _compare_tab(parts)
        with gr.Tab("About", id="about"):
            parts["about"] = gr.HTML(WAITING, elem_classes="prose-page")
    return parts


def _explore_tab(parts: Parts) -> None:
    with gr.Row(elem_classes="ask"):
        parts["prompt"] = _prompt(EXAMPLES[0], "Prompt", "prompt")
        parts["run"] = gr.Button("Run", variant="primary", scale=1, min_width=90, elem_id="run")
    with gr.Row(elem_classes="examples"):
        parts["examples"] = [gr.Button(_brief(text), size="sm", min_width=60) for text in EXAMPLES]
    with gr.Row(elem_classes="columns"):
        with gr.Column(scale=6, min_width=300):
            parts["strip"] = gr.HTML(WAITING, elem_id="strip")
            with gr.Row(elem_classes="heading"):
                gr.HTML("<h4>Features that fire here</h4><p class='note'>Pick one to see what it is.</p>")
                parts["clear"] = gr.Button("Colour by the strongest", size="sm", min_width=120, elem_id="clear")
            parts["table"] = gr.HTML("", js_on_load=PICK, elem_id="table")
            parts["hide_dense"] = gr.Checkbox(True, label=HIDE_DENSE, container=False, elem_id="hide-dense")
            parts["following"] = gr.HTML("", elem_id="following")
        with gr.Column(scale=5, min_width=300, elem_id="card"):
            parts["card_head"] = gr.HTML("", elem_id="card-head")
            parts["histogram"] = gr.Plot(show_label=False, elem_id="histogram")
            parts["card_body"] = gr.HTML("", js_on_load=PICK, elem_id="card-body")


def _steer_tab(parts: Parts) -> None:
    parts["steer_feature"] = gr.HTML("", elem_id="steer-feature")
    with gr.Row(elem_classes="columns"):
        with gr.Column(scale=1, min_width=280):
            parts["mode"] = gr.Radio(
                ["Add", "Clamp", "Ablate"], value="Add", label="Mode",
                info="Add to the feature's value, hold it at one value, or remove it.",
            )  # fmt: skip
        with gr.Column(scale=1, min_width=280):
            strength = gr.Slider(-MAX_STRENGTH, MAX_STRENGTH, value=0.4, step=0.05, label="Strength", info=STRENGTH)
            parts["strength"] = _unchecked(strength)
    parts["steer_prompt"] = _prompt(STEER_PROMPT, "Prompt to continue", "steer-prompt")
    with gr.Row(elem_classes="numbers"):
        parts["new_tokens"] = _unchecked(
            gr.Slider(1, MAX_NEW_TOKENS, value=60, step=1, label="New tokens", min_width=140)
        )
        parts["temperature"] = _unchecked(gr.Slider(0, 2, value=0.7, step=0.1, label="Temperature", min_width=140))
        parts["seed"] = _unchecked(gr.Number(0, label="Seed", minimum=0, maximum=MAX_SEED, min_width=90))
    with gr.Row(elem_classes="actions"):
        parts["steer"] = gr.Button("Write both", variant="primary", min_width=120, scale=0, elem_id="steer-run")
        parts["stop"] = gr.Button("Stop", min_width=80, scale=0, elem_id="stop")
        parts["steer_note"] = gr.HTML(SAME_SEED, elem_id="steer-note")
    with gr.Row(elem_classes="columns"):
        for name, title in (("default_text", "Default"), ("steered_text", "Steered")):
            with gr.Column(min_width=280, elem_classes="sheet"):
                gr.HTML(f"<h4>{title}</h4>")
                parts[name] = gr.HTML("", elem_id=name.replace("_", "-"))


def _compare_tab(parts: Parts) -> None:
    with gr.Row(elem_classes="ask"):
        parts["compare_prompt"] = _prompt(EXAMPLES[0], "Prompt for both models", "compare-prompt")
        parts["compare"] = gr.Button("Compare", variant="primary", scale=1, min_width=90)
    parts["compared"] = gr.HTML("", elem_id="compared")
    with gr.Row(elem_classes="columns"):
        with gr.Column(min_width=300):
            gr.HTML(
                "<h4>Does the SAE still fit?</h4>"
                "<p class='note'>One SAE, trained on the base model, measured on both.</p>"
            )
            parts["transfer_metrics"] = gr.HTML(WAITING, elem_id="transfer-metrics")
        with gr.Column(min_width=300):
            gr.HTML("<h4>Do features fire as often?</h4>")
            parts["scatter"] = gr.Plot(show_label=False, elem_id="scatter")
            parts["scatter_note"] = gr.HTML("")


def _prompt(text: str, label: str, name: str) -> gr.Textbox:
    """A box in which Enter runs and Shift+Enter breaks the line."""
    return gr.Textbox(
        text, label=label, lines=1, max_lines=6, max_length=MAX_CHARACTERS, scale=6, min_width=240, elem_id=name
    )


def _unchecked(component: Any) -> Any:
    """A number box whose value reaches `limits` as it came: Gradio's own check breaks on text and on an emptied box."""
    component.preprocess = lambda value: value
    return component


def _brief(text: str) -> str:
    return text if len(text) < 34 else text[:32].rsplit(" ", 1)[0].rstrip(",.") + "…"
