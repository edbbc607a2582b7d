"""From a language model and a text to understood features: what a notebook needs, each loaded when first used.

Rooms, each of which may use only those before it: common, models, activations, saes, metrics, training, analysis,
reports, verify.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sae_tools.activations.shards import Shards as Shards
    from sae_tools.analysis.contrast import contrast as contrast
    from sae_tools.analysis.decompose import decompose as decompose
    from sae_tools.analysis.evaluate import evaluate as evaluate
    from sae_tools.analysis.features import describe as describe
    from sae_tools.analysis.steering import steer as steer
    from sae_tools.analysis.sweep import sweep as sweep
    from sae_tools.analysis.transfer import transfer as transfer
    from sae_tools.common.settings import Recipe as Recipe
    from sae_tools.models.lm import LanguageModel as LanguageModel
    from sae_tools.training.train import train as train

HOMES = {
    "LanguageModel": "models.lm",
    "Shards": "activations.shards",
    "Recipe": "common.settings",
    "train": "training.train",
    "evaluate": "analysis.evaluate",
    "transfer": "analysis.transfer",
    "describe": "analysis.features",
    "steer": "analysis.steering",
    "contrast": "analysis.contrast",
    "decompose": "analysis.decompose",
    "sweep": "analysis.sweep",
}


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'sae_tools' has no attribute {name!r}")
    return getattr(import_module(f"sae_tools.{HOMES[name]}"), name)
