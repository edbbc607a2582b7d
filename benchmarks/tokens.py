"""Text to token blocks on disk: tokens a second, and how much memory grows with their number.

    python -m benchmarks.tokens [--most N] [--output FILE]

JSON lines of made-up English, read, tokenized by the embedded model's tokenizer, cut and shuffled as the harvest stage
does it, 1M and 10M tokens of them; `--most 100_000_000` for more. Each number has a process of its own. Memory is what
that process holds of its own, pages of the file that it writes or reads left out, above what it held before.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import random
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import AutoTokenizer

from sae_tools.common.settings import Dataset
from sae_tools.models.corpus import Tokens, tokenize_to
from sae_tools.models.positions import Positions

BUILD = Path("build")
"""Where text and tokens go for a while: a folder of this checkout, which git ignores, since /tmp may be in memory."""
SIZES = (1_000_000, 10_000_000, 100_000_000)
HELD_OUT = 65_536
STORIES = Path("assets/stories.parquet")


def write_text(path: Path, n_tokens: int) -> None:
    """JSON lines of stories whose sentences are drawn from all of the embedded ones."""
    import pandas as pd

    sentences = [part for text in pd.read_parquet(STORIES)["text"] for part in text.split(". ")]
    chance = random.Random(0)
    missing = n_tokens * 5.0
    with path.open("w") as file:
        while missing > 0:
            text = ". ".join(chance.choices(sentences, k=20))
            file.write(json.dumps({"text": text}) + "\n")
            missing -= len(text)


def own_memory() -> int:
    """Bytes of this process that no file backs."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon", "RssShmem")))


@contextmanager
def peak(found: list[int]) -> Iterator[None]:
    """Append the greatest of `own_memory` while the block lasts, less that before it."""
    gc.collect()
    before, done = own_memory(), threading.Event()
    most = [before]

    def watch() -> None:
        while not done.wait(0.01):
            most[0] = max(most[0], own_memory())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        found.append(most[0] - before)


def measure(n_tokens: int) -> tuple[float, float, float]:
    """Tokens a second, and MB above the start: while they are made, and while all of them are looked at."""
    BUILD.mkdir(exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained("assets/stories")
    with tempfile.TemporaryDirectory(dir=BUILD) as name:
        text = Path(name) / "text.jsonl"
        write_text(text, n_tokens + HELD_OUT)
        small = Dataset(str(text), n_tokens=100_000, held_out_tokens=0)
        tokenize_to(Path(name), small, tokenizer)  # libraries are loaded, pools are filled
        dataset = Dataset(str(text), n_tokens=n_tokens, held_out_tokens=HELD_OUT)
        found: list[int] = []
        with peak(found):
            start = time.perf_counter()
            tokenize_to(Path(name), dataset, tokenizer)
            seconds = time.perf_counter() - start
        with peak(found):
            tokens = Tokens.load(Path(name))
            special = torch.tensor(tokenizer.all_special_ids, dtype=torch.int32)
            wanted = Positions(dataset, tokens, lambda ids: ~torch.isin(ids, special))
            sum(int(wanted[first : first + 4096].sum()) for first in range(0, len(wanted), 4096))
    return (n_tokens + HELD_OUT) / seconds, found[0] / 1e6, found[1] / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=10_000_000, help="tokens of the largest case")
    parser.add_argument("--output", type=Path, help="also write the table here")
    arguments = parser.parse_args()
    lines = ["| tokens | tokens/s | MB to make them | MB to look at all |", "|---|---|---|---|"]
    context = multiprocessing.get_context("spawn")
    for size in SIZES:
        if size <= arguments.most:
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                speed, making, looking = pool.submit(measure, size).result()
            lines.append(f"| {size:,} | {speed:,.0f} | {making:.0f} | {looking:.0f} |")
            print(lines[-1])
    table = "\n".join(lines) + "\n"
    print(table)
    if arguments.output:
        arguments.output.write_text(table)


if __name__ == "__main__":
    main()
