"""An SAE from elsewhere reads a model's activations as those that it was trained on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sae_tools.analysis.foreign import fit, hub_id, origin
from sae_tools.common.errors import InputError
from sae_tools.saes import as_trained
from tests.conftest import TinyLM, random_sae

CENTRED = {"center_writing_weights": True}


@pytest.mark.parametrize(
    ("name", "expected"),
    [("gpt2-small", "gpt2"), ("pythia-70m-deduped", "EleutherAI/pythia-70m-deduped"),
     ("gemma-2-2b", "google/gemma-2-2b"), ("gpt2", "gpt2"), ("some/model", "some/model"),
     ("/a/folder", "/a/folder"), ("", ""), ("gelu-1l", "transformer-lens:gelu-1l")],
)  # fmt: skip
def test_short_names_become_hub_ids(name: str, expected: str) -> None:
    assert hub_id(name) == expected


def test_an_sae_without_metadata_names_no_origin() -> None:
    assert origin(random_sae("topk")) == ("", "")


@pytest.mark.parametrize("architecture", ["standard", "topk", "jumprelu"])
@pytest.mark.parametrize("apply_b_dec", [True, False])
def test_a_centred_sae_reads_activations_less_their_mean(architecture: str, apply_b_dec: bool) -> None:
    sae = random_sae(architecture, apply_b_dec_to_input=apply_b_dec)
    sae.cfg.metadata.hook_name, sae.cfg.metadata.model_from_pretrained_kwargs = "blocks.1.hook_resid_pre", CENTRED
    x = torch.randn(30, 32, generator=torch.Generator().manual_seed(3)) + 2
    expected = sae.encode(x - x.mean(dim=-1, keepdim=True))
    once = as_trained(sae)
    for found in (once, as_trained(once)):
        torch.testing.assert_close(found.encode(x), expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(sae.encode(x), expected, atol=1e-3)
    sae.cfg.metadata.hook_name = "blocks.1.attn.hook_z"  # what the heads give is not centred
    assert as_trained(sae) is sae


def test_numbers_that_are_not_finite_are_refused(tiny_lm: TinyLM, ids: Tensor) -> None:
    lm, sae = tiny_lm("gpt2"), random_sae("topk")
    with torch.no_grad():
        sae.b_dec[3] = float("nan")
    with pytest.raises(InputError, match="not finite"):
        fit(sae, lm, lm.site("blocks.1.hook_resid_post"), ids, 2)
