"""The page's fixed words: badges, metrics with their meaning, glossary and limits."""

from __future__ import annotations

from typing import Any

from demo.limits import MAX_NEW_TOKENS, MAX_SECONDS, MAX_TOKENS
from demo.workbench import Opened
from sae_tools.reports.meanings import MEANINGS, shown
from sae_tools.reports.render import escape, note, number

SHOWN = (
    "l0", "explained_variance", "ce_loss_score", "top1_agreement", "ce_loss_without_sae", "ce_loss_with_sae",
    "ce_loss_with_ablation", "kl_div_with_sae", "cossim", "l2_ratio", "dead_share", "freq_over_10_percent",
    "duplicate_share",
)  # fmt: skip
"""Of what the pipeline measured, that which the page shows."""
GLOSSARY = (
    ("Activation", "the list of numbers by which the model represents a token inside one of its layers."),
    ("Sparse autoencoder (SAE)", "a small network that rewrites each activation as a sum of a few <em>features</em>."),
    (
        "Feature",
        "one direction in the activations; it often stands for one thing: a word, a topic, a kind of sentence.",
    ),
    ("Density", "how often a feature fires: 1% means one token in a hundred."),
    ("Steering", "to change one feature while the model writes, and leave the rest as it is."),
)
LIMITS = (
    f"A prompt is read up to {MAX_TOKENS} tokens, or the model's context where that is shorter.",
    f"At most {MAX_NEW_TOKENS} tokens are written, in at most {MAX_SECONDS:.0f} seconds.",
    "Labels are words that a feature fires on, found automatically. They are hints, and some are wrong.",
    "An SAE does not capture everything: what it leaves out (see explained variance) is not shown here.",
    "Features are measured on the training text. On text of another kind they may mean something else.",
    "The default models are tiny and know only simple stories. They say little about large models.",
)  # fmt: skip


def badges(opened: Opened, metrics: dict[str, float]) -> str:
    """One line: what is looked at, and how well the SAE describes it."""
    about = opened.store.about
    architecture = opened.sae.cfg.architecture()
    items = [("Model", _short(about["base"]["name"])), ("Site", about["site"])]
    items.append(("SAE", f"{architecture}, {opened.d_sae:,} features"))
    for key, name in (("l0", "L0"), ("explained_variance", "Explained variance"), ("ce_loss_score", "CE recovered")):
        if key in metrics:
            items.append((name, number(metrics[key])))
    return f'<div class="badges">{"".join(f"<span><b>{escape(k)}</b> {escape(str(v))}</span>" for k, v in items)}</div>'


def _short(name: str) -> str:
    """The last two parts of a Hub id or a folder: no more of a machine's paths is shown."""
    parts = name.rstrip("/").split("/")
    return parts[-1] if name.startswith("/") else "/".join(parts[-2:])


def metrics_table(columns: dict[str, dict[str, float]], explained: bool = True) -> str:
    """Metrics as rows, one column a model; the meaning stands below or shows on hover."""
    columns = {name: values for name, values in columns.items() if values}
    if not columns:
        return note("No metrics are there yet. They are written by the pipeline's evaluate stage.", "empty")
    present = {key for values in columns.values() for key in values}
    keys = [key for key in SHOWN if key in present]
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(_metric_row(key, columns, explained) for key in keys)
    top = f"<thead><tr><th>Metric</th>{head}</tr></thead>"
    return f'<div class="scroll"><table class="metrics">{top}<tbody>{body}</tbody></table></div>'


def _metric_row(key: str, columns: dict[str, dict[str, float]], explained: bool) -> str:
    name, meaning = MEANINGS[key]
    cells = []
    for values in columns.values():
        cell = shown(key, values[key]) if key in values else "–"
        cells.append(f"<td>{escape(cell)}</td>")
    below = f"<small>{meaning}</small>" if explained else ""
    return f'<tr><td title="{escape(meaning)}">{name}{below}</td>{"".join(cells)}</tr>'


def about(opened: Opened, metrics: dict[str, float], verdict: list[str]) -> str:
    """The About tab."""
    words = "".join(f"<p>{escape(sentence)}</p>" for sentence in verdict)
    glossary = "".join(f"<dt>{word}</dt><dd>{meaning}</dd>" for word, meaning in GLOSSARY)
    limits = "".join(f"<li>{limit}</li>" for limit in LIMITS)
    examined = f"{int(opened.store.about['n_tokens']):,}"
    return (
        f'<h3>Words used here</h3><dl class="glossary">{glossary}</dl><h3>How good is this SAE?</h3>'
        f"{words}{metrics_table({opened.name: metrics})}{note(f'Features were examined on {examined} tokens.')}"
        f'<h3>Limits</h3><ul class="limits">{limits}</ul>'
    )


def models(about_store: dict[str, Any]) -> tuple[str, str]:
    """Short escaped names of the base and the finetuned model."""
    finetuned = about_store.get("finetuned") or {"name": ""}
    return escape(_short(about_store["base"]["name"])), escape(_short(finetuned["name"]))
