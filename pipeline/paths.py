"""Where each stage's outputs lie, relative to the folder that `dvc repro` runs in."""

from __future__ import annotations

from pathlib import Path

TOKENS = Path("artifacts/tokens")
ACTIVATIONS = Path("artifacts/activations")
STREAMED = Path("artifacts/streamed")
PAIR = Path("artifacts/pair")
CROSSCODER = Path("artifacts/crosscoder")
REPORTS = Path("reports")


def sae(name: str) -> Path:
    return Path("artifacts/saes") / name


def streamed(name: str) -> Path:
    return STREAMED / "saes" / name


def streamed_baseline(name: str) -> Path:
    return STREAMED / "baselines" / name


def baseline(name: str) -> Path:
    return Path("artifacts/baselines") / name


def evaluation(name: str) -> Path:
    return Path("artifacts/evaluation") / name


def transfer(name: str) -> Path:
    return Path("artifacts/transfer") / name


def adapted(name: str) -> Path:
    return Path("artifacts/adapted") / name


def features(name: str) -> Path:
    return Path("artifacts/features") / name


def metrics(stage: str, name: str) -> Path:
    return Path("metrics") / stage / f"{name}.json"


def plot(what: str, name: str) -> Path:
    return Path("plots") / what / f"{name}.tsv"
