"""Numbers that the pipeline left on disk: which SAEs there are, and their metrics. Opens no model.

Any of the files may be absent: the page then shows what is there.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from sae_tools.common.errors import ArtifactError


@dataclass(frozen=True)
class Results:
    """The folder `artifacts/` of one run of the pipeline."""

    artifacts: Path

    def names(self) -> list[str]:
        """SAEs that have both weights and features, the one that explains most first.

        Raises:
            ArtifactError: there is none.
        """
        folders = sorted((self.artifacts / "features").glob("*/"))
        names = [folder.name for folder in folders if (self.artifacts / "saes" / folder.name).is_dir()]
        names = [name for name in names if not name.startswith(".")]
        if not names:
            raise ArtifactError(f"No SAE with features is in {self.artifacts}: run `dvc repro` first.")
        return sorted(names, key=lambda name: -self.evaluation(name).get("explained_variance", -math.inf))

    def evaluation(self, name: str) -> dict[str, float]:
        """Metrics of one SAE on its own model."""
        return _numbers(read_json(self.artifacts / "evaluation" / name / "figures.json"))

    def verdict(self, name: str) -> list[str]:
        """What those mean, in sentences; none where nothing was measured."""
        return _sentences(self.artifacts / "evaluation" / name / "verdict.json")

    def transfer_verdict(self, name: str) -> list[str]:
        """The same of the finetuned model."""
        return _sentences(self.artifacts / "transfer" / name / "verdict.json")

    def recipe(self, name: str) -> dict[str, Any]:
        """How an SAE was trained, or which release it is; {} where neither is known."""
        about = _object(_object(read_json(self.artifacts / "saes" / name / "manifest.json")).get("about"))
        return _object(about.get("recipe"))

    def config(self, name: str) -> dict[str, Any]:
        """An SAE's `cfg.json`; {} where it is not here."""
        return _object(read_json(self.artifacts / "saes" / name / "cfg.json"))

    def digest(self, name: str) -> str:
        """The sha256 of an SAE's weights, as its manifest has it; "" where there is none."""
        files = _object(_object(read_json(self.artifacts / "saes" / name / "manifest.json")).get("files"))
        return str(_object(files.get("sae_weights.safetensors")).get("sha256", ""))

    def reports(self, name: str) -> list[str]:
        """The reports about an SAE that lie beside the artifacts: "reports/<name>.html" and the like."""
        folder = self.artifacts.parent / "reports"
        files = (f"{name}.html", f"transfer-{name}.html", "difference.html")
        return [f"reports/{file}" for file in files if (folder / file).is_file()]

    def transfer(self, name: str) -> dict[str, dict[str, float]]:
        """Metrics of one SAE by column: each text through each model; empty where no finetuned model was given."""
        columns = {}
        report = read_json(self.artifacts / "transfer" / name / "figures.json")
        if not isinstance(report, dict):
            return {}
        for text, text_name in (("base_text", "base text"), ("finetuned_text", "finetuned text")):
            for model in ("base", "finetuned"):
                found = report.get(text)
                numbers = _numbers(found.get(model)) if isinstance(found, dict) else {}
                if numbers:
                    columns[f"{model} model on {text_name}"] = numbers
        return columns

    def agreement(self, name: str) -> pd.DataFrame | None:
        """Feature by feature: `density_base`, `density_finetuned`, `correlation`."""
        path = self.artifacts / "transfer" / name / "features.parquet"
        if not path.is_file():
            return None
        table = pd.read_parquet(path)
        return table.set_index("feature") if "feature" in table.columns else table


def read_json(path: Path) -> Any:
    """A JSON file's value; {} where there is none."""
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ArtifactError(f"{path} is not JSON ({error}): run `dvc repro` to write it again.") from None


def _sentences(path: Path) -> list[str]:
    found = read_json(path)
    return [str(sentence) for sentence in found] if isinstance(found, list) else []


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _numbers(value: object) -> dict[str, float]:
    """The finite numbers of a JSON object, one level deep."""
    if not isinstance(value, dict):
        return {}
    numbers = {k: v for k, v in value.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    return {k: float(v) for k, v in numbers.items() if math.isfinite(v)}
