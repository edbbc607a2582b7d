"""Many rows at once are the texts that each row would be alone."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from sae_tools.models.lm import LanguageModel, Patch
from sae_tools.models.writer import OVER, write_rows
from tests.conftest import CONTEXT, TinyLM


def alone(lm: LanguageModel, ids: Tensor, n: int, temperature: float, seed: int, patch: Patch | None) -> list[int]:
    found = list(lm.generate(ids, n, temperature, seed, patch))
    return found + [OVER] * (n - len(found))


def test_each_row_is_its_own_text(tiny_lm: TinyLM, ids: Tensor) -> None:
    lm = tiny_lm("llama")
    site, seeds = lm.site("blocks.1.hook_resid_post"), [3, 8, 3, 3]
    push = torch.randn(4, 32, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.0, 1, 2, 1])[:, None]
    patch = Patch(site, lambda acts: acts + push[:, None])
    start = torch.stack([ids[0, :9], ids[1, :9], ids[0, :9], ids[0, :9]])
    for temperature in (0.0, 0.8):
        new = write_rows(lm, start, 20, temperature, seeds, patch)
        for row, seed in enumerate(seeds):
            one = Patch(site, lambda acts, row=row: acts + push[row])  # type: ignore[misc]
            assert new[row].tolist() == alone(lm, start[row : row + 1], 20, temperature, seed, one)
    assert len({tuple(row) for row in new.tolist()}) == 4


def test_a_row_that_ends_leaves_the_others_going(tiny_lm: TinyLM, ids: Tensor) -> None:
    whole, seeds = tiny_lm("gpt2"), list(range(6))
    start = ids[:1, :5].expand(6, -1)
    some = write_rows(whole, start, 12, 1.0, seeds)
    tokenizer = copy.deepcopy(whole.tokenizer)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(int(some[2, 4]))
    lm = LanguageModel(whole.model, tokenizer)
    new = write_rows(lm, start, 12, 1.0, seeds)
    ended = (new == OVER).any(dim=1)
    assert ended[2]
    assert not ended.all()
    for row, seed in enumerate(seeds):
        assert new[row].tolist() == alone(lm, ids[:1, :5], 12, 1.0, seed, None)


def test_it_stops_at_the_model_s_context(tiny_lm: TinyLM, ids: Tensor) -> None:
    lm = tiny_lm("llama")
    start = torch.cat([ids, ids[:, 1:]], dim=1)[:, : CONTEXT - 2]
    new = write_rows(lm, start, 5, 0.0, [0, 1, 2])
    assert (new[:, 2:] == OVER).all()
    assert (new[:, 0] != OVER).any()
