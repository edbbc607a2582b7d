"""What several test files share: tiny random models of every family, random SAEs, a workbench made by the stages."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    FalconConfig,
    Gemma2Config,
    Gemma3Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTJConfig,
    GPTNeoConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    OPTConfig,
    Phi3Config,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from sae_tools import saes
from sae_tools.models.lm import LanguageModel

REPO = Path(__file__).parents[1]
ASSETS = REPO / "assets"
DATA = REPO.parent / "shared" / "data"
"""Real models and texts, beside the checkout; not part of the product."""

CONTEXT = 64

_SHAPE: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
_LLAMA: dict[str, Any] = {**_SHAPE, "intermediate_size": 48, "num_key_value_heads": 2}
CONFIGS: dict[str, Callable[..., Any]] = {
    "gpt2": lambda **shared: GPT2Config(n_embd=32, n_layer=3, n_head=4, n_positions=CONTEXT, **shared),
    "gpt_neox": lambda **shared: GPTNeoXConfig(**_SHAPE, intermediate_size=48, rotary_pct=0.5, **shared),
    # Half of the layers look back 8 tokens only.
    "gpt_neo": lambda **shared: GPTNeoConfig(
        hidden_size=32, num_layers=3, num_heads=4, attention_types=[[["global", "local", "global"], 1]], window_size=8,
        **shared,
    ),
    "gptj": lambda **shared: GPTJConfig(n_embd=32, n_layer=3, n_head=4, n_positions=CONTEXT, rotary_dim=4, **shared),
    "opt": lambda **shared: OPTConfig(**_SHAPE, ffn_dim=48, word_embed_proj_dim=32, **shared),
    # As falcon-7b, falcon-40b, falcon-11B and falcon-rw-1b.
    "falcon": lambda **shared: FalconConfig(**_SHAPE, **shared),
    "falcon-40b": lambda **shared: FalconConfig(**_SHAPE, num_kv_heads=2, new_decoder_architecture=True, **shared),
    "falcon-11b": lambda **shared: FalconConfig(
        **_SHAPE, num_kv_heads=2, new_decoder_architecture=True, num_ln_in_parallel_attn=1, **shared
    ),
    "falcon-rw": lambda **shared: FalconConfig(
        **_SHAPE, multi_query=False, parallel_attn=False, alibi=True, bias=True, **shared
    ),
    "llama": lambda **shared: LlamaConfig(**_LLAMA, **shared),
    "mistral": lambda **shared: MistralConfig(**_LLAMA, sliding_window=8, **shared),
    "gemma": lambda **shared: GemmaConfig(**_LLAMA, head_dim=16, **shared),
    "gemma2": lambda **shared: Gemma2Config(**_LLAMA, head_dim=16, sliding_window=8, **shared),
    "gemma3": lambda **shared: Gemma3Config(
        text_config=Gemma3TextConfig(**_LLAMA, head_dim=16, sliding_window=8, **shared),
        vision_config={"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
                       "image_size": 28, "patch_size": 14},
        mm_tokens_per_image=1, image_token_index=2, boi_token_index=3, eoi_token_index=4,
    ),
    "gemma3_text": lambda **shared: Gemma3TextConfig(**_LLAMA, head_dim=16, sliding_window=8, **shared),
    "qwen2": lambda **shared: Qwen2Config(**_LLAMA, **shared),
    "qwen3": lambda **shared: Qwen3Config(**_LLAMA, head_dim=16, **shared),
    "phi3": lambda **shared: Phi3Config(**_LLAMA, sliding_window=8, **shared),
    "olmo2": lambda **shared: Olmo2Config(**_LLAMA, **shared),
}  # fmt: skip
FAMILIES = tuple(CONFIGS)
"""Every family of `sites`, and the forms that one of them has."""

TEXT = (
    "Once upon a time there was a little fox who liked to sing. The fox met a big bear, and they sang together! "
    "“Why do you sing?” asked the owl. Because the sun is warm, said the fox; because the river is near. "
) * 3


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of 400 tokens with a begin and an end token."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator([TEXT], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>")


TinyLM = Callable[..., LanguageModel]


@pytest.fixture(scope="session")
def tiny_lm(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> TinyLM:
    """`tiny_lm(family, seed=0)`: a random 3-layer model of the family, saved and then loaded as a user's would be.

    Biases and norm weights are random too, so that a forgotten one shows.
    """
    made: dict[tuple[str, int], LanguageModel] = {}

    def make(family: str, seed: int = 0) -> LanguageModel:
        if (family, seed) not in made:
            folder = tmp_path_factory.mktemp(f"{family}-{seed}")
            save_tiny(family, folder, tokenizer, seed)
            made[family, seed] = LanguageModel.load(str(folder), device="cpu")
        return made[family, seed]

    return make


def save_tiny(family: str, folder: Path, tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> None:
    """Write a random checkpoint of a family to `folder`."""
    positions = {} if family in ("gpt2", "gptj") else {"max_position_embeddings": CONTEXT}
    config = CONFIGS[family](vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=1, pad_token_id=None, **positions)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        add_noise(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@torch.no_grad()
def add_noise(model: torch.nn.Module) -> None:
    """Make biases and norm weights random too."""
    for parameter in model.parameters():
        parameter += torch.randn_like(parameter) * (0.3 if parameter.ndim == 1 else 0.1)


@pytest.fixture(scope="session")
def ids(tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """(3, 40) ids, each row opened by the begin token, with an end token inside the last one."""
    tokens = tokenizer(TEXT, add_special_tokens=False)["input_ids"][: 3 * 39]
    rows = torch.cat([torch.zeros(3, 1, dtype=torch.long), torch.tensor(tokens).reshape(3, 39)], dim=1)
    rows[2, 20] = tokenizer.eos_token_id
    return rows


ARCHITECTURES: dict[str, dict[str, Any]] = {
    "standard": {},
    "gated": {},
    "topk": {"k": 4},
    "abstopk": {"k": 4},
    "batchtopk": {"k": 4.0},
    "matryoshka_batchtopk": {"k": 4.0, "matryoshka_widths": [16, 64]},
    "jumprelu": {"jumprelu_init_threshold": 0.1},
    "matching_pursuit": {"max_iterations": 4, "decoder_init_norm": 1.0},
    "sae_tools.training.variants.annealed_topk": {"k": 4},
}
"""Every trainable architecture, with the least options that it needs at d_sae = 64: a new one is one line here."""
OF_SAELENS = tuple(name for name in ARCHITECTURES if "." not in name)
"""Those that SAELens trains too; the others are modules of our own."""


def random_sae(
    architecture: str, d_in: int = 32, d_sae: int = 64, seed: int = 0, **options: Any
) -> saes.TrainingSAE[Any]:
    """An untrained SAE whose every weight is random, biases and thresholds too."""
    sae = saes.build(architecture, d_in, d_sae, ARCHITECTURES[architecture] | options, {}, seed, "cpu")
    chance = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=chance)
        if hasattr(sae, "topk_threshold"):
            sae.topk_threshold.fill_(0.3)  # type: ignore[operator, union-attr]
        if hasattr(sae, "threshold"):
            sae.threshold.clamp_(min=0.01)  # type: ignore[operator, union-attr]
    return sae.eval()


CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
ARGUMENTS = [
    "--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A real browser."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


SMALL: dict[str, Any] = {
    "language_model": {"base": str(ASSETS / "stories"), "finetuned": str(ASSETS / "shakespeare"), "device": "cpu"},
    "dataset": {
        "path": str(ASSETS / "stories.parquet"), "context_size": 128, "n_tokens": 49_152, "held_out_tokens": 4_096,
    },
    "site": "blocks.2.hook_resid_post",
    "harvest": {"shard_rows": 16_384},
    "saes": {
        "topk": {
            "architecture": "topk", "d_sae": 512, "k": 16, "training_tokens": 98_304, "batch_size": 1024, "lr": 0.002,
            "step": "sparse",
        },
        "standard": {
            "architecture": "standard", "d_sae": 512, "l1_coefficient": 1.5, "training_tokens": 98_304,
            "batch_size": 1024, "lr": 0.002, "normalize_activations": "expected_average_only_in", "step": "sparse",
        },
    },
    "evaluate": {"n_tokens": 4_096, "probes": [str(ASSETS / "probes/direct_speech.csv")]},
    "transfer": {
        "n_tokens": 1_024,
        "dataset": {"path": str(ASSETS / "shakespeare.parquet"), "n_tokens": 16_384, "held_out_tokens": 1_024},
        "pair_tokens": 32_768,
        "adapt": {"n_tokens": 32_768},
        "diff": {
            "d_sae": 512, "training_tokens": 32_768, "batch_size": 1024, "lr": 0.002, "n_tokens": 2_048,
            "n_examples": 8,
        },
    },
    "features": {"n_tokens": 16_384, "n_calibrated": 4, "new_tokens": 8},
}  # fmt: skip
"""The default pipeline in small: the embedded models and texts, two SAEs of 512 latents."""


def run_pipeline(folder: Path, values: dict[str, Any]) -> Path:
    """Write `values` as the params of `folder` and run every stage there."""
    # Imported here: the pipeline needs ruamel.yaml, which tests of the core alone do not.
    from pipeline import adapt, baseline, diff, evaluate, features, harvest, pair, report, stream, train, transfer
    from pipeline.params import load

    (folder / "params.yaml").write_text(json.dumps(values))  # JSON is YAML
    with contextlib.chdir(folder):
        params = load()
        harvest.main(params)
        stream.main(params)
        pair.main(params)
        diff.main(params)
        for name in params.saes:
            for stage in (train, baseline, evaluate, adapt, transfer, features):
                stage.main(params, name)
        report.main(params)
    return folder


@pytest.fixture(scope="session")
def workbench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the real stages make of `SMALL`. Read only; processes that test side by side share it."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    made = root / "workbench"
    with FileLock(root / "workbench.lock"):
        if not made.exists():
            making = root / "workbench-in-the-making"
            making.mkdir()
            run_pipeline(making, SMALL).rename(made)
    return made


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The pipeline's tests come last: the page's make the workbench that both need."""
    items.sort(key=lambda item: item.nodeid.startswith("tests/pipeline/"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Of two processes that test side by side, one has all of the page's tests; the others go by their files.

    So the page is started once, and only one browser is busy at a time.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByRoom(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::")[0]
            return "page" if file.startswith("tests/demo/") else file

    return ByRoom(config, log)
