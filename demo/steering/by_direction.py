"""Steering by a direction that pairs of texts give: the vector added, as a patch, in words and as code. No Gradio."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

from torch import Tensor

from demo import limits
from demo.limits import Refused
from demo.steering.pairs import EXAMPLE, EXPLAINED_BY, MOST_IN_ADDRESS, Seen
from demo.workbench import Opened
from sae_tools.analysis.decompose import Way, random_like
from sae_tools.analysis.steering import directions, steer_by_vector
from sae_tools.analysis.sweep import projection
from sae_tools.models.lm import Patch

WAYS: dict[Way, tuple[str, str]] = {
    "encoded": ("Encode the direction", "encode(v) beside encode(0): the SAE reads v as if it were an activation"),
    "difference": ("Encode the texts", "mean encode(h⁺) - mean encode(h⁻): what fires more on one side"),
    "pursuit": ("Build it from few", "orthogonal matching pursuit: few features, with signs, whose sum is near v"),
    "projections": ("Compare with each", "v · d: how far v goes along each feature's own direction"),
}
"""Title and meaning."""
VECTORS = {
    "vector": "The direction itself",
    "reconstruction": "What the SAE makes of it",
    "chosen": "Chosen features alone",
    "random": "A random direction (control)",
}
Chosen = tuple[tuple[Way, int], ...]
CONTROL_SEED = 0


@dataclass(frozen=True)
class ByDirection:
    """v, or something made of it, added at every token: s · unit / ‖v‖ times as long as it is."""

    opened: Opened
    seen: Seen
    by: str
    """Of `VECTORS`."""
    way: Way
    """Whose reconstruction."""
    chosen: Chosen
    strength: float
    """s: the length of v as it is added, in median norms."""
    new_only: bool

    @classmethod
    def checked(
        cls, opened: Opened, seen: Seen, by: object, way: object, chosen: object, strength: object, new_only: bool
    ) -> ByDirection:
        """From what a browser sent.

        Raises:
            Refused: a value that is not offered, or one that needs the SAE's own site.
        """
        kind = limits.choice(by, "Steer by", tuple(VECTORS))
        if kind in ("reconstruction", "chosen") and seen.ways is None:
            raise Refused(f"The SAE reads {opened.about['site']} alone; steer by the direction itself elsewhere.")
        picked = chosen_of(chosen, opened.d_sae)
        if kind == "chosen" and not picked:
            raise Refused("No feature is chosen. Press + beside one in the four lists first.")
        most = limits.MAX_STRENGTH
        return cls(
            opened, seen, kind, way_of(way), picked, limits.finite(strength, "Strength", -most, most), new_only
        )  # fmt: skip

    @property
    def vector(self) -> Tensor:
        """(d_in,) before it is scaled."""
        v, ways = self.seen.contrast.vector, self.seen.ways
        if self.by == "random":
            return random_like(v, CONTROL_SEED)
        if self.by == "vector" or ways is None:
            return v
        if self.by == "reconstruction":
            return ways.reconstruction(self.way)
        atoms = directions(self.opened.sae, [feature for _, feature in self.chosen]).cpu()
        return v.new_tensor(self._coefficients) @ atoms

    @property
    def _coefficients(self) -> list[float]:
        assert self.seen.ways is not None
        tables = self.seen.ways.tables
        missing = [feature for way, feature in self.chosen if feature not in tables[way].index]
        if missing:
            raise Refused(f"Feature {missing[0]} is no longer in the lists. Choose again.")
        return [float(tables[way].at[feature, "coefficient"]) for way, feature in self.chosen]

    @property
    def words(self) -> list[str]:
        """None: a direction has no words of its own."""
        return []

    @property
    def site(self) -> str:
        """Where in the model."""
        return self.seen.asked.site

    def patch(self, scale: float = 1.0) -> Patch:
        """The vector added, `scale` times as long."""
        factor = scale * self.strength * self.seen.unit / self.seen.contrast.norm
        return steer_by_vector(self.seen.site, factor * self.vector, self.new_only)

    def measure(self, start: int) -> Callable[[Tensor], float]:
        """How far a text goes along v, from token `start` on."""
        return projection(self.opened.base, self.seen.site, self.seen.contrast.vector, start)

    @property
    def measured(self) -> str:
        """What `measure` gives."""
        return "mean length along the direction"

    @property
    def told(self) -> str:
        """In words; markup of our own."""
        name = VECTORS[self.by].removesuffix(" (control)")
        way = f" ({WAYS[self.way][0].lower()})" if self.by == "reconstruction" else ""
        return f"{name}{way} added at {self.strength:+g}"

    @property
    def said(self) -> dict[str, object]:
        """For the address; pairs that are long, or that no line can hold, are left out of it."""
        pairs = [(pair.positive, pair.negative) for pair in self.seen.asked.pairs]
        text = "\n".join(" | ".join(pair) for pair in pairs)
        plain = len(text) <= MOST_IN_ADDRESS and not any(set("|\n\r") & set(each) for pair in pairs for each in pair)
        return {"push": None, "steer_by": "pairs", "pairs": text if plain and text != EXAMPLE else None}

    @property
    def imports(self) -> list[str]:
        """What `code` needs."""
        return [
            "from sae_tools.analysis.contrast import contrast",
            "from sae_tools.analysis.decompose import decompose, random_like",
            "from sae_tools.analysis.pairs import Pair",
            "from sae_tools.analysis.steering import directions, steer_by_vector",
        ]

    @property
    def code(self) -> str:
        """Python that makes `patch` of `sae`, `lm` and `site`."""
        asked = self.seen.asked
        pairs = "".join(f"    Pair({pair.positive!r}, {pair.negative!r}),\n" for pair in asked.pairs)
        features = [feature for _, feature in self.chosen]
        made = {
            "vector": "v",
            "random": f"random_like(v, seed={CONTROL_SEED})",
            "reconstruction": f"decompose(found, sae, k={EXPLAINED_BY}).reconstruction({self.way!r})",
            "chosen": "",
        }[self.by] or f"v.new_tensor({self._coefficients!r}) @ directions(sae, {features!r}).cpu()"
        positions = asked.positions if isinstance(asked.positions, str) else list(asked.positions)
        return (
            f"pairs = [\n{pairs}]\n"
            f"found = contrast(pairs, lm, site, {positions!r})\n"
            "v = found.vector\n"
            f"vector = {made}\n"
            f"unit = {self.seen.unit!r}  # median norm at the site\n"
            f"patch = steer_by_vector(site, {self.strength!r} * unit / found.norm * vector, "
            f"new_tokens_only={self.new_only})"
        )


def way_of(value: object) -> Way:
    """One of `WAYS`."""
    found = limits.choice(value, "Way", get_args(Way))
    return next(way for way in WAYS if way == found)


def chosen_of(value: object, d_sae: int) -> Chosen:
    """(way, feature) of each chosen feature, from such pairs; each feature once."""
    if not isinstance(value, list | tuple) or len(value) > EXPLAINED_BY:
        raise Refused(f"At most {EXPLAINED_BY} features are chosen at once.")
    if not all(isinstance(each, list | tuple) and len(each) == 2 for each in value):
        raise Refused("A chosen feature is named by the list that it is in and its id.")
    found = {limits.feature(feature, d_sae): way_of(way) for way, feature in value}
    return tuple((way, feature) for feature, way in found.items())
