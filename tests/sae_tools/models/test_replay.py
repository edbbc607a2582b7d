"""The end of a pass, run again with other activations at a site, equals a whole pass that is patched there."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sae_tools.models.lm import Patch
from sae_tools.models.replay import Replay
from sae_tools.models.sites import KINDS
from tests.conftest import FAMILIES, TinyLM


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_it_equals_a_whole_pass(tiny_lm: TinyLM, ids: Tensor, family: str, kind: str) -> None:
    lm = tiny_lm(family)
    for layer in range(3):
        site = lm.site(f"blocks.{layer}.{kind}")
        replay = Replay(lm, site, ids)
        assert torch.equal(replay.logits, lm.logits(ids))
        assert torch.equal(replay.acts, lm.activations(ids, [site])[site.name])
        for patch in (
            Patch(site, lambda acts: acts.flip(-1)),
            Patch(site, torch.zeros_like, everywhere=True),
            Patch(site, lambda acts: acts),
        ):
            torch.testing.assert_close(replay.logits_with(patch), lm.logits(ids, patch), rtol=1e-5, atol=1e-6)


def test_the_blocks_before_the_site_do_not_run_again_and_are_left_as_they_were(tiny_lm: TinyLM, ids: Tensor) -> None:
    lm = tiny_lm("llama")
    blocks = lm.model.get_submodule("model.layers")
    assert isinstance(blocks, nn.ModuleList)
    site = lm.site("blocks.1.hook_resid_post")
    called: list[int] = []
    before = [(dict(block.__dict__), len(block._forward_hooks)) for block in blocks]
    handles = [
        block.self_attn.register_forward_hook(lambda *_, i=i: called.append(i))  # type: ignore[union-attr, misc]
        for i, block in enumerate(blocks)
    ]
    replay = Replay(lm, site, ids)
    replay.logits_with(Patch(site, torch.zeros_like))
    with pytest.raises(RuntimeError, match="no such activations"):
        replay.logits_with(Patch(site, _fail))
    for handle in handles:
        handle.remove()
    assert called == [0, 1, 2, 2]
    assert [(dict(block.__dict__), len(block._forward_hooks)) for block in blocks] == before
    assert torch.equal(lm.logits(ids), replay.logits)


def _fail(_: Tensor) -> Tensor:
    raise RuntimeError("no such activations")
