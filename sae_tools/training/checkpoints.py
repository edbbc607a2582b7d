"""The state of a training run on disk: new folders, each renamed whole; the last two are kept.

Each part of a divided SAE has a folder of its own, and training goes on from the last step that all of them have.
"""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from sae_tools.common import distributed
from sae_tools.common.artifacts import new_folder, verify, write_json
from sae_tools.common.errors import ArtifactError
from sae_tools.common.faults import reach

logger = logging.getLogger(__name__)
KEPT = 2


def folder_of(folder: Path, part: int, parts: int) -> Path:
    """Where the state of a part lies; of an undivided SAE `folder` itself.

    Raises:
        ArtifactError: `folder` has the state of another division.
    """
    found = {int(path.name.rpartition("-")[2]) for path in folder.glob("part-*-of-*")}
    found |= {1} if _all(folder) else set()
    if other := found - {parts}:
        raise ArtifactError(
            f"{folder} holds checkpoints of an SAE whose latents are divided by {min(other)}, not by {parts}; remove "
            f"them, or set latent_parallel to {min(other)}."
        )
    return folder if parts == 1 else folder / f"part-{part}-of-{parts}"


def save(folder: Path, step: int, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write what is needed to go on from `step`, then remove all but the last `KEPT`.

    One of a later step is a damaged one, which this run did not go on from.
    """
    for path in _all(folder):
        if _step(path) > step:
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


def latest(folder: Path, shared: bool = False) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and `about` of the newest checkpoint that is undamaged; None if there is none.

    If `shared`, of the newest that is so in every process, each with its own `folder`.
    """
    bound = None
    while True:
        path = _newest(folder, bound)
        step = -1 if path is None else _step(path)
        # The least and the greatest of all processes: one of them may have been killed before it wrote what others did.
        least, greatest = distributed.extremes(step) if shared else (step, step)
        if least == greatest:
            break
        bound = least
    if path is None:
        return None
    return load_file(path / "state.safetensors"), json.loads((path / "state.json").read_text())


def _newest(folder: Path, bound: int | None) -> Path | None:
    """The last undamaged checkpoint of a step up to `bound`."""
    for path in reversed(_all(folder)):
        if bound is not None and _step(path) > bound:
            continue
        try:
            verify(path)
        except ArtifactError as error:
            logger.warning("%s An older checkpoint is taken.", error)
            continue
        return path
    return None


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _all(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if path.is_dir())
