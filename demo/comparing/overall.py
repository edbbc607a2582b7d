"""What finetuning did over all text: verdict, repair, what was added; as pieces of HTML, all text escaped."""

from __future__ import annotations

import pandas as pd

from demo.comparing.paired import names
from demo.comparing.transferred import Repair, Transferred
from demo.workbench import Opened
from sae_tools.models.lm import shown_pieces
from sae_tools.reports.render import escape, isolated, note, number, share, strip

LEANING = 4
"""Latents shown of those nearest to each model."""
EACH = 2
"""Examples of each."""
NO_FINETUNED = (
    "This SAE was made without a finetuned model, so there is nothing to compare. Name one in <code>params.yaml</code> "
    "(language_model.finetuned) and run <code>dvc repro</code>: the transfer stage then measures both."
)
NO_TRANSFER = "The transfer stage has not run for this SAE: <code>dvc repro</code> measures it on both models."
NO_REPAIR = "No repaired SAE is there: the adapt stage makes it (<code>transfer.adapt</code> in params.yaml)."
NO_CROSSCODER = "No crosscoder is there: the diff stage trains it (<code>transfer.diff</code> in params.yaml)."


def verdict(found: Transferred) -> str:
    """The verdict in words, its first sentence large."""
    if not found.verdict:
        return note(NO_TRANSFER, "empty")
    first, *rest = (escape(sentence) for sentence in found.verdict)
    head, _, tail = first.partition(": ")
    said = f"{tail[:1].upper()}{tail[1:]}" if tail else ""
    listed = "".join(f"<li>{sentence}</li>" for sentence in (said, *rest) if sentence)
    return f'<div class="verdict"><p>{head.rstrip(".")}.</p><ul>{listed}</ul></div>'


def repairs(found: Transferred) -> str:
    """How much the SAE explains as it is and repaired, as bars."""
    if not found.repairs:
        return note(NO_REPAIR, "empty")
    bars = "".join(_bar(each) for each in found.repairs)
    words = f"Part of the activations' variance that is explained. Repaired on {found.repair_tokens:,} tokens."
    return f'<div class="repairs">{bars}</div>{note(words)}'


def _bar(each: Repair) -> str:
    part = max(0.0, min(1.0, each.explained))
    return (
        f'<div class="{each.kind.replace(" ", "-")}"><span>{escape(each.what)}</span>'
        f'<i style="--part:{part:.3f}"><b>{number(each.explained)}</b></i></div>'
    )


def difference(opened: Opened, found: Transferred) -> str:
    """What a dictionary over both models finds in one more than in the other."""
    if not found.difference or found.latents.empty:
        return note(NO_CROSSCODER, "empty")
    live = found.latents[found.latents["density"] > 0].sort_values("relative_norm", kind="stable")
    said = "".join(f"<li>{escape(sentence)}</li>" for sentence in found.difference)
    base, finetuned = names(opened)
    sides = ((finetuned, base, live.iloc[::-1].head(LEANING)), (base, finetuned, live.head(LEANING)))
    columns = "".join(
        f"<div><h5>Leaning most to {model}</h5>{_latents(opened, found.latent_examples, rows, other)}</div>"
        for model, other, rows in sides
    )
    return f'<ul class="limits">{said}</ul><div class="pair">{columns}</div>'


def _latents(opened: Opened, examples: pd.DataFrame, rows: pd.DataFrame, other: str) -> str:
    return "".join(_latent(opened, examples, int(latent), row, other) for latent, row in rows.iterrows())


def _latent(opened: Opened, examples: pd.DataFrame, latent: int, row: pd.Series, other: str) -> str:
    label = isolated(str(row["label"])) if row["label"] else '<span class="mark">no label</span>'
    lean = float(row["relative_norm"])
    mine = examples[examples["feature"] == latent].head(EACH) if len(examples) else examples
    alone = f"nothing in {other} stands for it; " if row["passes_scaling"] else ""
    return (
        f'<div class="latent"><b>{label}</b><small>{alone}fires on {share(row["density"])}</small>'
        f'<span class="lean" title="{lean:.2f}: 0 is the base model alone, 1 the finetuned one alone">'
        f'<i style="left:{lean:.1%}"></i></span>{"".join(_place(opened, each) for _, each in mine.iterrows())}</div>'
    )


def _place(opened: Opened, row: pd.Series) -> str:
    texts = shown_pieces(opened.base.tokenizer, [int(i) for i in row["ids"]])
    values = [float(value) for value in row["values"]]
    return strip(texts, values, max(values, default=0.0), small=True)
