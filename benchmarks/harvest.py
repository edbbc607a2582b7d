"""Activations a second: our harvest to disk beside SAELens' ActivationsStore in memory; the bare pass as the floor.

    python -m benchmarks.harvest [--quick] [--rounds N] [--tokens N] [--dtype float32|bfloat16] [--output FILE]

A random model of GPT-2 small's shape, read after layer 5 at a context of 128; all sides take turns in one process. The
floor is a model that ends there, without a hook. The store runs its own, TransformerLens', model of the same shape.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import datasets
import sae_lens
import torch
from sae_lens import ActivationsStore
from torch import Tensor, nn
from tqdm import tqdm
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformers import GPT2Config, GPT2LMHeadModel

from sae_tools.activations.harvest import harvest
from sae_tools.common.settings import Harvest
from sae_tools.models.lm import LanguageModel
from sae_tools.models.loading import DTYPES

BUILD = Path("build")
"""Where shards go for a while: a folder of this checkout, which git ignores, since /tmp may be in memory."""
CONTEXT = 128
BATCH = 32
"""Blocks in a forward pass, on every side."""
SITES = ("blocks.5.hook_resid_post", "blocks.3.hook_resid_post", "blocks.1.hook_resid_post")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class Case:
    d_model: int = 768
    d_vocab: int = 50_257
    n_tokens: int = 16_384
    dtype: str = "float32"

    @property
    def ids(self) -> Tensor:
        """(n_blocks, context)"""
        chance = torch.Generator().manual_seed(0)
        return torch.randint(self.d_vocab, (self.n_tokens // CONTEXT, CONTEXT), generator=chance, dtype=torch.int32)


Work = Callable[[], object]
"""Reads the activations of `Case.ids` once."""


def model(case: Case) -> GPT2LMHeadModel:
    shape = GPT2Config(n_embd=case.d_model, n_head=case.d_model // 64, vocab_size=case.d_vocab)
    return GPT2LMHeadModel(shape).to(DEVICE, DTYPES[case.dtype]).eval()


def bare(case: Case) -> Work:
    """The first six blocks and nothing else."""
    trunk = model(case).transformer
    trunk.h, trunk.ln_f = trunk.h[:6], nn.Identity()

    @torch.no_grad()
    def work() -> None:
        for batch in torch.split(case.ids.long(), BATCH):
            trunk(batch.to(DEVICE), use_cache=False)

    return work


def ours(case: Case, n_sites: int) -> Work:
    """`harvest` into a new folder, synced to disk, in bfloat16; a shard is a quarter of the tokens."""
    lm = LanguageModel(model(case), SimpleNamespace(all_special_ids=[]))
    sites = [lm.site(name) for name in SITES[:n_sites]]
    config = Harvest(batch_size=BATCH, shard_rows=case.n_tokens // 4)

    BUILD.mkdir(exist_ok=True)

    def work() -> None:
        with tempfile.TemporaryDirectory(dir=BUILD) as folder:
            harvest(lm, case.ids, torch.ones(case.ids.shape, dtype=torch.bool), sites, config, Path(folder))

    return work


def store(case: Case) -> Work:
    """SAELens' store, its buffer filled before; each turn takes as many activations as it computes anew."""
    shape = HookedTransformerConfig(
        n_layers=12, d_model=case.d_model, n_ctx=1024, d_head=64, d_vocab=case.d_vocab, act_fn="gelu_new",
        normalization_type="LN", device=DEVICE, dtype=DTYPES[case.dtype],
    )  # fmt: skip
    rows = datasets.Dataset.from_dict({"tokens": case.ids.repeat(2, 1).tolist()})
    activations = ActivationsStore(
        model=HookedTransformer(shape), dataset=rows, streaming=False, hook_name=SITES[0], hook_head_index=None,
        context_size=CONTEXT, d_in=case.d_model, n_batches_in_buffer=2 * BATCH, total_training_tokens=len(rows),
        store_batch_size_prompts=BATCH, train_batch_size_tokens=4096, prepend_bos=False,
        normalize_activations="none", device=torch.device(DEVICE), dtype=case.dtype,
    )  # fmt: skip
    next(activations)

    def work() -> None:
        for _ in range(case.n_tokens // 4096):
            next(activations)

    return work


SIDES: dict[str, Callable[[Case], Work]] = {
    "bare forward pass, nothing kept": bare,
    "harvest to disk": partial(ours, n_sites=1),
    "harvest to disk, three sites": partial(ours, n_sites=3),
    "SAELens' ActivationsStore, in memory": store,
}


def seconds(work: Work) -> float:
    start = time.perf_counter()
    work()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak(side: str, case: Case) -> float:
    """GB that a process with this side alone takes at most, beside Python and its libraries."""
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    SIDES[side](case)()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / 1e9


def peaks(case: Case) -> dict[str, float]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sae_lens", "sae_tools.activations.harvest"])
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
        return {side: pool.submit(peak, side, case).result() for side in SIDES}


def table(case: Case, n_rounds: int) -> str:
    """Markdown; ratios are medians over the rounds."""
    sides = {name: make(case) for name, make in SIDES.items()}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in tqdm(range(n_rounds + 1), desc="rounds"):
        for name, work in sides.items():
            taken = seconds(work)
            if turn:  # the first round is not counted
                times[name].append(taken)
    floor, one = (times[name] for name in list(sides)[:2])
    memory = peaks(case)
    lines = [
        "| | tokens/s | of the bare pass | of one site's time | peak GB |",
        "|---|---|---|---|---|",
    ]
    for name, found in times.items():
        speed = case.n_tokens / median(found)
        share = median(f / t for f, t in zip(floor, found, strict=True))
        cost = median(t / o for t, o in zip(found, one, strict=True))
        lines.append(f"| {name} | {speed:,.0f} | {share:.3f} | {cost:.3f} | {memory[name]:.2f} |")
    where = torch.cuda.get_device_name() if DEVICE == "cuda" else f"{torch.get_num_threads()} threads"
    lines += [
        "",
        f"d_model {case.d_model}, {case.dtype}, {case.n_tokens:,} tokens a round, {n_rounds} rounds; {where}, "
        f"PyTorch {torch.__version__}, SAELens {sae_lens.__version__}.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small model, to try the script")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side")
    parser.add_argument("--tokens", type=int, default=16_384, help="in a turn; a multiple of 16,384")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the models")
    parser.add_argument("--output", type=Path, help="also write the table here")
    arguments = parser.parse_args()
    case = Case(n_tokens=arguments.tokens, dtype=arguments.dtype)
    if arguments.quick:
        case = Case(d_model=128, d_vocab=1000, n_tokens=16_384, dtype=arguments.dtype)
    text = table(case, arguments.rounds)
    print(text)
    if arguments.output:
        arguments.output.write_text(text)


if __name__ == "__main__":
    main()
