"""The state of a training run on disk: new folders, each renamed whole; the last two are kept."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from sae_tools.common.artifacts import new_folder, verify, write_json
from sae_tools.common.errors import ArtifactError
from sae_tools.common.faults import reach

logger = logging.getLogger(__name__)
KEPT = 2


def save(folder: Path, step: int, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write what is needed to go on from `step`, then remove all but the last `KEPT`.

    One of a later step is a damaged one, which this run did not go on from.
    """
    for path in _all(folder):
        if int(path.name.removeprefix("step-")) > step:
            shutil.rmtree(path)
    for unfinished in folder.glob(".step-*"):
        shutil.rmtree(unfinished)
    with new_folder(folder / f"step-{step:09d}") as new:
        write_json(new / "state.json", {"step": step, **about})
        save_file(
            {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}, new / "state.safetensors"
        )
        reach("checkpoint-before-rename")
    reach("checkpoint-written")
    for old in _all(folder)[:-KEPT]:
        shutil.rmtree(old)


def latest(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and `about` of the newest checkpoint that is undamaged; None if there is none."""
    for path in reversed(_all(folder)):
        try:
            verify(path)
        except ArtifactError as error:
            logger.warning("%s An older checkpoint is taken.", error)
            continue
        return load_file(path / "state.safetensors"), json.loads((path / "state.json").read_text())
    return None


def _all(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if path.is_dir())
