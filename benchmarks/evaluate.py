"""Tokens a second of `evaluate`, beside SAELens' `run_evals` on the same tokens, in one process, taking turns.

    python -m benchmarks.evaluate

Two cases: the embedded storyteller, and a random GPT-Neo of d=128 with a vocabulary of 12,688. Both sides get the same
model, SAE (TopK, random) and blocks, and measure the same: reconstruction, sparsity, cross-entropy and KL. Their
figures must agree.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sae_lens.evals import get_eval_everything_config, run_evals
from sae_lens.training.activation_scaler import ActivationScaler
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, GPTNeoConfig, PreTrainedTokenizerFast

from sae_tools import LanguageModel, evaluate, saes

ROOT = Path(__file__).parents[1]
CONTEXT, BATCH = 128, 16
SAME = {"ce_loss_with_sae": 1e-4, "kl_div_with_sae": 1e-3, "explained_variance": 1e-4, "l0": 1e-6}


@dataclass(frozen=True)
class Case:
    name: str
    site: str
    d_sae: int
    k: int
    make: Callable[[Path], LanguageModel]


def storyteller(_: Path) -> LanguageModel:
    return LanguageModel.load(str(ROOT / "assets/stories"), device="cpu")


def gpt_neo(folder: Path) -> LanguageModel:
    """Random weights; the storyteller's tokenizer, whose ids the larger vocabulary has too."""
    config = GPTNeoConfig(
        vocab_size=12_688, hidden_size=128, num_layers=8, num_heads=8, max_position_embeddings=512,
        attention_types=[[["global", "local"], 4]], bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    PreTrainedTokenizerFast.from_pretrained(ROOT / "assets/stories").save_pretrained(folder)
    return LanguageModel.load(str(folder), device="cpu")


CASES = [
    Case("stories", "blocks.2.hook_resid_post", 4096, 40, storyteller),
    Case("gpt-neo-128", "blocks.4.hook_resid_post", 2048, 32, gpt_neo),
]


class Blocks:
    """What `run_evals` asks of an activations store, with the blocks that we evaluate on."""

    def __init__(self, ids: Tensor) -> None:
        self.batches, self.next = torch.split(ids, BATCH), 0
        self.store_batch_size_prompts, self.context_size = BATCH, CONTEXT

    def get_batch_tokens(self, _: int) -> Tensor:
        self.next += 1
        return self.batches[(self.next - 1) % len(self.batches)]

    def reset_input_dataset(self) -> None:
        self.next = 0


def measure(case: Case, n_tokens: int, rounds: int) -> str:
    """A row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        lm = case.make(Path(folder))
        model = AutoModelForCausalLM.from_pretrained(lm.name, dtype=torch.float32)
        bridge = TransformerBridge.boot_transformers(lm.name, hf_model=model, tokenizer=lm.tokenizer, device="cpu")
    site = lm.site(case.site)
    sae: Any = saes.build("topk", lm.width(site), case.d_sae, {"k": case.k}, {"hook_name": case.site}, 0, "cpu").eval()
    ids = torch.randint(1, 4096, (max(1, n_tokens // CONTEXT // BATCH) * BATCH, CONTEXT))
    ids[:, 0] = 0
    n_batches = len(ids) // BATCH
    config = get_eval_everything_config(
        batch_size_prompts=BATCH, n_eval_reconstruction_batches=n_batches, n_eval_sparsity_variance_batches=n_batches
    )
    sides: dict[str, Callable[[], dict[str, float]]] = {
        "SAELens": lambda: flat(run_evals(sae, Blocks(ids), bridge, ActivationScaler(), config)[0]),  # type: ignore[arg-type]
        "here": lambda: evaluate(sae, lm, site, ids, BATCH).metrics,
    }
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for i in range(rounds + 1):
        figures = {}
        for side, run in sides.items():
            start = time.perf_counter()
            figures[side] = run()
            if i:  # the first round only warms up
                seconds[side].append(time.perf_counter() - start)
        for name, rel in SAME.items():
            one, other = (found[name] for found in figures.values())
            assert abs(one - other) <= rel * abs(other) + 1e-6, f"{name}: {figures}"
    ratio = statistics.median(a / b for a, b in zip(*seconds.values(), strict=True))
    speed = {side: ids.numel() / statistics.median(times) for side, times in seconds.items()}
    return f"| {case.name} | {lm.d_vocab:,} | {speed['SAELens']:,.0f} | {speed['here']:,.0f} | **{ratio:.1f}** |"


def flat(groups: dict[str, dict[str, float]]) -> dict[str, float]:
    return {name: value for group in groups.values() for name, value in group.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=49_152, help="tokens a round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds that count (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    rows = [measure(case, args.tokens, args.rounds) for case in CASES]
    print("| model | vocabulary | SAELens, tokens/s | here, tokens/s | times faster |\n|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
