"""Is a folder what it says it is? `python -m sae_tools.verify PATH...` answers in one line for each.

Beyond the manifest's sizes and sha256: every tensor file is well formed and its numbers are finite, shards agree with
their records and with each other, an SAE's tensors are those that its cfg.json promises. Runs nothing that it reads.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from sae_tools.activations.shards import all_finite, records
from sae_tools.common.artifacts import MANIFEST, read_manifest, verify
from sae_tools.common.errors import ArtifactError
from sae_tools.common.formats import Spec, strict_json, tensor_specs

REMEDY = "make it again (`dvc repro`) or fetch it anew"
CFG_LIMIT = 64_000
LARGEST = {"d_in": 2**16, "d_sae": 2**26}
"""The widest SAE in print has 2^24 latents (Gao et al. 2024). Weights are held to it, none is made."""
DTYPES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64"}

_BASE = {"W_enc": ("d_in", "d_sae"), "W_dec": ("d_sae", "d_in"), "b_enc": ("d_sae",), "b_dec": ("d_in",)}
TENSORS: dict[str, dict[str, tuple[str, ...]]] = {
    "standard": _BASE,
    "topk": _BASE,
    "abstopk": _BASE,
    "jumprelu": {**_BASE, "threshold": ("d_sae",)},
    "gated": {
        **{name: _BASE[name] for name in ("W_enc", "W_dec", "b_dec")},
        **dict.fromkeys(("b_gate", "b_mag", "r_mag"), ("d_sae",)),
    },
    "matching_pursuit": {name: _BASE[name] for name in ("W_dec", "b_dec")},
}
"""What an SAE's weights are, by SAELens' architectures; of another architecture only files and numbers are checked."""


def check(folder: Path) -> str:
    """Check an artifact wholly, before it is used. Returns what it is, in a few words.

    Raises:
        ArtifactError: naming the file, what was expected, what was found and the remedy.
    """
    folder = Path(folder)
    verify(folder)
    return _check_contents(folder)


def check_sae(folder: Path) -> str:
    """Check an SAE's folder by SAELens' conventions, with or without a manifest. Returns what it is, in a few words.

    Raises:
        ArtifactError: as `check` does.
    """
    cfg = _read_cfg(folder / "cfg.json")
    weights = folder / "sae_weights.safetensors"
    found = _check_tensors(weights)
    expected = {
        name: tuple(cfg[size] for size in shape) for name, shape in TENSORS.get(cfg["architecture"], {}).items()
    }
    for name in sorted(expected.keys() | (found.keys() if expected else set())):
        if name not in found or found[name].shape != expected.get(name):
            raise _refusal(
                weights,
                f"tensor {name} should be {expected.get(name, 'absent')} in a {cfg['architecture']} SAE, "
                f"but is {found[name].shape if name in found else 'absent'}",
            )
    dtype = DTYPES.get(cfg.get("dtype", "float32"))
    for name in expected:
        if found[name].dtype != dtype:
            raise _refusal(weights, f"tensor {name} should be {dtype} as cfg.json says, but is {found[name].dtype}")
    return f"{cfg['architecture']} SAE, {cfg['d_in']} -> {cfg['d_sae']}"


def _check_contents(folder: Path) -> str:
    sites = sorted({path.parent for path in folder.rglob("shard-*.safetensors")})
    if sites:
        names = [site.relative_to(folder).as_posix() for site in sites]
        return f"activations, {sum(_check_shards(folder, name) for name in names):,} rows"
    if (folder / "cfg.json").exists():
        return check_sae(folder)
    saes = [check_sae(path.parent) for path in sorted(folder.rglob("cfg.json"))]
    if saes:
        return f"{len(saes)} SAEs: {'; '.join(saes)}"
    for path in sorted(folder.rglob("*.safetensors")):
        _check_tensors(path)
    return "tokens" if (folder / "tokens.safetensors").exists() else "artifact"


def _check_shards(folder: Path, site: str) -> int:
    """Number of rows of a site's shards."""
    files, about = read_manifest(folder)
    found = records(folder / site)
    kinds = set()
    for name, record in found.items():
        path = folder / site / name
        if (digest := files[f"{site}/{name}"]["sha256"]) != record.sha256:
            raise _refusal(path, f"sha256 should be {record.sha256} as its record says, but is {digest}")
        specs = _check_tensors(path)
        if specs.keys() != {"acts"} or specs["acts"].shape[:-1] != (record.n_rows,):
            shapes = {name: spec.shape for name, spec in specs.items()}
            raise _refusal(path, f"it should hold acts of {record.n_rows} rows as its record says, but has {shapes}")
        kinds.add((specs["acts"].dtype, specs["acts"].shape[1]))
        if len(kinds) > 1:
            raise _refusal(path, f"all shards should have one type and width, but have {sorted(kinds)}")
    counts = {"n_rows": sum(record.n_rows for record in found.values()), "n_shards": len(found)}
    if about.get(site) != counts:
        raise _refusal(folder / site, f"there should be {about.get(site)} as the manifest says, but are {counts}")
    return counts["n_rows"]


