"""`python -m pipeline.plan`: what params.yaml costs, and what is missing, before anything runs.

Costs are counted (`sae_tools/common/costs.py`); times are at the speed that a probe of ten seconds finds here. Nothing
is written. The exit code is 1 if something is missing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

from pipeline.params import Params, load
from sae_tools.common import costs
from sae_tools.common.errors import WorkbenchError
from sae_tools.common.settings import Pretrained, Recipe

Found = TypeVar("Found")
SECONDS = 10.0
USUAL = "two cores"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pipeline.plan", description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="to try the model and an SAE for; 0: only count")
    seconds = parser.parse_args(argv).seconds
    try:
        params = load()
    except WorkbenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    missing: list[str] = []
    run = counted(params, missing)
    if run is not None:
        rates = dict(costs.RATES[USUAL])
        probed = _tried(lambda: _measured(params, run, seconds), missing) or {}
        print("\n".join([*heading(run, params.site), "", *table(run, rates | probed), "", *beside(run, probed)]))
        missing += too_little(run)
    print("\n" + "\n".join(f"missing: {line}" for line in missing) if missing else "\nNothing is missing: dvc repro")
    return 1 if missing else 0


def counted(params: Params, missing: list[str]) -> costs.Run | None:
    """What can be counted, None without the model's configuration; what could not be read goes to `missing`."""
    from sae_tools.models.loading import load_config
    from sae_tools.models.reading import check_readable
    from sae_tools.models.shape import shape_of

    models, second = params.language_model, params.transfer.dataset
    config = _tried(lambda: load_config(models.base, models.revision), missing)
    if models.finetuned is not None:
        finetuned, revision = models.finetuned, models.finetuned_revision
        _tried(lambda: load_config(finetuned, revision), missing)
    for dataset in (params.dataset, *([second] if second else [])):
        _tried(partial(check_readable, dataset), missing)
    shape = _tried(lambda: shape_of(config, params.site), missing) if config is not None else None
    if shape is None:
        return None
    sizes = {name: _size(recipe, shape.d_in, missing) for name, recipe in params.saes.items()}
    return costs.Run(
        shape, models, params.dataset, params.harvest, params.saes, sizes, params.evaluate, params.transfer,
        params.features,
    )  # fmt: skip


def _size(recipe: Recipe | Pretrained, d_in: int, missing: list[str]) -> int:
    """d_sae; of an SAE that can't be read, 16 d_in."""
    if isinstance(recipe, Recipe):
        return recipe.d_sae
    from sae_tools import saes

    found = _tried(lambda: saes.size(recipe.release, recipe.sae_id), missing)
    return found[1] if found else 16 * d_in


def _measured(params: Params, run: costs.Run, seconds: float) -> dict[str, float]:
    if not seconds:
        return {}
    from transformers.utils import logging

    from pipeline.probe import measured

    logging.disable_progress_bar()
    return measured(params, run, seconds)


def _tried(work: Callable[[], Found], missing: list[str]) -> Found | None:
    try:
        return work()
    except WorkbenchError as error:
        missing.append(str(error))
        return None


def heading(run: costs.Run, site: str) -> Iterator[str]:
    """The model, the SAEs and the text."""
    shape, models, dataset = run.shape, run.models, run.dataset
    finetuned = f", and finetuned {models.finetuned}" if models.finetuned else ""
    yield f"model   {models.base}{finetuned}: {_count(shape.parameters)} parameters in {models.dtype}"
    yield f"site    {site}: {shape.d_in} wide, after {shape.n_blocks} of {len(shape.blocks)} blocks"
    yield f"SAEs    {', '.join(f'{name} ({size:,} latents)' for name, size in run.d_sae.items())}"
    yield f"text    {dataset.path}: {dataset.n_tokens:,} tokens, and {dataset.held_out_tokens:,} held out"


def table(run: costs.Run, rates: dict[str, float]) -> Iterator[str]:
    """A line a stage, for all SAEs."""
    operations, memory, read = costs.operations(run), costs.memory(run), costs.tokens(run)
    hours = costs.hours(run, rates)
    read["train"] = sum(map(costs.trained, run.saes.values()))
    yield f"{'stage':10}{'tokens':>16}{'operations':>14}{'memory':>10}{'time':>10}"
    for stage, of in operations.items():
        n = read[stage] * (1 if stage in ("harvest", "train") else len(run.saes))
        if sum(of):
            yield f"{stage:10}{n:>16,}{_count(sum(of)):>14}{_size_of(memory[stage]):>10}{_time(hours[stage]):>10}"
    total = sum(sum(of) for of in operations.values())
    yield f"{'all':10}{'':>16}{_count(total):>14}{_size_of(max(memory.values())):>10}{_time(sum(hours.values())):>10}"


def beside(run: costs.Run, probed: dict[str, float]) -> Iterator[str]:
    """Disk, and what the times rest on."""
    disk, free = costs.disk(run), shutil.disk_usage(Path()).free
    stored, fetched = _size_of(disk["activations"]), _size_of(disk["fetched"])
    yield f"disk    {stored} of activations, {fetched} of models; {_size_of(free)} are free"
    for key, what in {run.models.dtype: "the model", "sae": "SAEs"}.items():
        rate = probed.get(key)
        how = "tried here" if rate else "not tried: what two cores have"
        yield f"speed   {_count(rate or costs.RATES[USUAL][key])} operations a second in {what}, {how}"
    yield "Times are those of matrix products: what is done beside them may double them, and fetching comes on top."


def too_little(run: costs.Run) -> Iterator[str]:
    """What this machine lacks."""
    disk, free = costs.disk(run), shutil.disk_usage(Path()).free
    if disk["activations"] * 1.1 > free:
        yield (
            f"disk: activations take {_size_of(disk['activations'])}, {_size_of(free)} are free; lower "
            "dataset.n_tokens or harvest.keep_gb, or set harvest.store to none."
        )
    need, have = max(costs.memory(run).values()), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if need > have:
        yield (
            f"memory: the largest stage takes {_size_of(need)}, this machine has {_size_of(have)}; lower batch sizes "
            "and shard_rows, or use language_model.dtype bfloat16."
        )


def _count(n: float) -> str:
    """12.3 M, 4.5 T."""
    for size, unit in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if n >= size:
            return f"{n / size:.3g} {unit}"
    return f"{n:.0f}"


def _size_of(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.2g} GB" if n_bytes < 1e10 else f"{n_bytes / 1e9:,.0f} GB"


def _time(hours: float) -> str:
    seconds = 3600 * hours
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if hours < 1.5 else f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"


if __name__ == "__main__":
    sys.exit(main())
