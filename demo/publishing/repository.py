"""The SAEs as a model repository: SAELens' folders, one an SAE, and the card that tells of them."""

from __future__ import annotations

from pathlib import Path

from demo.publishing.card import card
from demo.publishing.folders import copy, replacing
from demo.results import Results

FILES = ("cfg.json", "sae_weights.safetensors")
"""Of an SAE, what SAELens reads."""


def trained(root: Path) -> list[str]:
    """The SAEs that were trained in the project; pretrained ones stay where they were published."""
    results = Results(root / "artifacts")
    return [name for name in results.names() if results.recipe(name)]


def build(root: Path, target: Path, names: list[str], repo_id: str, licence: str) -> None:
    """Write `<sae>/cfg.json` and `<sae>/sae_weights.safetensors`, those of further seeds below them, and README.md."""
    with replacing(target) as folder:
        for name in names:
            source = root / "artifacts" / "saes" / name
            for path in sorted(path for file in FILES for path in source.rglob(file)):
                copy(path, folder / name / path.relative_to(source))
        (folder / "README.md").write_text(card(root, names, repo_id, licence), encoding="utf-8")
