"""The page under its visitors: how soon it answers, what it holds, and what 200 at once do to it.

    python -m benchmarks.page

Starts the page itself and asks it by the protocol that a browser speaks, from a process beside it. Nothing else should
run meanwhile. A smoke run: `--rounds 3 --requests 20 --joins 20`.
"""

from __future__ import annotations

import argparse
import itertools
import random
import socket
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from benchmarks.visitor import Answer, Busy, Visitor
from benchmarks.watched import Watched
from demo.results import Results

PROMPT_TOKENS = 64
WARM = 200
"""Requests after which memory, threads and files should stay as they are."""
GROWTH = 1.05
LEFT_AFTER = 3
"""Parts of an answer that a leaving visitor still reads."""
TEXTS = 2
"""That grow side by side."""


@dataclass(frozen=True)
class Row:
    what: str
    measured: str
    bar: str = "–"
    kept: bool | None = None

    def __str__(self) -> str:
        verdict = "–" if self.kept is None else "yes" if self.kept else "**no**"
        return f"| {self.what} | {self.measured} | {self.bar} | {verdict} |"


def below(what: str, value: float, bar: float, unit: str) -> Row:
    return Row(what, f"{value:,.3g} {unit}", f"≤ {bar:g} {unit}", value <= bar)


class Prompts:
    """Texts of 64 tokens, each another one, from where the page's features fired."""

    def __init__(self, artifacts: Path, name: str) -> None:
        from sae_tools.analysis.store import FeatureStore

        store = FeatureStore.open(artifacts / "features" / name)
        self.n_features = int(store.about["d_sae"])
        base = store.about["base"]["name"]
        beside = artifacts.parent / base
        tokenizer = AutoTokenizer.from_pretrained(str(beside) if beside.is_dir() else base)
        chance = random.Random(0)
        ids = [i for i in range(len(tokenizer)) if i not in tokenizer.all_special_ids]
        words = [word for i in ids if (word := tokenizer.decode([i]).strip()).isalpha() and word.isascii()]
        self._texts = (" ".join(chance.choices(words, k=PROMPT_TOKENS)) for _ in itertools.count())
        self._cut = lambda text: tokenizer.decode(
            tokenizer(text, add_special_tokens=False)["input_ids"][:PROMPT_TOKENS], skip_special_tokens=True
        )

    def __iter__(self) -> Iterator[str]:
        return (self._cut(text) for text in self._texts)


def started(page: Watched) -> tuple[Visitor, Row]:
    """A visitor who came as the page started, and how long it was until a text had been read."""
    start = time.perf_counter()
    while page.process.poll() is None:
        try:
            visitor = Visitor(page.address)
            break
        except OSError:
            time.sleep(0.1)
    else:
        raise RuntimeError(page.log.read_text()[-1000:])
    up = time.perf_counter() - start
    visitor.open()
    return visitor, Row("from start until a text is read", f"{time.perf_counter() - start:.1f} s, up at {up:.1f} s")


def read(visitor: Visitor, prompts: Iterator[str], rounds: int) -> list[Row]:
    """From a click on Run to the features of a new text."""
    times = sorted(1000 * run(visitor, next(prompts)).total for _ in range(rounds))
    p95 = times[min(len(times) - 1, int(0.95 * len(times)))]
    what = f"{PROMPT_TOKENS}-token prompt to features"
    return [below(f"{what}, median", statistics.median(times), 150, "ms"), below(f"{what}, p95", p95, 400, "ms")]


def run(visitor: Visitor, prompt: str) -> Answer:
    visitor.type_in("prompt", prompt)
    return visitor.click("run")


def written(page: Watched, visitor: Visitor, rounds: int) -> list[Row]:
    """Two texts from one click."""
    firsts, speeds = [], []
    for _ in range(rounds):
        before = page.state()["passes"]
        answer = visitor.click("steer-run")
        firsts.append(1000 * answer.first)
        speeds.append((page.state()["passes"] - before) / TEXTS / answer.total)
    speed = statistics.median(speeds)
    return [
        below("first steered token, median", statistics.median(firsts), 250, "ms"),
        Row("tokens a second of each of two texts", f"{speed:.0f}", "≥ 30", speed >= 30),
    ]


def opened(visitor: Visitor, n_features: int, rounds: int) -> Row:
    """A click on Open and all that the page does then, as the server counts."""
    chance = random.Random(1)
    times = []
    for _ in range(rounds):
        answers = visitor.act("table", act="open", feature=chance.randrange(n_features))
        times.append(1000 * sum(answer.served for answer in answers))
    return below("opening a feature, median", statistics.median(times), 100, "ms")


