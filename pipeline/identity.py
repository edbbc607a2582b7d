"""What decides the bytes that a model gives: a run that differs in any of it starts afresh."""

from __future__ import annotations

from pathlib import Path

from sae_tools.models.sources import adapter_config


def of_model(name: str) -> list[tuple[str, int, int]]:
    """Name, size and time of each file of a local model and, if it is an adapter, of its base.

    Nothing of one on the Hub, whose revision names it.
    """
    folder = Path(name)
    files = ((path.name, path.stat()) for path in sorted(folder.iterdir())) if folder.is_dir() else ()
    found = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in files]
    adapter = adapter_config(name)
    return found + of_model(adapter["base_model_name_or_path"]) if adapter else found


def versions() -> list[str]:
    import torch
    import transformers

    return [torch.__version__, transformers.__version__]


def of_folder(folder: Path) -> str:
    """The digest of an artifact's manifest, which holds that of every file."""
    from sae_tools.common.artifacts import MANIFEST, sha256

    return sha256(folder / MANIFEST)