def _check_tensors(path: Path) -> dict[str, Spec]:
    """The tensors of a file that is well formed and holds finite numbers only."""
    try:
        specs = tensor_specs(path)
        with safe_open(path, "pt") as file:
            for name in specs:
                if not all_finite(file.get_tensor(name)):
                    raise _refusal(path, f"tensor {name} should be finite, but holds NaN or infinity")
    except (OSError, ValueError, SafetensorError) as error:
        raise _refusal(path, f"it should be a safetensors file, but {_reason(error)}") from None
    return specs


def _read_cfg(path: Path) -> dict[str, Any]:
    try:
        if (size := path.stat().st_size) > CFG_LIMIT:
            raise ValueError(f"it has {size} bytes")
        cfg = strict_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise _refusal(path, f"it should be JSON of at most {CFG_LIMIT} bytes, but {_reason(error)}") from None
    if not isinstance(cfg, dict) or not isinstance(cfg.get("architecture"), str):
        raise _refusal(path, "it should name an SAE's architecture, but does not")
    for name, largest in LARGEST.items():
        if type(cfg.get(name)) is not int or not 1 <= cfg[name] <= largest:
            raise _refusal(path, f"{name} should be a whole number from 1 to {largest}, but is {cfg.get(name)!r}")
    k = cfg.get("k", 1)
    if type(k) not in (int, float) or not 0 < k <= cfg["d_sae"]:
        raise _refusal(path, f"k should be a number from 1 to d_sae = {cfg['d_sae']}, but is {k!r}")
    return cfg


def _refusal(path: Path, problem: str) -> ArtifactError:
    return ArtifactError(f"{path}: {problem}; {REMEDY}.")


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error).rstrip(".")


def _answer(folder: Path) -> str:
    """The line of a sound folder."""
    if (folder / "cfg.json").is_file() and not (folder / MANIFEST).exists():
        what = f"{check_sae(folder)}; no manifest; tensors and cfg.json are sound"
    else:
        what = check(folder)
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return f"ok: {folder} ({what}; {len(sizes)} files, {sum(sizes) / 1e6:,.1f} MB)"


def main(arguments: list[str]) -> int:
    """Print a line for each folder; 0 if all are sound, else 2."""
    parser = argparse.ArgumentParser(
        prog="python -m sae_tools.verify",
        description="Check folders that the pipeline wrote (artifacts/tokens, artifacts/activations, "
        "artifacts/saes/NAME, ...), or an SAE's folder from elsewhere (cfg.json, sae_weights.safetensors). "
        "Prints a line for each; the exit code is 0 if all are sound, 2 if one is not.",
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a folder")
    code = 0
    for folder in parser.parse_args(arguments).paths:
        try:
            print(_answer(folder))
        except ArtifactError as error:
            code = 2
            print("error:", " ".join(str(error).split()), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
