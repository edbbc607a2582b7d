"""The SAEs and models of one `artifacts/` folder, opened when first asked for. Knows no Gradio."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from demo.results import Results
from sae_tools.analysis.norms import median_norm
from sae_tools.analysis.search import Finder
from sae_tools.analysis.store import FeatureStore
from sae_tools.common import artifacts
from sae_tools.models.lm import LanguageModel
from sae_tools.models.sites import Site

COMMON = 0.011
"""`some` is listed for 1.15% of the default SAE's features, `eat` for 1.03%."""
PLAIN = (
    "It was a warm day, and the two of them went to the park. They played by the old tree until it was late, "
    "and then they walked home and told everyone what they had seen."
)
"""Everyday words to measure the median norm on, where the features stage did not."""


class Opened:
    """One SAE and what is known of its features; the models are loaded when first asked for.

    Whoever runs a model does so `with opened.turn`, for one step at a time: visitors take turns.
    """

    def __init__(
        self, name: str, store: FeatureStore, results: Results, turn: threading.Lock, load_sae: Callable[[], Any],
        load_model: Callable[[dict[str, Any], str], LanguageModel],
    ) -> None:  # fmt: skip
        self.name, self.store, self.results, self.turn = name, store, results, turn
        self._load_sae, self._load_model = load_sae, load_model
        self.readings: OrderedDict[Any, Any] = OrderedDict()
        """What was read last, by text and model."""

    @property
    def about(self) -> dict[str, Any]:
        """What the features stage says of SAE, models and site."""
        return self.store.about

    @property
    def d_sae(self) -> int:
        return int(self.about["d_sae"])

    @property
    def has_finetuned(self) -> bool:
        return bool(self.about.get("finetuned"))

    @cached_property
    def sae(self) -> Any:
        return self._load_sae()

    @cached_property
    def base(self) -> LanguageModel:
        return self._load_model(self.about["base"], self.about["dtype"])

    @cached_property
    def finetuned(self) -> LanguageModel:
        return self._load_model(self.about["finetuned"], self.about["dtype"])

    @cached_property
    def site(self) -> Site:
        return self.base.site(self.about["site"])

    @cached_property
    def unit(self) -> float:
        """The site's median norm, in which a push is measured."""
        known = self.about.get("median_norm")
        return float(known) if known else median_norm(self.base, self.site, self.base.tokens(PLAIN))

    @cached_property
    def common_words(self) -> frozenset[str]:
        """Words that are listed for more than `COMMON` of the features: they tell nothing of any one."""
        lists = self.store.column("words")
        found = Counter(word for words in (lists.to_pylist() if lists is not None else []) for word in set(words))
        return frozenset(word for word, n in found.items() if n > COMMON * self.d_sae)

    @cached_property
    def finder(self) -> Finder:
        """Finds features by what they mean."""
        return Finder(self.store)

    @cached_property
    def agreement(self) -> pd.DataFrame | None:
        """Feature by feature, base against finetuned model; None where the transfer stage did not run."""
        return self.results.agreement(self.name)

    def load(self) -> None:
        """Have all that is loaded when first asked for in memory."""
        _ = self.sae, self.unit, self.finetuned if self.has_finetuned else None

    def row(self, feature: int) -> dict[str, Any]:
        """Everything that the features stage found of a feature."""
        return self.store.row(feature)


class Workbench:
    """Opens SAEs; each model is loaded once. `given` SAEs, by name, and models are there already."""

    def __init__(
        self, results: Results, given: Mapping[str, Any] | None = None, models: Sequence[LanguageModel] = ()
    ) -> None:
        self._results, self._folder, self._given = results, results.artifacts, given or {}
        self._models: dict[tuple[str, str | None, str], LanguageModel] = {
            (lm.name, None, "float32"): lm for lm in models
        }
        self._opened: dict[str, Opened] = {}
        self._opening = threading.RLock()
        self._turn = threading.Lock()

    def open(self, name: str) -> Opened:
        """The SAE called `name`.

        Raises:
            ArtifactError: its features are missing or damaged; when its models are first asked for, its weights are.
        """
        with self._opening:
            if name not in self._opened:
                store = FeatureStore.open(self._folder / "features" / name)
                self._opened[name] = Opened(
                    name, store, self._results, self._turn, lambda: self._sae(name), self._model
                )  # fmt: skip
            return self._opened[name]

    def _sae(self, name: str) -> Any:
        from sae_tools import saes  # SAELens takes seconds to import: the page is up before

        if name in self._given:
            return self._given[name]
        opened = self.open(name)
        with self._opening:
            folder = self._folder / "saes" / name
            artifacts.verify(folder)
            return saes.load(folder).to(opened.base.device)  # no file can be read straight into ZeroGPU's memory

    def _model(self, about: dict[str, Any], dtype: str) -> LanguageModel:
        name, revision = about["name"], about.get("revision")
        # A relative folder is meant from where the pipeline ran: the folder that holds `artifacts/`.
        beside = self._folder.parent / name
        if not Path(name).exists() and beside.is_dir():
            name = str(beside)
        key = (name, revision, dtype)
        with self._opening:
            if key not in self._models:
                self._models[key] = LanguageModel.load(name, revision, dtype)
            return self._models[key]
