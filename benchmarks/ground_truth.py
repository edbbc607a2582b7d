"""True features found: SAEs trained here and by SAELens' trainer on synthetic activations whose features are known.

    python -m benchmarks.ground_truth

512 unit directions in 128 dimensions, about five of them on at a time, each with its own frequency (SAELens'
`synthetic` package). Both trainers get the same rows in the same order, the same first weights and as many steps. A
true feature is found where a latent's decoder direction has a cosine of at least 0.9 with it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from sae_lens.config import SAETrainerConfig
from sae_lens.synthetic import ActivationGenerator, FeatureDictionary
from sae_lens.training.sae_trainer import SAETrainer
from torch import Tensor

from sae_tools import Recipe, saes, train
from sae_tools.metrics.reconstruction import explained_variance

N_TRUE, D_IN, D_SAE, BATCH, ON = 512, 128, 512, 1024, 5
FOUND = 0.9


@dataclass(frozen=True)
class Case:
    architecture: str
    options: dict[str, Any] = field(default_factory=dict)
    lr: float = 0.003


CASES = [
    Case("topk", {"k": ON}),
    Case("abstopk", {"k": ON}),
    Case("batchtopk", {"k": float(ON)}),
    Case("matryoshka_batchtopk", {"k": float(ON), "matryoshka_widths": [128, 512]}),
    Case("jumprelu", {"l0_coefficient": 0.6, "jumprelu_bandwidth": 0.5, "jumprelu_init_threshold": 0.1,
                      "jumprelu_ste_to_input": True, "l0_warm_up_steps": 100}),
    Case("standard", {"l1_coefficient": 3.2, "l1_warm_up_steps": 100}),
    Case("gated", {"l1_coefficient": 3.5, "l1_warm_up_steps": 100}),
]  # fmt: skip


def rows(n_steps: int) -> tuple[Tensor, list[Tensor]]:
    """(N_TRUE, D_IN) true directions, and batches of activations."""
    torch.manual_seed(0)
    dictionary = FeatureDictionary(N_TRUE, D_IN, seed=0)
    frequency = torch.arange(1, N_TRUE + 1).float() ** -0.5
    generator = ActivationGenerator(
        N_TRUE, firing_probabilities=frequency * ON / frequency.sum(), std_firing_magnitudes=0.2
    )
    with torch.no_grad():
        return dictionary.feature_vectors.detach(), [3 * dictionary(generator.sample(BATCH)) for _ in range(n_steps)]


def here(case: Case, batches: list[Tensor]) -> Any:
    n = len(batches)
    recipe = Recipe(
        case.architecture, D_SAE, n * BATCH, BATCH, case.lr, lr_decay_steps=n // 2, dead_after_tokens=50 * BATCH,
        architecture_options=case.options,
    )  # fmt: skip
    return train(lambda first: batches[first:], D_IN, recipe, {}, "cpu").sae


def saelens(case: Case, batches: list[Tensor]) -> Any:
    sae = saes.build(case.architecture, D_IN, D_SAE, case.options, {}, 0, "cpu")
    n = len(batches)
    config = SAETrainerConfig(
        total_training_samples=n * BATCH, train_batch_size_samples=BATCH, lr=case.lr, lr_end=case.lr / 10,
        lr_decay_steps=n // 2, dead_feature_window=50,
    )  # fmt: skip

    def again() -> Iterator[Tensor]:
        yield from batches

    return SAETrainer(config, sae, again()).fit()


def measured(sae: Any, truth: Tensor, held_out: Tensor) -> str:
    directions = torch.nn.functional.normalize(sae.W_dec.detach(), dim=-1)
    best = (truth @ directions.T).abs().amax(dim=1)
    with torch.no_grad():
        features = sae.eval().encode(held_out)
        ev, l0 = explained_variance(held_out, sae.decode(features)), (features != 0).float().sum(-1).mean()
    return f"{(best >= FOUND).float().mean():.1%} | {best.mean():.3f} | {ev:.3f} | {l0:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000, help=f"steps of {BATCH} rows (default: %(default)s)")
    parser.add_argument("--only", nargs="*", choices=[case.architecture for case in CASES])
    args = parser.parse_args()
    truth, batches = rows(args.steps + 1)
    held_out = batches.pop()
    print("| architecture | trainer | true features found | mean cosine | explained variance | L0 |")
    print("|---|---|---|---|---|---|")
    for case in CASES:
        if args.only is None or case.architecture in args.only:
            for name, trainer in (("here", here), ("SAELens", saelens)):
                print(
                    f"| {case.architecture} | {name} | {measured(trainer(case, batches), truth, held_out)} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
