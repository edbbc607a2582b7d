"""What the page asks of the models: read a text's features, and write on with one of them turned up or down.

One lock round every step of a model: visitors take turns, and one who leaves holds nobody up. Knows no Gradio.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import pandas as pd
import torch
from torch import Tensor

from demo.limits import MAX_SECONDS, MAX_TOKENS, Refused
from sae_tools import saes
from sae_tools.analysis import steering
from sae_tools.analysis.next_tokens import next_tokens
from sae_tools.analysis.norms import median_norm
from sae_tools.analysis.store import FeatureStore
from sae_tools.common import artifacts
from sae_tools.models.lm import LanguageModel

Which = Literal["base", "finetuned"]
NEXT = 5
"""Likeliest next tokens that are shown."""
REMEMBERED = 64
PLAIN = (
    "It was a warm day, and the two of them went to the park. They played by the old tree until it was late, "
    "and then they walked home and told everyone what they had seen."
)
"""Everyday words to measure the median norm on."""


@dataclass(frozen=True)
class Opened:
    """One SAE, what is known of its features, and the model that it reads."""

    name: str
    store: FeatureStore
    sae: Any
    base: LanguageModel

    @property
    def d_sae(self) -> int:
        return int(self.sae.cfg.d_sae)

    @property
    def has_finetuned(self) -> bool:
        return bool(self.store.about.get("finetuned"))

    @cached_property
    def unit(self) -> float:
        """The site's median norm, in which a push is measured."""
        return median_norm(self.base, self.base.site(self.store.about["site"]), self.base.tokens(PLAIN))

    def feature(self, feature: int) -> dict[str, Any]:
        """All that is known of a feature, by name."""
        return self.store.row(feature)

    def brief(self, feature: int) -> dict[str, Any]:
        """What is known of it in one value each."""
        return cast(dict[str, Any], self.store.table.loc[feature].to_dict())


@dataclass(frozen=True)
class Firing:
    """A feature's strongest moment in a text."""

    feature: int
    value: float
    token: int


@dataclass(frozen=True)
class Reading:
    """A text's tokens and the features that fire on them; only what is not zero is kept."""

    pieces: list[str]
    """Text of each token; special tokens are left out."""
    token: Tensor
    """(n,) index into `pieces` of each non-zero activation."""
    feature: Tensor
    """(n,) its feature."""
    value: Tensor
    """(n,) its value."""
    cut: bool
    """Whether the text went on after the last token."""
    following: pd.DataFrame
    """The likeliest tokens after the last one, a row a rank, as `next_tokens` gives them."""

    def of(self, feature: int) -> list[float]:
        """One feature's value on each token."""
        values = torch.zeros(len(self.pieces))
        mine = self.feature == feature
        values[self.token[mine]] = self.value[mine]
        return values.tolist()

    def strongest(self) -> list[float]:
        """The largest value of any feature on each token."""
        values = torch.zeros(len(self.pieces))
        return values.scatter_reduce(0, self.token, self.value, "amax").tolist()

    def firings(self) -> list[Firing]:
        """Every feature that fires, at its strongest token, the strongest first."""
        order = self.value.argsort(descending=True, stable=True)
        best: dict[int, Firing] = {}
        rows = zip(self.feature[order].tolist(), self.value[order].tolist(), self.token[order].tolist(), strict=True)
        for feature, value, token in rows:
            best.setdefault(feature, Firing(feature, value, token))
        return list(best.values())


@dataclass(frozen=True)
class Written:
    """Two continuations of one prompt, so far."""

    default: str
    steered: str
    shared: int
    """How many characters at their start are equal."""
    over: str = ""
    """Why it ended before its length, where it did."""


