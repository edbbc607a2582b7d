"""What the transfer, adapt and diff stages left on disk, for the page. Opens no model; any part may be absent."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from demo.results import read_json
from sae_tools.analysis.difference_verdict import difference_verdict

WAYS = {
    "finetuned": "going on training it",
    "extended": "adding latents, the others as they are",
    "scratch": "a new one, from scratch",
}
"""By the names of the adapt stage."""


@dataclass(frozen=True)
class Repair:
    """Part of the activations' variance that an SAE explains."""

    what: str
    explained: float
    kind: str
    """own: of its own model; as it is: of the finetuned one; repaired: after more training."""


@dataclass(frozen=True)
class Transferred:
    """Of one SAE."""

    verdict: list[str]
    """In sentences; none where the transfer stage did not run."""
    changed: pd.DataFrame
    """Index feature: those that changed most over all text, with columns of `survival.paired_features`."""
    examples: pd.DataFrame
    """Of those: feature, kind, ids, base, finetuned (values at each of them), position."""
    repairs: list[Repair]
    """None where the adapt stage did not run."""
    repair_tokens: int
    difference: list[str]
    """What the crosscoder says, in sentences; none where the diff stage did not run."""
    latents: pd.DataFrame
    """The crosscoder's, index latent: relative_norm (1: of the finetuned model alone), density, label, …"""
    latent_examples: pd.DataFrame


@lru_cache(maxsize=16)
def transferred(artifacts: Path, name: str) -> Transferred:
    """What is known of the SAE called `name`.

    Raises:
        ArtifactError: a file is not JSON.
    """
    folder, crosscoder = artifacts / "transfer" / name, artifacts / "crosscoder"
    figures, adapted = read_json(folder / "figures.json"), read_json(artifacts / "adapted" / name / "figures.json")
    difference = read_json(crosscoder / "figures.json")
    return Transferred(
        verdict=[str(sentence) for sentence in read_json(folder / "verdict.json") or []],
        changed=_table(folder / "changed.parquet"), examples=_table(folder / "examples.parquet"),
        repairs=_repairs(figures, adapted), repair_tokens=int(adapted.get("n_tokens", 0)),
        difference=difference_verdict(difference) if difference else [],
        latents=_table(crosscoder / "latents.parquet"), latent_examples=_table(crosscoder / "examples.parquet"),
    )  # fmt: skip


def _repairs(figures: dict[str, Any], adapted: dict[str, Any]) -> list[Repair]:
    text = "finetuned_text" if "finetuned_text" in figures else "base_text"
    if text not in figures or "n_tokens" not in adapted:
        return []
    key = "explained_variance"
    found = [Repair("the base model, on its own text", figures["base_text"]["base"][key], "own")]
    found.append(Repair("the finetuned model, as it is", figures[text]["finetuned"][key], "as it is"))
    made = {way: adapted[way][text] for way in WAYS if text in adapted.get(way, {})}
    return found + [Repair(WAYS[way], measured[key], "repaired") for way, measured in made.items()]


def _table(path: Path) -> pd.DataFrame:
    return pd.read_parquet(path) if path.is_file() else pd.DataFrame()
