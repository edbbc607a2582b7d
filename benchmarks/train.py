"""One training step here beside one of SAELens' trainer: time, peak memory, and the encoder's product as the floor.

    python -m benchmarks.train [--quick] [--rounds N] [--output FILE] [--cases NAME...]

Both sides take turns in one process, from equal weights, on the same rows; in the first step their losses are compared.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import re
import resource
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import sae_lens
import torch
import torch.nn.functional as F
from sae_lens.config import SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer
from torch import Tensor
from tqdm import tqdm

from sae_tools import saes
from sae_tools.common.precision import product_dtype
from sae_tools.common.settings import Recipe
from sae_tools.training import memory
from sae_tools.training.trainee import Trainee

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
STEPS = 3
"""Of ours in a round, whose median counts."""
L0 = 64
"""Latents that fire on a row of an SAE whose sparsity is learned: fresh weights fire half of all, trained ones few."""
NEVER = 10**12


@dataclass(frozen=True)
class Case:
    architecture: str
    d_in: int
    d_sae: int
    batch: int
    options: dict[str, Any] = field(default_factory=dict)
    dead: float = 0.0
    """Share of latents that both sides are told are dead."""

    def small(self) -> Case:
        options = {key: [w // 8 for w in v] if isinstance(v, list) else v for key, v in self.options.items()}
        return Case(self.architecture, self.d_in // 4, self.d_sae // 8, self.batch // 8, options, self.dead)


CASES = {
    "topk-768": Case("topk", 768, 24_576, 4096, {"k": 32}),
    "topk-768-dead": Case("topk", 768, 24_576, 4096, {"k": 32}, dead=0.1),
    "batchtopk-768": Case("batchtopk", 768, 24_576, 4096, {"k": 32.0}),
    "matryoshka-768": Case(
        "matryoshka_batchtopk", 768, 24_576, 4096, {"k": 32.0, "matryoshka_widths": [3072, 12_288, 24_576]}
    ),
    "jumprelu-768": Case("jumprelu", 768, 24_576, 4096),
    "standard-2048": Case("standard", 2048, 16_384, 1024),
    "topk-512": Case("topk", 512, 4096, 4096, {"k": 40}),
    "topk-256": Case("topk", 256, 4096, 4096, {"k": 32}),
    "topk-256-batch-1024": Case("topk", 256, 4096, 1024, {"k": 32}),
}


def batches(case: Case, n: int = 4) -> list[Tensor]:
    """Sparse sums of directions that are more than the dimensions, and a little noise; rows have norm √d_in."""
    chance = torch.Generator().manual_seed(0)
    directions = F.normalize(torch.randn(4 * case.d_in, case.d_in, generator=chance), dim=-1)
    rows = []
    for _ in range(n):
        on = torch.randint(len(directions), (case.batch, 24), generator=chance)
        strength = torch.empty(on.shape).exponential_(generator=chance)
        sums = F.embedding_bag(on, directions, mode="sum", per_sample_weights=strength)
        noise = 0.1 * torch.randn(sums.shape, generator=chance) * sums.std()
        rows.append((F.normalize(sums + noise, dim=-1) * case.d_in**0.5).to(DEVICE))
    return rows


@torch.no_grad()
def make_sparse(sae: Any, rows: Tensor) -> None:
    """Move the thresholds of fresh weights to where about `L0` latents fire."""
    pre = sae.process_sae_in(rows[:256]) @ sae.W_enc + sae.b_enc
    bound = pre.flatten().topk(L0 * len(pre)).values.min()
    if hasattr(sae, "threshold"):
        sae.threshold.fill_(bound)
    elif sae.cfg.architecture() == "standard":
        sae.b_enc -= bound


class Ours:
    """A training step of this project's."""

    def __init__(self, case: Case, rows: Tensor) -> None:
        recipe = Recipe(
            case.architecture, case.d_sae, NEVER, batch_size=case.batch, lr=1e-5, dead_after_tokens=NEVER,
            architecture_options=case.options,
        )  # fmt: skip
        self.dtype = product_dtype(recipe.product_dtype, torch.device(DEVICE))
        self.trainee = Trainee(recipe, 0, case.d_in, {}, DEVICE, self.dtype)
        make_sparse(self.trainee.sae, rows)
        self.dead = slice(int(case.dead * case.d_sae))
        self.done = 0

    def step(self, rows: Tensor) -> Tensor:
        self.trainee.silent[self.dead] = NEVER
        result = self.trainee.step(rows, self.done, NEVER)
        self.done += 1
        self.l0 = result.l0
        return result.loss.detach()


class Theirs:
    """A training step of SAELens' trainer, in float32 or with autocast to bfloat16."""

    def __init__(self, case: Case, rows: Tensor, autocast: bool = False) -> None:
        sae = saes.build(case.architecture, case.d_in, case.d_sae, case.options, {}, 0, DEVICE)
        make_sparse(sae, rows)
        config = SAETrainerConfig(
            total_training_samples=NEVER, train_batch_size_samples=case.batch, lr=1e-5, lr_end=1e-5, device=DEVICE,
            autocast=autocast, dead_feature_window=NEVER,
        )  # fmt: skip
        self.trainer: Any = SAETrainer(config, sae, iter(()))
        self.dead = slice(int(case.dead * case.d_sae))

    def step(self, rows: Tensor) -> Tensor:
        self.trainer.n_forward_passes_since_fired[self.dead] = 2 * NEVER
        loss: Tensor = self.trainer.step(rows).loss.detach()
        self.trainer.n_training_steps += 1
        return loss


