"""Training shared by several processes equals training alone; a killed process changes nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sae_tools import saes
from sae_tools.common import distributed
from sae_tools.common.artifacts import sha256
from sae_tools.common.errors import SettingError
from sae_tools.common.settings import Recipe
from sae_tools.training.train import Batches, train
from tests.sae_tools import forked

D_IN, D_SAE, BATCH, STEPS = 12, 128, 64, 50

OPTIONS: dict[str, dict[str, Any]] = {
    "topk": {"k": 2},
    "batchtopk": {"k": 1.5},
    "matryoshka_batchtopk": {"k": 2.0, "matryoshka_widths": [32, 128], "use_matryoshka_aux_loss": True},
    "standard": {"l1_coefficient": 2.0},
    "jumprelu": {"jumprelu_init_threshold": 0.3},
}


def recipe(architecture: str, **values: Any) -> Recipe:
    settings = {"step": "sparse", "lr": 3e-3, "dead_after_tokens": 4 * BATCH, "product_dtype": "float32"} | values
    return Recipe(
        architecture, D_SAE, STEPS * BATCH, BATCH, architecture_options=OPTIONS[architecture], **settings
    )  # fmt: skip


def rows(first: int, uneven: float = 1.0) -> Iterator[Tensor]:
    """Batches whose first half is `uneven` times as long as the other."""
    every = torch.randn(STEPS, BATCH, D_IN, generator=torch.Generator().manual_seed(0))
    every[:, : BATCH // 2] *= uneven
    yield from every[first:]


def far(first: int) -> Iterator[Tensor]:
    """So far from 0 that some latents never fire."""
    return (5 + batch for batch in rows(first))


def uneven(first: int) -> Iterator[Tensor]:
    return rows(first, 4.0)


def once(config: Recipe, batches: Batches, out: Path) -> None:
    """Train as this process's rank, and leave what the rank ended with in `out`."""
    with distributed.group():
        trained = train(batches, D_IN, config, {}, "cpu")
        state = {key: t.clone() for key, t in trained.sae.state_dict().items()}
        last = trained.curve[-1]
        torch.save(
            {
                "state": state,
                "live": trained.live[0],
                "curve": [row["dead_share"] for row in trained.curve],
                "last": last,
            },
            out / f"{distributed.rank()}.pt",
        )


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm().clamp(min=1e-9))


def compare(config: Recipe, batches: Batches, out: Path) -> None:
    assert forked.ranks(2, once, config, batches, out) == [0, 0]
    first, second = (torch.load(out / f"{rank}.pt") for rank in range(2))
    assert forked.run(once, config, batches, out) == 0
    alone = torch.load(out / "0.pt")
    for name, expected in alone["state"].items():
        assert torch.equal(first["state"][name], second["state"][name]), "the ranks drifted apart"
        assert relative(first["state"][name], expected) <= 1e-5, name
    assert torch.equal(first["live"], alone["live"])
    assert first["curve"] == alone["curve"]
    assert 0 < max(alone["curve"]) < 1
    assert first["last"]["loss"] == pytest.approx(alone["last"]["loss"], rel=1e-4)
    assert first["last"]["l0"] == pytest.approx(alone["last"]["l0"], rel=1e-4)


@pytest.mark.parametrize("architecture", ["topk", "batchtopk", "matryoshka_batchtopk", "jumprelu"])
def test_two_processes_equal_one(architecture: str, tmp_path: Path) -> None:
    compare(recipe(architecture), rows, tmp_path)


def test_two_processes_resample_as_one(tmp_path: Path) -> None:
    compare(recipe("standard", resample_every=6), far, tmp_path)


def test_two_processes_steer_the_coefficient_as_one(tmp_path: Path) -> None:
    # Near the L0 of the first steps: far from its target the controller does the same whatever the L0.
    compare(recipe("standard", target_l0=40.0), far, tmp_path)


@pytest.mark.parametrize("architecture", ["batchtopk", "matryoshka_batchtopk"])
def test_the_batch_s_largest_are_found_though_most_are_in_one_process(architecture: str, tmp_path: Path) -> None:
    compare(recipe(architecture), uneven, tmp_path)


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(SettingError, match="batch_size is 64, but it must be a multiple of the 3 processes"):
        train(rows, D_IN, recipe("topk"), {}, "cpu")


def gather(out: Path) -> None:
    with distributed.group():
        rank = distributed.rank()
        mean = torch.tensor([1.0, 2.0]) * (rank + 1)
        distributed.average_([mean])
        largest = distributed.greatest_(torch.tensor([rank, -rank]))
        every = distributed.gathered(torch.full((2, 3), float(rank)).T.contiguous().T)
        assert mean.tolist() == [1.5, 3.0]
        assert largest.tolist() == [1, 0]
        assert every.tolist() == [[0.0] * 3] * 2 + [[1.0] * 3] * 2
        distributed.barrier()
        (out / str(rank)).touch()


def test_averages_maxima_and_gathering_over_two_processes(tmp_path: Path) -> None:
    assert forked.ranks(2, gather, tmp_path) == [0, 0]
    assert {path.name for path in tmp_path.iterdir()} == {"0", "1"}


# --- killed ----------------------------------------------------------------------------------------------------------


def worker(kill: bool, folder: Path, out: Path) -> None:
    """Train, and save; in the first attempt rank 1 dies after 20 steps if it is to."""
    if kill and os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.environ["SAE_TOOLS_FAULT"] = "step:20"
    with distributed.group():
        trained = train(rows, D_IN, recipe("batchtopk"), {}, "cpu", 1.0, folder, 0.0)
        if distributed.rank() == 0:
            saes.save(trained.sae, out)
            (out / "attempt").write_text(os.environ["TORCHELASTIC_RESTART_COUNT"])


def test_torchrun_restarts_after_a_killed_process_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    found = []
    for kill in (False, True):
        out = tmp_path / f"out-{kill}"
        assert forked.torchrun(worker, kill, tmp_path / f"checkpoints-{kill}", out) == 0
        assert (out / "attempt").read_text() == str(int(kill))
        found.append([sha256(out / file) for file in ("cfg.json", "sae_weights.safetensors")])
    assert found[0] == found[1]
