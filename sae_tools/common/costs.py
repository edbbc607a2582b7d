"""What a run costs before it runs: operations, memory, disk. Estimates by counting; nothing is loaded or measured.

    one token through n blocks        2 · n · (parameters of a block), and 2 · d_model · d_vocab for its logits
    one row of training               4 · d_in · d_sae: the encoder's product, and as long again for all the rest
      where many latents fire        10 · d_in · d_sae: five products, two forward and three back
    one weight of an SAE in training  16 bytes: itself, its gradient and Adam's two moments in float32
      of n parts of its latents     an n-th of that in each process

Left out: the products of queries and keys, which grow with the context (GPT-2 at 128 tokens: 1%), and reading the text.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from sae_tools.common.settings import Dataset, Evaluate, Features, Harvest, Models, Pretrained, Recipe, Transfer

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
RATES: dict[str, dict[str, float]] = {
    "two cores": {"float32": 1.2e11, "bfloat16": 2.4e11, "float16": 1.2e11, "sae": 4e11},
    "one GPU": {"float32": 1e13, "bfloat16": 1e14, "float16": 1e14, "sae": 5e13},
}
"""Operations a second in the model, by its precision, and in SAEs: as in `benchmarks`; a third of an A100's peak."""
PUSHED = 48
"""Tokens on which the push of one feature is tried."""
TOGETHER = 32
"""Features that are tried in one pass; their probabilities are in float32."""
WRITTEN = 1.9
"""Texts that calibration writes for a feature and a prompt."""


@dataclass(frozen=True)
class Shape:
    """The numbers of a model, read at a site, that decide what it costs; `models.shape` finds them."""

    parameters: int
    blocks: tuple[int, ...]
    """Parameters of each block."""
    d_vocab: int
    d_model: int
    d_in: int
    """Width of activations at the site."""
    n_blocks: int
    """Blocks that run until the site is read."""
    is_stream: bool
    """Whether the site is the whole residual stream."""

    @property
    def to_site(self) -> int:
        """Operations for one token until the site is read."""
        return 2 * sum(self.blocks[: self.n_blocks])

    @property
    def to_logits(self) -> int:
        """Operations for one token in a whole pass."""
        return 2 * (sum(self.blocks) + self.d_model * self.d_vocab)

    @property
    def again(self) -> int:
        """Operations for one token from the site on."""
        return self.to_logits - self.to_site

    @property
    def evaluated(self) -> int:
        """Operations for one token that `evaluate` reads: as it is, and again with the SAE, with zeros and the mean.

        What follows those two is the same for every token, where they are the whole stream.
        """
        return self.to_logits + (1 if self.is_stream else 3) * self.again


@dataclass(frozen=True)
class Run:
    """A params file beside what it does not say: the model's shape, and the sizes of pretrained SAEs."""

    shape: Shape
    models: Models
    dataset: Dataset
    harvest: Harvest
    saes: Mapping[str, Recipe | Pretrained]
    d_sae: Mapping[str, int]
    evaluate: Evaluate
    transfer: Transfer
    features: Features

    @property
    def n_models(self) -> int:
        return 1 + (self.models.finetuned is not None)

    @property
    def n_rows(self) -> int:
        """Activations of the text, at most."""
        return self.dataset.n_tokens // (1 if self.dataset.positions == "all" else self.dataset.context_size)

    @property
    def row(self) -> int:
        """Bytes of an activation, as it is kept."""
        return self.shape.d_in * BYTES[self.harvest.dtype]

    @property
    def recipes(self) -> list[Recipe]:
        """Of the SAEs that are trained."""
        return [recipe for recipe in self.saes.values() if isinstance(recipe, Recipe)]

    @property
    def stored(self) -> int:
        """Bytes of activations on disk, at most."""
        whole = self.n_rows * self.row
        if self.harvest.store == "disk":
            return whole
        return min(whole, self.harvest.shard_rows * self.row + int(self.harvest.keep_gb * 1e9))

    @property
    def read(self) -> int:
        """Tokens that the model reads to train on: the text once, or with nothing stored what all SAEs take of it.

        Then one shard is read beside, as a sample, and of further epochs what is not kept.
        """
        if self.harvest.store == "disk":
            return self.dataset.n_tokens
        epochs = max((recipe.training_tokens for recipe in self.recipes), default=0) / max(1, self.n_rows)
        kept = min(1.0, self.harvest.keep_gb * 1e9 / max(1, self.n_rows * self.row))
        sample = min(1.0, self.harvest.shard_rows / max(1, self.n_rows))
        return int(self.dataset.n_tokens * (sample + min(1.0, epochs) + max(0.0, epochs - 1) * (1 - kept)))


