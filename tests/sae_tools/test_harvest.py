"""The rows on disk are the model's activations at the wanted positions, each once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sae_tools.corpus import trained_positions
from sae_tools.harvest import harvest
from sae_tools.settings import Dataset, Harvest
from tests.conftest import TinyLM


def sorted_rows(rows: Tensor) -> Tensor:
    """Rows in an order of their own, to compare multisets."""
    return torch.tensor(sorted(rows.tolist()))


@pytest.mark.parametrize("positions", ["all", "middle", "last", "random"])
@pytest.mark.parametrize("family", ["gpt2", "gemma"])
def test_rows_are_the_activations_at_the_wanted_positions(
    tiny_lm: TinyLM, ids: Tensor, tmp_path: Path, family: str, positions: Any
) -> None:
    lm = tiny_lm(family)
    wanted = trained_positions(Dataset(path="x", positions=positions), lm.is_text(ids))
    sites = [lm.site("blocks.1.hook_resid_post"), lm.site("blocks.0.mlp.hook_post")]
    about = harvest(lm, ids.int(), wanted, sites, Harvest(batch_size=2, shard_rows=50, dtype="float32"), tmp_path)
    with torch.no_grad():
        hidden = lm.model(ids, output_hidden_states=True).hidden_states[2]
    expected = {"blocks.1.hook_resid_post": hidden, "blocks.0.mlp.hook_post": lm.activations(ids, sites[1:])}
    expected["blocks.0.mlp.hook_post"] = expected["blocks.0.mlp.hook_post"]["blocks.0.mlp.hook_post"]
    for site in sites:
        files = sorted((tmp_path / site.name).glob("*.safetensors"))
        rows = torch.cat([load_file(file)["acts"] for file in files])
        direct = torch.stack([expected[site.name][b, p] for b, p in wanted.nonzero().tolist()])
        assert about[site.name] == {"n_rows": len(direct), "n_shards": len(files)}
        # A batch of 2 blocks rounds otherwise than one of 3.
        torch.testing.assert_close(sorted_rows(rows), sorted_rows(direct), rtol=1e-5, atol=1e-5)


def test_no_special_token_is_harvested(tiny_lm: TinyLM, ids: Tensor, tmp_path: Path) -> None:
    lm = tiny_lm("gpt2")
    site = lm.site("blocks.0.hook_resid_post")
    wanted = trained_positions(Dataset(path="x"), lm.is_text(ids))
    about = harvest(lm, ids, wanted, [site], Harvest(), tmp_path)
    assert about[site.name]["n_rows"] == int(((ids != 0) & (ids != 1)).sum()) == 3 * 39 - 1


def test_bytes_do_not_depend_on_the_run(tiny_lm: TinyLM, ids: Tensor, tmp_path: Path) -> None:
    lm = tiny_lm("llama")
    site = lm.site("blocks.1.hook_resid_post")
    for name in ("one", "two"):
        harvest(lm, ids, lm.is_text(ids), [site], Harvest(batch_size=2, shard_rows=50), tmp_path / name)
    one, two = (sorted((tmp_path / name / site.name).iterdir()) for name in ("one", "two"))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
    assert load_file(one[0])["acts"].dtype == torch.bfloat16
