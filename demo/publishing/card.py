"""The model card of published SAEs: how they were made, how good they are, how to load them. Touches no model."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData, constants

from demo.publishing.folders import on_hub
from demo.results import Results
from sae_tools.reports.meanings import MEANINGS, shown

MARK = "sae-workbench"
"""The tag of what was published by this project: nothing else on the Hub is ever replaced."""
TAGS = [MARK, "sparse-autoencoder", "interpretability"]
FIGURES = ("l0", "explained_variance", "ce_loss_score", "kl_div_with_sae", "dead_share", "n_tokens")
LIMITS = (
    "An SAE does not capture everything: explained variance says how much of the activations it leaves out.",
    "All of this was measured on one text. On text of another kind a feature may mean something else.",
    "A feature that looks like a concept need not be what the model uses.",
)
MADE = {
    "model_name": "model", "model_revision": "the model's revision", "hook_name": "site", "dataset_path": "text",
    "dataset_revision": "the text's revision", "context_size": "context", "sae_lens_version": "SAELens",
}  # fmt: skip
"""Of an SAE's metadata, that which is told."""


def card(root: Path, names: list[str], repo_id: str, licence: str) -> str:
    """README.md of a model repository with these SAEs of the project in `root`."""
    results = Results(root / "artifacts")
    metadata = [_metadata(results, name) for name in names]
    models = [str(model) for model in dict.fromkeys(each.get("model_name") for each in metadata) if model]
    texts = [str(text) for text in dict.fromkeys(each.get("dataset_path") for each in metadata) if text]
    local = [model for model in models if not on_hub(root, model)]
    data = ModelCardData(
        library_name="saelens", tags=TAGS, license=licence,
        base_model=[model for model in models if model not in local] or None,
        datasets=[text for text in texts if on_hub(root, text)] or None,
    )  # fmt: skip
    space = f"{constants.ENDPOINT}/spaces/{repo_id}"
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# Sparse autoencoders of {', '.join(map(plain, models))}",
        f"See their features, and steer the model with them, in [the Space of the same name]({space}).",
        *_loading(names, repo_id),
        *_local(local, space),
        *(part for name in names for part in _sae(results, name)),
        "## Limits",
        "\n".join(f"- {sentence}" for sentence in LIMITS),
        "## Licence",
        f"These SAEs: {plain(licence)}. The models that they read have licences of their own.",
    ]
    return "\n\n".join(parts) + "\n"


def plain(text: object) -> str:
    """Text on one line, for any place in Markdown: nothing in it is markup, a link, or the end of a table's cell."""
    line = html.escape(" ".join(str(text).split()), quote=False)
    return re.sub(r"([\\`*_{}\[\]()#+!|~:@])", r"\\\1", line)


def _local(models: list[str], space: str) -> list[str]:
    names = ", ".join(map(plain, models))
    return [f"Not on the Hub, but in [the Space's files]({space}/tree/main): {names}."] if models else []


def _loading(names: list[str], repo_id: str) -> list[str]:
    release, first = json.dumps(repo_id), json.dumps(names[0])
    python = (
        f"import torch\nfrom sae_lens import SAE\n\nsae = SAE.from_pretrained({release}, {first})\n"
        "activations = torch.zeros(1, sae.cfg.d_in)  # those of the model, at the SAE's site\n"
        "features = sae.encode(activations)  # (1, d_sae)"
    )
    params = f"saes:\n  {first}: {{release: {release}, sae_id: {first}}}"
    return [
        "## How to load them",
        "As [SAELens](https://github.com/decoderesearch/SAELens) has it; the activations are those of the model as "
        "Hugging Face's transformers loads it, with nothing folded in or centred.",
        f"```python\n{python}\n```",
        "Or in `params.yaml` of the SAE workbench:",
        f"```yaml\n{params}\n```",
    ]


def _sae(results: Results, name: str) -> list[str]:
    """One SAE: its recipe, its figures, and those in a finetuned model, each where it is known."""
    config, metadata = results.config(name), _metadata(results, name)
    made = {words: metadata.get(key) for key, words in MADE.items()}
    made |= {"dimensions (d_in)": config.get("d_in"), **results.recipe(name)}
    rows = [[key, value] for key, value in made.items() if value is not None and value != ""]
    return [
        f"## {plain(name)}",
        "### How it was trained",
        _table(["", ""], rows),
        *_measured("How good it is", {"": results.evaluation(name)}, results.verdict(name)),
        *_measured("In the finetuned model", results.transfer(name), results.transfer_verdict(name)),
    ]


def _measured(title: str, columns: dict[str, dict[str, float]], verdict: list[str]) -> list[str]:
    keys = [key for key in FIGURES if any(key in figures for figures in columns.values())]
    if not keys:
        return []
    rows = [[MEANINGS[key][0], *(shown(key, f[key]) if key in f else "–" for f in columns.values())] for key in keys]
    sentences = "\n".join(f"- {plain(sentence)}" for sentence in verdict)
    return [f"### {title}", _table(["", *columns], rows), *([sentences] if sentences else [])]


def _table(head: list[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *([plain(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _metadata(results: Results, name: str) -> dict[str, Any]:
    found = results.config(name).get("metadata")
    return found if isinstance(found, dict) else {}
