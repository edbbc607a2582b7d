"""Several recipes trained from one reading of the shards end as each would alone, also after a kill."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sae_tools.activations.order import Reader, Turn, turns
from sae_tools.common.settings import Recipe
from sae_tools.training.run import Run
from sae_tools.training.train import train, train_together
from tests.sae_tools import forked

D_IN, SIZES = 12, (100, 70, 130)
ACTS = [5 + torch.randn(n, D_IN, generator=torch.Generator().manual_seed(i)) for i, n in enumerate(SIZES)]
KILLED = -signal.SIGKILL


def recipe(architecture: str, options: dict[str, Any], tokens: int, batch_size: int, **values: Any) -> Recipe:
    settings = {"step": "sparse", "lr": 3e-3, "dead_after_tokens": 100, "product_dtype": "float32"} | values
    return Recipe(architecture, 64, tokens, batch_size, architecture_options=options, **settings)


RECIPES = {
    "topk": recipe("topk", {"k": 2}, 700, 16),
    "long": recipe("batchtopk", {"k": 2.0}, 900, 24, seed=5),
    "short": recipe("standard", {"l1_coefficient": 3.0, "l1_warm_up_steps": 4}, 250, 32, target_l0=2.0, seeds=2),
}
SCALES = {"topk": 1.0, "long": 1.0, "short": 0.5}


def shards(start: int, stop: int) -> Iterator[tuple[Turn, Tensor]]:
    return ((turn, ACTS[turn.shard]) for turn in turns(SIZES, start, stop, 0))


def together(folder: Path, out: Path) -> None:
    runs = {
        name: Run(D_IN, config, {}, "cpu", SCALES[name], folder / name, checkpoint_seconds=0.0)
        for name, config in RECIPES.items()
    }
    train_together(list(runs.values()), shards)
    torch.save({name: state(run.finished()) for name, run in runs.items()}, out)


def state(trained: Any) -> list[dict[str, Tensor]]:
    return [{key: t.clone() for key, t in sae.state_dict().items()} for sae in trained.saes]


def alone(name: str) -> list[dict[str, Tensor]]:
    """By the loop for one recipe, given its batches."""
    config = RECIPES[name]

    def batches(first: int) -> Iterator[Tensor]:
        reader = Reader(D_IN, config.batch_size, config.training_tokens, config.seed, first)
        for turn, acts in shards(reader.start, reader.stop):
            yield from reader.add(turn, acts)

    return state(train(batches, D_IN, config, {}, "cpu", SCALES[name]))


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Tensor]]]:
    torch.set_num_threads(1)
    return {name: alone(name) for name in RECIPES}


def check(out: Path, expected: dict[str, list[dict[str, Tensor]]]) -> None:
    found = torch.load(out, weights_only=True)
    assert set(found) == set(expected)
    for name, saes in expected.items():
        for mine, theirs in zip(found[name], saes, strict=True):
            assert all(mine[key].equal(theirs[key]) for key in theirs), name


def test_each_ends_as_it_would_alone(expected: Any, tmp_path: Path) -> None:
    assert forked.run(together, tmp_path / "runs", tmp_path / "out.pt") == 0
    check(tmp_path / "out.pt", expected)


@pytest.mark.parametrize(
    "fault", ["step:1", "step:17", "step:40", "checkpoint-before-rename:30", "checkpoint-written:60"]
)
def test_killed_they_go_on_each_from_where_it_stood(expected: Any, tmp_path: Path, fault: str) -> None:
    assert forked.run(together, tmp_path / "runs", tmp_path / "out.pt", SAE_TOOLS_FAULT=fault) == KILLED
    assert not (tmp_path / "out.pt").exists()
    assert forked.run(together, tmp_path / "runs", tmp_path / "out.pt") == 0
    check(tmp_path / "out.pt", expected)


def test_what_has_ended_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [Run(D_IN, config, {}, "cpu", 1.0, tmp_path / name) for name, config in RECIPES.items()]
    train_together(runs, shards)
    again = [Run(D_IN, config, {}, "cpu", 1.0, tmp_path / name) for name, config in RECIPES.items()]
    assert [run.done for run in again] == [run.n_steps for run in again]
    read: list[tuple[int, int]] = []
    train_together(again, lambda start, stop: (read.append((start, stop)), shards(start, stop))[1])
    assert read == [(0, 0)]