def milliseconds(work: Callable[..., object], *args: Any) -> float:
    _synchronize()
    start = time.perf_counter()
    work(*args)
    _synchronize()
    return 1e3 * (time.perf_counter() - start)


def _synchronize() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def measure(case: Case, n_rounds: int, name: str) -> dict[str, Any]:
    """Milliseconds by side, a list of rounds each, after one step of each that is not counted."""
    rows = batches(case)
    ours = Ours(case, rows[0])
    sides = {"fp32": Theirs(case, rows[0])}
    if ours.dtype == torch.bfloat16:
        sides["bf16"] = Theirs(case, rows[0], autocast=True)
    expected = float(sides["fp32"].step(rows[0]))
    if abs(float(ours.step(rows[0])) / expected - 1) > 0.01:
        raise SystemExit(f"{name}: the two sides differ by more than 1% in the first loss, {expected:g} in SAELens.")
    for side in sides.values():
        side.step(rows[1])
    x, W = (t.detach().to(ours.dtype) for t in (rows[0], ours.trainee.parameters["W_enc"]))
    product = torch.empty(len(x), len(W), dtype=x.dtype, device=x.device)
    times: dict[str, list[float]] = {"fp32": [], "bf16": [], "ours": [], "floor": []}
    for i in tqdm(range(n_rounds), desc=name, leave=False):
        for key, side in sides.items():
            times[key].append(milliseconds(side.step, rows[i % len(rows)]))
        with memory.kept():  # as `train` does
            times["ours"].append(median(milliseconds(ours.step, batch) for batch in rows[:STEPS]))
        times["floor"].append(median(milliseconds(lambda: torch.mm(x, W.T, out=product)) for _ in range(STEPS)))
    return times | {"l0": float(ours.l0)}


def peak(case: Case, side: str) -> int:
    """Bytes that three steps of `Ours` or `Theirs` take at most, beside Python and its libraries."""
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    rows = batches(case)
    trainee = Ours(case, rows[0]) if side == "ours" else Theirs(case, rows[0])
    with memory.kept() if side == "ours" else nullcontext():
        for batch in rows[:STEPS]:
            trainee.step(batch)
    if DEVICE == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before


def peaks(case: Case) -> tuple[int, int]:
    """SAELens' in float32, and ours, each in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sae_lens", "sae_tools.training.trainee"])
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
        return pool.submit(peak, case, "theirs").result(), pool.submit(peak, case, "ours").result()


HEAD = (
    "case", "d_in → d_sae", "batch", "L0", "SAELens fp32, ms", "bf16, ms", "ours, ms", "times faster",
    "encoder product, ms", "ours / product", "tokens/s", "peak GB, SAELens", "ours",
)  # fmt: skip


def line(name: str, case: Case, found: dict[str, Any]) -> list[str]:
    """Ratios are medians over rounds, against SAELens' faster mode."""
    ms = {key: median(found[key]) for key in ("fp32", "bf16", "ours", "floor") if found[key]}
    best = min(("fp32", "bf16"), key=lambda key: ms.get(key, float("inf")))
    gain = median(t / o for t, o in zip(found[best], found["ours"], strict=True))
    over = median(o / f for o, f in zip(found["ours"], found["floor"], strict=True))
    theirs, mine = (f"{n / 1e9:.2f}" for n in peaks(case))
    return [
        name, f"{case.d_in:,} → {case.d_sae:,}", f"{case.batch:,}", f"{found['l0']:.0f}", digits(ms["fp32"]),
        digits(ms["bf16"]) if "bf16" in ms else "–", digits(ms["ours"]), f"**{gain:.1f}**", digits(ms["floor"]),
        f"{over:.2f}", f"{1e3 * case.batch / ms['ours']:,.0f}", theirs, mine,
    ]  # fmt: skip


def digits(n: float) -> str:
    """Three or more, without an exponent."""
    return f"{n:,.0f}" if n >= 100 else f"{n:.3g}"


def machine() -> str:
    """What it was measured on."""
    if DEVICE == "cuda":
        model = torch.cuda.get_device_name()
    else:
        named = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        model = f"{named[1] if named else platform.machine()}, {torch.get_num_threads()} threads"
    dtype = str(product_dtype("auto", torch.device(DEVICE))).removeprefix("torch.")
    return f"{model}; PyTorch {torch.__version__}, SAELens {sae_lens.__version__}; encoder product in {dtype}."


def table(names: list[str], quick: bool, n_rounds: int) -> Iterator[str]:
    """Lines of Markdown, each as soon as it is known."""
    yield f"| {' | '.join(HEAD)} |"
    yield f"|{'---|' * len(HEAD)}"
    for name in names:
        case = CASES[name].small() if quick else CASES[name]
        yield f"| {' | '.join(line(name, case, measure(case, n_rounds, name)))} |"
    yield ""
    yield machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, to try the script")
    parser.add_argument("--rounds", type=int, default=5, help="a step of SAELens' and three of ours each")
    parser.add_argument("--output", type=Path, help="also write the table here")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), metavar="NAME", help=", ".join(CASES))
    arguments = parser.parse_args()
    lines = ""
    for text in table(arguments.cases, arguments.quick, arguments.rounds):
        print(text, flush=True)
        lines += text + "\n"
        if arguments.output:
            arguments.output.write_text(lines)


if __name__ == "__main__":
    main()
