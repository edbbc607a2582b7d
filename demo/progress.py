"""What is going on in this process, in words, from whichever progress bar is running. Knows no Gradio."""

from __future__ import annotations

from dataclasses import dataclass

from tqdm import tqdm

WORDS = {
    "Loading weights": "Loading the model",
    "tokenize": "Reading the text",
    "fit": "Measuring how much the SAE explains here",
    "features": "Looking for where features fire",
    "promoted tokens": "Finding the words that features promote",
    "neighbours": "Comparing features with one another",
    "together": "Looking for features that fire together",
    "gains": "Measuring what features make likelier",
    "calibrate": "Trying out how far features can be pushed",
}
OTHERWISE = "Opening the model and its features"


@dataclass(frozen=True)
class Progress:
    what: str
    share: float | None = None
    """How much of it is done, from 0 to 1, where that is known."""


def now() -> Progress:
    """The outermost bar that is not at its end, or `OTHERWISE`."""
    with tqdm.get_lock():
        bars = [bar for bar in tqdm._instances if not bar.disable and not (bar.total and bar.n >= bar.total)]
    if not bars:
        return Progress(OTHERWISE)
    bar = min(bars, key=lambda bar: bar.start_t)
    name = (bar.desc or "").removesuffix(": ")
    what = WORDS.get(name) or (f"Downloading {name}" if bar.unit == "B" else name[:1].upper() + name[1:] or OTHERWISE)
    return Progress(what, min(1.0, bar.n / bar.total) if bar.total else None)
