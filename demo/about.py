"""The About tab's words. Knows no Gradio, touches no model."""

from __future__ import annotations

from typing import Any

from demo.badges import short
from demo.limits import MAX_NEW_TOKENS, MAX_SECONDS, MAX_TOKENS
from demo.metrics import metrics_table
from demo.workbench import Opened
from sae_tools.reports.render import escape, note, number

GLOSSARY = (
    ("Activation", "the list of numbers by which the model represents a token inside one of its layers."),
    ("Sparse autoencoder (SAE)", "a small network that rewrites each activation as a sum of a few <em>features</em>."),
    (
        "Feature, latent",
        "one direction in the activations; it often stands for one thing: a word, a topic, a kind of sentence.",
    ),
    ("Density", "how often a feature fires: 1% means one token in a hundred."),
    ("Steering", "to change one feature while the model writes, and leave the rest as it is."),
)
LIMITS = (
    "Labels are words that a feature fires on, found automatically unless said otherwise. They are hints, and some are "
    "wrong.",
    "An SAE does not capture everything: what it leaves out (see explained variance) is not shown here.",
    "Features are measured on one text. On text of another kind they may mean something else.",
    "A feature that looks like a concept need not be what the model uses, and one that reads well may steer badly.",
    "The default models are tiny and know only simple stories. They say little about large models.",
    f"A prompt is read up to {MAX_TOKENS} tokens, or the model's context where that is shorter.",
    f"At most {MAX_NEW_TOKENS} tokens are written, in at most {MAX_SECONDS:.0f} seconds.",
)
RECIPE = {
    "k": "Latents a token, k", "target_l0": "Latents a token, aimed at", "l1_coefficient": "L1 coefficient",
    "training_tokens": "Tokens trained on", "batch_size": "Tokens a step", "lr": "Learning rate", "seed": "Seed",
}  # fmt: skip
"""Of a training recipe, that which is told."""


def about(opened: Opened) -> str:
    """The whole tab."""
    results, name = opened.results, opened.name
    words = "".join(f"<p>{escape(sentence)}</p>" for sentence in results.verdict(name))
    glossary = "".join(f"<dt>{word}</dt><dd>{meaning}</dd>" for word, meaning in GLOSSARY)
    limits = "".join(f"<li>{limit}</li>" for limit in LIMITS)
    examined = note(f"Features were looked for on {int(opened.about['n_tokens']):,} tokens.")
    return (
        f'<div class="prose-page"><h3>Words used here</h3><dl class="glossary">{glossary}</dl>'
        f"<h3>How good is this SAE?</h3>{words}{metrics_table({name: results.evaluation(name)})}{examined}"
        f"{_reports(opened)}<h3>How was it made?</h3>{_made(opened)}<h3>Limits</h3><ul>{limits}</ul>"
        f"<h3>Ask from a program</h3>{_program()}<h3>How to cite</h3>{_citation(opened)}</div>"
    )


def _reports(opened: Opened) -> str:
    found = opened.results.reports(opened.name)
    if not found:
        return note("The full reports are made by <code>dvc repro</code>, in the folder <code>reports/</code>.")
    files = ", ".join(f"<code>{escape(path)}</code>" for path in found)
    return note(f"The full reports lie beside the artifacts, on the machine that made them: {files}.")


def _made(opened: Opened) -> str:
    """Of what, where and how it was trained, as far as its files say."""
    config, recipe = opened.results.config(opened.name), opened.results.recipe(opened.name)
    metadata: dict[str, Any] = config.get("metadata") or {}
    rows: dict[str, object] = {
        "Architecture": recipe.get("architecture") or config.get("architecture"),
        "Model": short(opened.about["base"]["name"]),
        "Site": opened.about["site"],
        "Features": f"{opened.d_sae:,}" + (f" in {config['d_in']:,} dimensions" if "d_in" in config else ""),
        "Text": short(str(metadata["dataset_path"])) if metadata.get("dataset_path") else None,
        **{words: _plain(recipe[key]) for key, words in RECIPE.items() if recipe.get(key) is not None},
    }
    told = "".join(f"<dt>{words}</dt><dd>{escape(str(value))}</dd>" for words, value in rows.items() if value)
    where = note("Every value is in <code>params.yaml</code>; <code>dvc repro</code> makes all of it again.")
    return f'<dl class="glossary made">{told}</dl>{where if recipe else ""}'


def _plain(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return number(value) if isinstance(value, float) else str(value)


def _program() -> str:
    code = (
        "from gradio_client import Client\n\n"
        'page = Client("http://127.0.0.1:7860")  # the address of this page\n'
        'page.predict("It started to rain.", api_name="/features")  # features that fire on a text\n'
        'page.predict(12, api_name="/feature")  # all that is known of one\n'
        'page.predict("rain", api_name="/search")  # features about a word\n'
        'page.predict("Tom was", api_name="/next_tokens")  # with and without the SAE\n'
        'push = [{"feature": 12, "mode": "add", "strength": 0.4}]\n'
        'page.predict("Tom was sitting in his room.", push, api_name="/steer")  # default and steered'
    )
    when = (
        "On where only this machine can ask; <code>python -m demo --api</code> turns it on elsewhere, and "
        "<code>--mcp</code> offers the same as tools to MCP clients."
    )
    return f"{_code(code)}{note(when)}"


def _citation(opened: Opened) -> str:
    digest = opened.results.digest(opened.name)
    weights = f", weights sha256 {digest[:16]}" if digest else ""
    model = short(opened.about["base"]["name"])
    entry = (
        "@software{sae_workbench,\n  title = {SAE Workbench},\n  author = {{The SAE workbench authors}},\n"
        "  year = {2026},\n"
        f"  note = {{SAE {opened.name} of {model} at {opened.about['site']}{weights}}}\n}}"
    )
    return _code(entry) + note(
        "SAEs are trained, named and saved as in SAELens; a feature is cited by its SAE, its id and these weights."
    )


def _code(text: str) -> str:
    copy = f'<button type="button" class="act" data-copy="{escape(text)}">Copy</button>'
    return f'<div class="code"><pre tabindex="0">{escape(text)}</pre><div class="acts">{copy}</div></div>'
