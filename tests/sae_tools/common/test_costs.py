"""Costs by counting, held to sums done by hand for GPT-2 small."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from sae_tools.common import costs
from sae_tools.common.settings import Dataset, Evaluate, Features, Harvest, Models, Pretrained, Recipe, Transfer

BLOCK = 7_087_872
"""Parameters of a block of GPT-2 small: 12 · 768² + 13 · 768."""
LOGITS = 768 * 50_257
GPT2 = costs.Shape(124_439_808, (BLOCK,) * 12, d_vocab=50_257, d_model=768, d_in=768, n_blocks=6, is_stream=True)


def run(**changes: Any) -> costs.Run:
    """An SAE of 24,576 latents after block 5 of GPT-2 small, on a million tokens of 128."""
    whole: dict[str, Any] = {
        "shape": GPT2,
        "models": Models("openai-community/gpt2"),
        "dataset": Dataset("text.txt", n_tokens=1_000_000, held_out_tokens=10_000),
        "harvest": Harvest(shard_rows=100_000),
        "saes": {"topk": Recipe("topk", d_sae=24_576, training_tokens=2_000_000, seeds=3)},
        "d_sae": {"topk": 24_576},
        "evaluate": Evaluate(n_tokens=65_536, batch_size=16),
        "transfer": Transfer(),
        "features": Features(n_tokens=300_000, n_gained=1000, n_calibrated=0),
    }
    return costs.Run(**(whole | changes))


def test_operations_by_hand() -> None:
    found = costs.operations(run())
    assert found["harvest"] == (1_000_000 * 2 * 6 * BLOCK, 0)
    assert found["train"] == (0, 4 * 768 * 24_576 * 2_000_000 * 3)
    whole, later = 2 * (12 * BLOCK + LOGITS), 2 * (6 * BLOCK + LOGITS)
    assert found["evaluate"] == (10_000 * (whole + later), 2 * 10_000 * 2 * 768 * 24_576)
    pushes = 1000 * 48 * later
    assert found["features"] == (300_000 * 2 * 6 * BLOCK + pushes, 300_000 * 2 * 768 * 24_576)
    assert found["transfer"] == (0, 0)
    assert costs.operations(run(), dense=["topk"])["train"] == (0, 10 * 768 * 24_576 * 2_000_000 * 3)


def test_off_the_stream_ablations_are_passes_of_their_own() -> None:
    found = run(shape=dataclasses.replace(GPT2, is_stream=False))
    whole, later = 2 * (12 * BLOCK + LOGITS), 2 * (6 * BLOCK + LOGITS)
    assert costs.operations(found)["evaluate"][0] == 10_000 * (whole + 3 * later)


def test_a_finetuned_model_is_read_beside_the_base() -> None:
    pair = Models("openai-community/gpt2", finetuned="x/y")
    second = Dataset("x/z", n_tokens=0, held_out_tokens=20_000)
    found = costs.operations(run(models=pair, transfer=Transfer(n_tokens=8_000, dataset=second)))
    once = 2 * 6 * BLOCK + 2 * (2 * (12 * BLOCK + LOGITS) + 2 * (6 * BLOCK + LOGITS))
    assert found["transfer"][0] == 2 * (8_000 + 8_000) * once
    assert costs.disk(run(models=pair))["fetched"] == 2 * costs.disk(run())["fetched"]
    assert costs.memory(run(models=pair))["transfer"] > costs.memory(run())["evaluate"]


def test_memory_and_disk_by_hand() -> None:
    weights, sae = 124_439_808 * 4, 2 * 768 * 24_576
    logits, latents = 2 * 16 * 128 * 50_257 * 4, 2 * 4 * 16 * 128 * 24_576
    assert costs.memory(run()) == {
        "harvest": weights + 100_000 * 768 * 2,
        "train": 16 * sae * 3 + 2 * 4 * 4096 * 24_576,
        "evaluate": weights + sae * 4 + logits + latents,
        "features": weights + sae * 4 + 2 * 4 * 32 * 48 * 50_257,
    }
    assert costs.disk(run()) == {"fetched": weights, "activations": 1_000_000 * 768 * 2}
    assert costs.disk(run(saes={"topk": Pretrained("a", "b")}))["fetched"] == weights + sae * 4


def test_each_process_holds_its_part_of_a_divided_sae() -> None:
    recipe = dataclasses.replace(run().recipes[0], latent_parallel=4)
    found = costs.memory(run(saes={"topk": recipe}))
    assert found["train"] == costs.memory(run())["train"] / 4
    assert found["evaluate"] == costs.memory(run())["evaluate"]


def test_one_position_of_a_block_is_a_row_of_many() -> None:
    middle = dataclasses.replace(run().dataset, positions="middle")
    assert costs.disk(run(dataset=middle))["activations"] == (1_000_000 // 128) * 768 * 2


def test_hours_are_operations_at_a_rate() -> None:
    found = costs.hours(run(), {"float32": 1e11, "sae": 1e12})
    assert found["harvest"] == pytest.approx(1e6 * 2 * 6 * BLOCK / 1e11 / 3600)
    assert found["train"] == pytest.approx(4 * 768 * 24_576 * 6e6 / 1e12 / 3600)


def test_the_rate_of_two_cores_is_that_of_the_benchmarks() -> None:
    """GPT-2's shape to the end of block 5: 1,382 tokens a second in float32, 2,876 in bfloat16; TopK: 6,768 rows."""
    rates = costs.RATES["two cores"]
    for dtype, measured in (("float32", 1382), ("bfloat16", 2876)):
        assert rates[dtype] / (2 * 6 * BLOCK) == pytest.approx(measured, rel=0.05)
    assert rates["sae"] / (4 * 768 * 24_576) == pytest.approx(6768, rel=0.25)


def test_with_nothing_stored_passes_are_repeated_and_all_saes_train_beside_the_model() -> None:
    """An SAE wants the text twice, another half of it: two epochs, one of them over what is not kept."""
    recipes = {"a": Recipe("topk", d_sae=24_576, training_tokens=2_000_000), "b": Recipe("topk", 8, 500_000)}
    sizes = {"a": 24_576, "b": 8}

    def none(keep_gb: float) -> costs.Run:
        return run(harvest=Harvest("none", keep_gb, shard_rows=100_000), saes=recipes, d_sae=sizes)

    sample, whole = 100_000, 1_000_000
    assert costs.tokens(none(0))["harvest"] == sample + 2 * whole
    half = whole * 768 * 2 / 2 / 1e9
    assert costs.tokens(none(half))["harvest"] == sample + 1.5 * whole
    assert costs.tokens(none(100))["harvest"] == sample + whole
    assert costs.disk(none(0))["activations"] == sample * 768 * 2
    assert costs.disk(none(half))["activations"] == sample * 768 * 2 + half * 1e9
    assert costs.disk(none(100))["activations"] == whole * 768 * 2
    weights, rows = 124_439_808 * 4, 100_000 * 768 * 2
    trained = sum(16 * 2 * 768 * size + 2 * 4 * 4096 * size for size in sizes.values())
    assert costs.memory(none(0))["train"] == weights + rows + trained