def left(page: Watched, visitor: Visitor) -> Row:
    """Tokens that are still written for a visitor who is gone."""
    event = visitor.events("steer-run", "click")[0]
    joined = visitor.join(event)
    parts = 0
    messages = visitor.messages()
    for message in messages:
        parts += message.get("event_id") == joined and message["msg"] == "process_generating"
        if parts == LEFT_AFTER or message["msg"] == "process_completed":
            break
    before = page.state()["passes"]
    messages.close()  # type: ignore[attr-defined]
    time.sleep(3)
    tokens = (page.state()["passes"] - before) / TEXTS
    return Row("tokens written after the visitor left", f"{tokens:g}", "≤ 2", tokens <= 2)


def at_once(page: Watched, config: dict[str, Any], prompts: Iterator[str], joins: int) -> Row:
    """So many who all click Run in one moment: does each get a place or hear that it is busy?"""
    visitors = [Visitor(page.address, config) for _ in range(joins)]
    for visitor in visitors:
        visitor.type_in("prompt", next(prompts))
    event = visitors[0].events("run", "click")[0]

    def ask(visitor: Visitor) -> tuple[float, bool]:
        start = time.perf_counter()
        try:
            visitor.join(event)
        except Busy:
            return time.perf_counter() - start, False
        return time.perf_counter() - start, True

    with ThreadPoolExecutor(joins) as pool:
        asked = list(pool.map(ask, visitors))
        taken = [visitor for visitor, (_, has_place) in zip(visitors, asked, strict=True) if has_place]
        served = sum(pool.map(lambda visitor: any(m["msg"] == "process_completed" for m in visitor.messages()), taken))
    slowest = max(seconds for seconds, _ in asked)
    kept = slowest <= 1 and served == len(taken)
    measured = f"{slowest:.2f} s at most; {len(taken)} read, {joins - len(taken)} told busy"
    return Row(f"{joins} joins at once, each answered", measured, "≤ 1 s", kept)


def flat(page: Watched, config: dict[str, Any], prompts: Iterator[str], requests: int, n_visitors: int) -> list[Row]:
    """What is held after many requests, beside what was held after the first `WARM`."""
    visitors = [Visitor(page.address, config) for _ in range(n_visitors)]
    held: list[tuple[float, dict[str, int]]] = []
    for i in range(requests):
        run(visitors[i % n_visitors], next(prompts))
        if i + 1 in (min(WARM, requests // 2), requests):
            held.append((page.memory(), page.state()))
    (memory, before), (memory_then, then) = held
    growth = memory_then / memory
    rows = [Row(f"memory after {requests:,} requests of {n_visitors} visitors",
                f"{memory_then:.2f} GB, {growth - 1:+.1%}", f"≤ {GROWTH - 1:+.0%}", growth <= GROWTH)]  # fmt: skip
    for name, what in (("threads", "threads"), ("files", "temporary files"), ("hooks", "hooks on the model")):
        rows.append(Row(f"{what} then", f"{then[name]}, before {before[name]}", "no more", then[name] <= before[name]))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"), help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=30, help="of each timing (default: %(default)s)")
    parser.add_argument("--joins", type=int, default=200, help="visitors at once (default: %(default)s)")
    parser.add_argument("--requests", type=int, default=2000, help="default: %(default)s")
    parser.add_argument("--visitors", type=int, default=100, help="default: %(default)s")
    args = parser.parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    source = Prompts(args.artifacts, Results(args.artifacts).names()[0])
    prompts = iter(source)
    print("| what | measured | bar | kept |\n|---|---|---|---|", flush=True)
    with Watched([f"--artifacts={args.artifacts}"], port) as page:
        visitor, start = started(page)
        page.state()  # passes are counted from here on
        print(start, flush=True)
        run(visitor, next(prompts))
        steps = [
            lambda: read(visitor, prompts, args.rounds),
            lambda: written(page, visitor, max(2, args.rounds // 5)),
            lambda: [opened(visitor, source.n_features, args.rounds)],
            lambda: [left(page, visitor)],
            lambda: [below("memory, the most", page.peak(), 1.2, "GB")],
            lambda: [at_once(page, visitor.config, prompts, args.joins)],
            lambda: flat(page, visitor.config, prompts, args.requests, args.visitors),
            lambda: [below("memory at the end, the most", page.peak(), 1.2, "GB")],
        ]
        for step in steps:
            print("\n".join(map(str, step())), flush=True)


if __name__ == "__main__":
    main()