def tokens(run: Run) -> dict[str, int]:
    """By stage, what each reads for one SAE, whose recipe says what `train` reads."""
    held_out = run.dataset.held_out_tokens
    texts = [held_out, *([run.transfer.dataset.held_out_tokens] if run.transfer.dataset else [])]
    return {
        "harvest": run.read,
        "evaluate": min(run.evaluate.n_tokens, held_out),
        "transfer": sum(min(run.transfer.n_tokens, text) for text in texts) if run.n_models == 2 else 0,
        "features": min(run.features.n_tokens, run.dataset.n_tokens),
    }


def trained(recipe: Recipe | Pretrained) -> int:
    """Rows that the SAEs of a recipe learn from."""
    return recipe.training_tokens * recipe.seeds if isinstance(recipe, Recipe) else 0


def operations(run: Run, dense: Collection[str] = ()) -> dict[str, tuple[int, int]]:
    """By stage, over all SAEs: operations in the model and in SAEs; many latents of those named `dense` fire."""
    shape, encode = run.shape, {name: 2 * run.shape.d_in * size for name, size in run.d_sae.items()}
    read = tokens(run)
    seen, paired, described = read["evaluate"], read["transfer"], read["features"]
    found = {"harvest": (read["harvest"] * shape.to_site, 0)}
    for name, recipe in run.saes.items():
        tried = PUSHED * min(run.features.n_gained, run.d_sae[name])
        written = int(WRITTEN * run.features.n_calibrated * len(run.features.prompts) * run.features.new_tokens)
        stages = {
            "train": (0, (5 if name in dense else 2) * trained(recipe) * encode[name]),
            "evaluate": (seen * shape.evaluated, 2 * seen * encode[name]),
            # Both models, with and without outliers.
            "transfer": (2 * paired * (shape.to_site + 2 * shape.evaluated), 2 * 2 * 2 * paired * encode[name]),
            "features": (
                described * shape.to_site + tried * shape.again + written * shape.to_logits,
                described * encode[name],
            ),
        }
        for stage, (model, sae) in stages.items():
            before = found.get(stage, (0, 0))
            found[stage] = (before[0] + model, before[1] + sae)
    return found


def hours(run: Run, rates: Mapping[str, float], dense: Collection[str] = ()) -> dict[str, float]:
    """By stage, at `rates` as those of RATES."""
    dtype = run.models.dtype
    return {
        stage: (model / rates[dtype] + sae / rates["sae"]) / 3600
        for stage, (model, sae) in operations(run, dense).items()
    }


def memory(run: Run) -> dict[str, int]:
    """Bytes by stage, at its peak, in each process: weights, and what a batch makes of them."""
    weights, size = run.shape.parameters * BYTES[run.models.dtype], max(run.d_sae.values())
    sae = 2 * run.shape.d_in * size * 4
    training = [_in_training(recipe, run.shape.d_in) for recipe in run.recipes]

    def batch(n_blocks: int) -> int:
        """Its logits as they are and with the SAE, off the stream also with zeros and the mean; its latents, twice."""
        passes = 2 if run.shape.is_stream else 4
        each = passes * run.shape.d_vocab * BYTES[run.models.dtype] + 2 * 4 * size
        return n_blocks * run.dataset.context_size * each

    harvest = weights + run.harvest.shard_rows * run.row
    found = {
        "harvest": harvest,
        # With nothing stored all SAEs train at once, beside the model.
        "train": max(training, default=0) if run.harvest.store == "disk" else harvest + sum(training),
        "evaluate": weights + sae + batch(run.evaluate.batch_size),
        "features": weights + sae + 2 * 4 * TOGETHER * PUSHED * run.shape.d_vocab,
    }
    if run.n_models == 2:
        found["transfer"] = 2 * weights + sae + batch(run.transfer.batch_size)
    return found


def _in_training(recipe: Recipe, d_in: int) -> int:
    """Bytes of weights, gradients and moments of all its SAEs, and of one's latents in a batch, twice."""
    n_latents = recipe.d_sae // recipe.latent_parallel
    return 16 * 2 * d_in * n_latents * recipe.seeds + 2 * 4 * recipe.batch_size * n_latents


def disk(run: Run) -> dict[str, int]:
    """Bytes that are fetched, in the precision of `models.dtype`, and bytes of activations that are kept."""
    fetched = sum(2 * run.shape.d_in * run.d_sae[n] * 4 for n, r in run.saes.items() if isinstance(r, Pretrained))
    return {
        "fetched": run.n_models * run.shape.parameters * BYTES[run.models.dtype] + fetched,
        "activations": run.stored,
    }
