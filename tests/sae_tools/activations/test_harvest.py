"""The rows on disk are the activations at the wanted positions, each once, whoever wrote them in however many runs."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sae_tools.activations import harvest as module
from sae_tools.activations.harvest import harvest, n_bytes, summary
from sae_tools.activations.shards import Shard, is_complete
from sae_tools.common.errors import ArtifactError
from sae_tools.common.settings import Dataset, Harvest
from sae_tools.models.corpus import Tokens
from sae_tools.models.lm import LanguageModel
from sae_tools.models.positions import Positions
from tests.conftest import TinyLM

SITES = ("blocks.1.hook_resid_post", "blocks.0.mlp.hook_post")
SMALL = Harvest(batch_size=2, shard_rows=80, dtype="float32")
"""Two blocks of 40 tokens to a shard."""


def sorted_rows(rows: Tensor) -> Tensor:
    """Rows in an order of their own, to compare multisets."""
    return torch.tensor(sorted(rows.tolist()))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("positions", ["all", "middle", "last", "random"])
@pytest.mark.parametrize("family", ["gpt2", "gemma"])
def test_rows_are_the_activations_at_the_wanted_positions(
    tiny_lm: TinyLM, ids: Tensor, tmp_path: Path, family: str, positions: Any
) -> None:
    lm = tiny_lm(family)
    wanted = Positions(Dataset(path="x", positions=positions), Tokens(ids, ids), lm.is_text)
    sites = [lm.site(name) for name in SITES]
    harvest(lm, ids.int(), wanted, sites, SMALL, tmp_path)
    about, _ = summary(tmp_path, sites)
    with torch.no_grad():
        hidden = lm.model(ids, output_hidden_states=True).hidden_states[2]
    expected = {SITES[0]: hidden, SITES[1]: lm.activations(ids, sites[1:])[SITES[1]]}
    for site in SITES:
        files = sorted((tmp_path / site).glob("*.safetensors"))
        rows = torch.cat([load_file(file)["acts"] for file in files])
        direct = torch.stack([expected[site][b, p] for b, p in wanted[:].nonzero().tolist()])
        assert about[site] == {"n_rows": len(direct), "n_shards": len(files)} == {"n_rows": len(rows), "n_shards": 2}
        # A batch of 2 blocks rounds otherwise than one of 3.
        torch.testing.assert_close(sorted_rows(rows), sorted_rows(direct), rtol=1e-5, atol=1e-5)


def test_no_special_token_is_harvested(tiny_lm: TinyLM, ids: Tensor, tmp_path: Path) -> None:
    lm = tiny_lm("gpt2")
    site = lm.site("blocks.0.hook_resid_post")
    wanted = Positions(Dataset(path="x"), Tokens(ids, ids), lm.is_text)
    harvest(lm, ids, wanted, [site], Harvest(), tmp_path)
    about, _ = summary(tmp_path, [site])
    assert about[site.name]["n_rows"] == int(((ids != 0) & (ids != 1)).sum()) == 3 * 39 - 1


@pytest.fixture
def work(tiny_lm: TinyLM, ids: Tensor) -> dict[str, Any]:
    """Arguments of `harvest` for 9 blocks, 5 shards, at two sites."""
    lm = tiny_lm("llama")
    many = ids.repeat(3, 1)
    many[:, 1] = torch.arange(20, 29)
    sites = [lm.site(name) for name in SITES]
    config = Harvest(batch_size=3, shard_rows=80)  # a batch would reach into the next shard
    return {"lm": lm, "ids": many, "wanted": lm.is_text(many), "sites": sites, "config": config}


@pytest.mark.parametrize("world", [2, 3, 4, 7])
def test_bytes_do_not_depend_on_the_number_of_workers(work: dict[str, Any], tmp_path: Path, world: int) -> None:
    harvest(**work, folder=tmp_path / "one")
    for rank in reversed(range(world)):
        harvest(**work, folder=tmp_path / "many", rank=rank, world=world)
        made = [number for number in range(5) if is_complete(tmp_path / "many" / SITES[0], number)]
        assert made == [number for number in range(5) if number % world >= rank]  # each makes its own alone
    one = contents(tmp_path / "one")
    assert len(one) == 2 * 5 * 2  # sites, shards, each with its record
    assert contents(tmp_path / "many") == one
    assert load_file(tmp_path / "one" / SITES[0] / "shard-00000.safetensors")["acts"].dtype == torch.bfloat16


def test_bytes_are_as_many_as_foreseen(work: dict[str, Any], tmp_path: Path) -> None:
    harvest(**work, folder=tmp_path)
    foreseen = n_bytes(work["lm"], work["wanted"], work["sites"], work["config"])
    written = sum(load_file(file)["acts"].nbytes for file in tmp_path.rglob("*.safetensors"))
    assert foreseen == written


def test_only_what_is_missing_or_damaged_is_made_again(work: dict[str, Any], tmp_path: Path) -> None:
    harvest(**work, folder=tmp_path)
    whole = contents(tmp_path)
    folder = tmp_path / SITES[1]
    (folder / "shard-00000.safetensors").unlink()
    (folder / "shard-00002.json").unlink()
    data = bytearray((folder / "shard-00003.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "shard-00003.safetensors").write_bytes(data)
    before = {path: path.stat().st_ino for path in tmp_path.rglob("shard-*.safetensors")}
    harvest(**work, folder=tmp_path)
    assert contents(tmp_path) == whole
    kept = {path.name for path, inode in before.items() if path.stat().st_ino == inode}
    assert kept == {"shard-00001.safetensors", "shard-00004.safetensors"}


def test_nothing_is_read_when_all_is_there(
    work: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harvest(**work, folder=tmp_path)
    monkeypatch.setattr(LanguageModel, "activations", None)
    harvest(**work, folder=tmp_path)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_activation_that_is_not_finite_is_named(
    work: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: float
) -> None:
    true_activations = LanguageModel.activations

    def activations(lm: LanguageModel, ids: Tensor, sites: Any) -> dict[str, Tensor]:
        found = true_activations(lm, ids, sites)
        found[SITES[1]][ids[:, 1] == 20 + 5, 17, 3] = bad  # block 5
        return found

    monkeypatch.setattr(LanguageModel, "activations", activations)
    threads = threading.active_count()
    with pytest.raises(
        ArtifactError, match=rf"{SITES[1]}, block 5, token 17, is not finite in torch.bfloat16; use a wi"
    ):
        harvest(**work, folder=tmp_path)
    assert threading.active_count() == threads
    assert sorted(path.name for path in (tmp_path / SITES[0]).glob("*.json")) == [
        "shard-00000.json",
        "shard-00001.json",
    ]


def test_a_value_beyond_the_precision_on_disk_is_refused(
    work: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acts = {site: torch.full((2, 40, work["lm"].width(work["lm"].site(site))), 1e5) for site in SITES}
    monkeypatch.setattr(LanguageModel, "activations", lambda *_: acts)
    with pytest.raises(ArtifactError, match=r"block 0, token 1, is not finite in torch\.float16"):
        harvest(**work | {"config": Harvest(batch_size=2, shard_rows=80, dtype="float16")}, folder=tmp_path)


def test_no_more_than_two_shards_are_in_memory(
    work: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is filled while one is written, however slow the disk."""
    alive, most = set(), []
    lock = threading.Lock()
    init, write = Shard.__init__, Shard.write

    def counted(shard: Shard, *arguments: Any) -> None:
        init(shard, *arguments)
        with lock:
            alive.add(shard.number)
            most.append(len(alive))

    def slow(shard: Shard, folder: Path) -> None:
        assert threading.current_thread() is not threading.main_thread()
        time.sleep(0.05)
        write(shard, folder)
        with lock:
            alive.discard(shard.number)

    monkeypatch.setattr(Shard, "__init__", counted)
    monkeypatch.setattr(Shard, "write", slow)
    harvest(**work | {"sites": work["sites"][:1]}, folder=tmp_path)
    assert max(most) == 2


@pytest.mark.parametrize("number", [1, 4])
def test_an_error_of_the_disk_ends_the_harvest(
    work: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    write = Shard.write

    def full(shard: Shard, folder: Path) -> None:
        if shard.number == number:
            raise ArtifactError("full")
        write(shard, folder)

    monkeypatch.setattr(Shard, "write", full)
    with pytest.raises(ArtifactError, match="full"):
        harvest(**work, folder=tmp_path)


def test_the_bar_begins_at_what_is_there(work: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []
    tqdm = module.tqdm
    monkeypatch.setattr(module, "tqdm", lambda **options: seen.append(options) or tqdm(**options))
    harvest(**work, folder=tmp_path)
    (tmp_path / SITES[0] / "shard-00004.json").unlink()  # of one block
    harvest(**work, folder=tmp_path)
    assert [(options["initial"], options["total"]) for options in seen] == [(0, 360), (320, 360)]
