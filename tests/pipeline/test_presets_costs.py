"""The table of docs/presets.md is what `costs` counts for the presets."""

from __future__ import annotations

from transformers import AutoConfig

from pipeline.params import Params, load
from sae_tools.common import costs
from sae_tools.common.settings import Recipe
from sae_tools.models.shape import shape_of
from tests.conftest import REPO
from tests.pipeline.published import GELU_1L, MODELS, SAES
from tests.pipeline.test_presets import PRESETS, get_pretrained_saes_directory

HEAD = (
    "| preset | model | precision | memory | to fetch | activations on disk | two cores, at least | one GPU, at least |"
    "\n|---|---|---|---|---|---|---|---|\n"
)
DENSE = {"gelu-1l": ["standard"]}
"""SAEs of which many latents fire on a token, to the end."""


def shape(model: str, site: str) -> costs.Shape:
    if model in MODELS:
        kind = dict(MODELS[model].config)
        return shape_of(AutoConfig.for_model(kind.pop("model_type"), **kind), site)
    d, mlp, vocab = GELU_1L["d_model"], GELU_1L["d_mlp"], GELU_1L["d_vocab"]
    block = 4 * d * d + 2 * d * mlp + 9 * d + mlp  # every linear map with its bias, and two norms
    around = (2 * vocab + GELU_1L["n_ctx"]) * d + vocab + 2 * d
    return costs.Shape(block + around, (block,), vocab, d, d_in=mlp, n_blocks=1, is_stream=False)


def counted(params: Params) -> costs.Run:
    directory, sizes = get_pretrained_saes_directory(), {}
    for name, recipe in params.saes.items():
        if isinstance(recipe, Recipe):
            sizes[name] = recipe.d_sae
        else:
            about = directory[recipe.release]
            sizes[name] = SAES[f"{about.repo_id}/{about.saes_map[recipe.sae_id]}"]["d_sae"]
    return costs.Run(
        shape(params.language_model.base, params.site), params.language_model, params.dataset, params.harvest,
        params.saes, sizes, params.evaluate, params.transfer, params.features,
    )  # fmt: skip


def row(preset: str) -> str:
    run = counted(load(REPO / "presets" / f"{preset}.yaml"))
    hours = [
        sum(costs.hours(run, costs.RATES[machine], DENSE.get(preset, ())).values())
        for machine in ("two cores", "one GPU")
    ]
    disk, memory = costs.disk(run), max(costs.memory(run).values())
    names = [name for name in (run.models.base, run.models.finetuned) if name]
    cells = [
        f"`{preset}`", " and ".join(names), run.models.dtype, size(memory), size(disk["fetched"]),
        size(disk["activations"]), *map(time, hours),
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |\n"


def size(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.2g} GB" if n_bytes < 1e10 else f"{n_bytes / 1e9:.0f} GB"


def time(hours: float) -> str:
    if hours < 1:
        return f"{max(1, round(60 * hours))} min"
    return f"{hours:.1f} h" if hours < 10 else f"{hours:.0f} h" if hours < 48 else f"{hours / 24:.0f} days"


def test_the_table_is_what_is_counted() -> None:
    table = HEAD + "".join(map(row, PRESETS))
    assert table in (REPO / "docs" / "presets.md").read_text(), table
