"""Steering by features: what is pushed, as a patch, in words and as code. Knows no Gradio."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from demo.cards import label_of
from demo.steering.pushes import written
from demo.words import own_words
from demo.workbench import Opened
from sae_tools.analysis.steering import Push, steer
from sae_tools.analysis.sweep import presence
from sae_tools.models.lm import Patch

VERBS = {"add": "added at {:+g}", "clamp": "held at {:g}", "ablate": "removed"}


@dataclass(frozen=True)
class ByFeatures:
    """Pushes along features of one SAE."""

    opened: Opened
    pushes: list[Push]
    new_only: bool

    @cached_property
    def words(self) -> list[str]:
        """The pushed features' own words; a removed one has none."""
        features = [push.feature for push in self.pushes if push.mode != "ablate"]
        return list(dict.fromkeys(word for feature in features for word in own_words(self.opened, feature)))

    @property
    def strength(self) -> float:
        """The largest by size, in median norms; 0 where features are removed only."""
        return max((push.strength for push in self.pushes), key=abs)

    @property
    def site(self) -> str:
        """Where in the model: the SAE's own site."""
        return str(self.opened.about["site"])

    def patch(self, scale: float = 1.0) -> Patch:
        """All of the pushes, each `scale` times as hard."""
        opened = self.opened
        pushes = [replace(push, strength=push.strength * scale) for push in self.pushes]
        return steer(opened.sae, opened.site, pushes, opened.unit, self.new_only)

    def measure(self, start: int) -> Callable[[Tensor], float]:
        """How much of the features is in a text, from token `start` on: their mean activation."""
        opened = self.opened
        return presence(opened.sae, opened.base, opened.site, [push.feature for push in self.pushes], start)

    @property
    def measured(self) -> str:
        """What `measure` gives."""
        return "mean activation"

    @property
    def told(self) -> str:
        """In words; markup of our own."""
        each = [
            f"{label_of(self.opened.row(push.feature))} {VERBS[push.mode].format(push.strength)}"
            for push in self.pushes
        ]
        return ", ".join(each)

    @property
    def said(self) -> dict[str, object]:
        """For the address."""
        return {"push": written(self.pushes), "steer_by": None, "pairs": None}

    @property
    def imports(self) -> list[str]:
        """What `code` needs."""
        return ["from sae_tools.analysis.steering import Push, steer"]

    @property
    def code(self) -> str:
        """Python that makes `patch` of `sae`, `lm` and `site`."""
        pushes = ", ".join(f"Push({push.feature}, {push.mode!r}, {push.strength!r})" for push in self.pushes)
        return (
            f"unit = {self.opened.unit!r}  # median norm at the site\n"
            f"patch = steer(sae, site, [{pushes}], unit, new_tokens_only={self.new_only})"
        )