class Workbench:
    """The SAEs and models of one `artifacts/` folder, opened when first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._models: dict[tuple[str, str | None, str], LanguageModel] = {}
        self._opened: dict[str, Opened] = {}
        self._readings: OrderedDict[tuple[str, Which, str], Reading] = OrderedDict()
        self._opening = threading.Lock()
        self._model_lock = threading.Lock()

    def open(self, name: str) -> Opened:
        """The SAE called `name`, its folders checked against their manifests."""
        with self._opening:
            if name not in self._opened:
                weights, features = (self._folder / kind / name for kind in ("saes", "features"))
                artifacts.verify(weights)
                store = FeatureStore.open(features)
                base = self._model(store.about["base"], store.about["dtype"])
                sae = saes.load(weights, device=str(base.device))
                self._opened[name] = Opened(name, store, sae, base)
            return self._opened[name]

    def finetuned(self, opened: Opened) -> LanguageModel:
        """The finetuned partner of an SAE's model."""
        with self._opening:
            return self._model(opened.store.about["finetuned"], opened.store.about["dtype"])

    def _model(self, about: dict[str, Any], dtype: str) -> LanguageModel:
        name, revision = about["name"], about.get("revision")
        # A relative folder is meant from where the pipeline ran: the folder that holds `artifacts/`.
        beside = self._folder.parent / name
        if not Path(name).exists() and beside.is_dir():
            name = str(beside)
        key = (name, revision, dtype)
        if key not in self._models:
            self._models[key] = LanguageModel.load(name, revision, dtype)
        return self._models[key]

    def read(self, opened: Opened, text: str, which: Which = "base") -> Reading:
        """The features of a text's first `MAX_TOKENS` tokens, as many as the model has room for."""
        key = (opened.name, which, text)
        with self._model_lock:
            if key in self._readings:
                self._readings.move_to_end(key)
                return self._readings[key]
        lm = opened.base if which == "base" else self.finetuned(opened)
        with self._model_lock:
            reading = _read(lm, opened, text)
            self._readings[key] = reading
            while len(self._readings) > REMEMBERED:
                self._readings.popitem(last=False)
        return reading

    def write(
        self, opened: Opened, text: str, feature: int, mode: steering.Mode, strength: float, new_tokens: int,
        temperature: float, seed: int,
    ) -> Iterator[Written]:  # fmt: skip
        """Continue a text twice from one seed, as the model is and steered; yields as they grow.

        Raises:
            Refused: the text leaves no room, or the feature never fired.
        """
        lm = opened.base
        if opened.brief(feature)["maximum"] <= 0 and mode != "ablate":
            raise Refused(f"Feature {feature} never fired: nothing tells what pushing it would mean. Pick another one.")
        ids = lm.tokens(text)
        room = min(lm.context_size, MAX_TOKENS + new_tokens) - new_tokens
        if ids.shape[1] > room:
            raise Refused(
                f"The prompt has {ids.shape[1]} tokens; with {new_tokens} new ones only {room} fit. Shorten one."
            )
        site = lm.site(opened.store.about["site"])
        with self._model_lock:
            unit = opened.unit
        patch = steering.steer(opened.sae, site, [steering.Push(feature, mode, strength)], unit)
        streams = [lm.generate(ids, new_tokens, temperature, seed, change) for change in (None, patch)]
        return self._interleave(lm, ids[0].tolist(), streams)

    def _interleave(self, lm: LanguageModel, prompt: list[int], streams: list[Iterator[int]]) -> Iterator[Written]:
        """Step both streams in turn until both end or the time is up; the lock is held for one step only."""
        deadline = time.monotonic() + MAX_SECONDS
        shown = 0.0
        new: list[list[int]] = [[], []]
        alive = [True, True]
        while any(alive):
            for which, stream in enumerate(streams):
                with self._model_lock:
                    token = next(stream, None) if alive[which] else None
                alive[which] = token is not None
                new[which] += [] if token is None else [token]
            late = time.monotonic() > deadline
            over = f"Stopped after {MAX_SECONDS:.0f} seconds, the limit of this page." if late else ""
            # To decode is dearer than a small model's step: ten times a second is smooth enough.
            if late or not any(alive) or time.monotonic() > shown + 0.1:
                yield _written(lm, prompt, new, over)
                shown = time.monotonic()
            if late:
                return


@torch.no_grad()
def _read(lm: LanguageModel, opened: Opened, text: str) -> Reading:
    ids = lm.tokens(text)
    limit = min(lm.context_size, MAX_TOKENS)
    cut, ids = ids.shape[1] > limit, ids[:, :limit]
    site = lm.site(opened.store.about["site"])
    acts = lm.activations(ids, [site])[site.name]
    features = opened.sae.encode(acts.to(opened.sae.dtype))[0].float().cpu()
    is_text = lm.is_text(ids)[0].cpu()
    features = features[is_text]
    pieces = [piece for piece, shown in zip(lm.pieces(ids[0].tolist()), is_text.tolist(), strict=True) if shown]
    if pieces and not text.startswith(" "):
        pieces[0] = pieces[0].removeprefix(" ")  # put there by some tokenizers
    token, feature = features.nonzero(as_tuple=True)
    following = next_tokens(opened.sae, lm, site, ids, NEXT).loc[ids.shape[1] - 1]
    return Reading(pieces, token, feature, features[token, feature], cut, following)


def _written(lm: LanguageModel, prompt: list[int], new: list[list[int]], over: str) -> Written:
    # Decoded with the prompt: some tokenizers drop the space before the first token of what they decode.
    default, steered = ("".join(lm.pieces(prompt + ids)[len(prompt) :]) for ids in new)
    shared = 0
    while shared < min(len(default), len(steered)) and default[shared] == steered[shared]:
        shared += 1
    return Written(default, steered, shared, over)
