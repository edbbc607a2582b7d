"""Models on the Hub, at its edge: what is there is loaded, and each thing that may be wrong is one sentence."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BertConfig, PreTrainedTokenizerFast, T5Config

from sae_tools.models.lm import LanguageModel
from tests.conftest import REPO, save_tiny
from tests.hub import environment, hub

LOAD = """
import json, sys, time
from sae_tools.common.errors import WorkbenchError
from sae_tools.models.lm import LanguageModel

found = []
for name, revision in json.loads(sys.argv[1]):
    start = time.perf_counter()
    try:
        lm = LanguageModel.load(name, revision, device="cpu")
        said = [round(float(lm.logits(lm.tokens("a fox")).sum()), 3), len(lm.tokenizer)]
    except WorkbenchError as error:
        said = str(error)
    found.append([said, time.perf_counter() - start])
print(json.dumps(found))
"""


def load(endpoint: str, home: Path, *models: tuple[str, str | None]) -> list[Any]:
    """What loading each model gives or says, and the seconds it took."""
    done = subprocess.run(
        [sys.executable, "-c", LOAD, json.dumps(models)], cwd=REPO, env=environment(endpoint, home),
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    good = folder / "me/good"
    save_tiny("llama", good, tokenizer)
    save_tiny("llama", folder / "me/good@v2", tokenizer, seed=1)
    for name in ("closed", "pickled", "coded", "masked", "translating", "strange", "bare", "wordless"):
        shutil.copytree(good, folder / "me" / name)
    (folder / "me/pickled/model.safetensors").rename(folder / "me/pickled/pytorch_model.bin")
    (folder / "me/bare/config.json").unlink()
    (folder / "me/wordless/tokenizer.json").unlink()
    (folder / "me/wordless/tokenizer_config.json").unlink()
    own = {"auto_map": {"AutoConfig": "configuration_own.OwnConfig"}, "model_type": "own"}
    configs = {
        "coded": own,
        "masked": BertConfig(architectures=["BertForMaskedLM"]).to_dict(),
        "translating": T5Config(architectures=["T5ForConditionalGeneration"]).to_dict(),
        "strange": {"model_type": "never_seen"},
    }
    for name, config in configs.items():
        (folder / "me" / name / "config.json").write_text(json.dumps(config))
    (folder / "me/coded/configuration_own.py").write_text("open('hacked', 'w')")
    return folder


@pytest.fixture(scope="module")
def adapted(repositories: Path) -> None:
    """An adapter of `me/good` at its branch v2."""
    model = AutoModelForCausalLM.from_pretrained(repositories / "me/good@v2")
    config = LoraConfig(r=2, target_modules=["q_proj"], revision="v2", init_lora_weights=False, task_type="CAUSAL_LM")
    adapter = get_peft_model(model, config)
    adapter.save_pretrained(repositories / "me/adapter")
    path = repositories / "me/adapter/adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "me/good"}))


@pytest.fixture(scope="module")
def endpoint(repositories: Path) -> Iterator[str]:
    with hub(repositories, gated={"me/closed"}) as endpoint:
        yield endpoint


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.usefixtures("adapted")
def test_models_revisions_and_adapters_are_loaded(endpoint: str, repositories: Path, tmp_path: Path) -> None:
    found = load(endpoint, tmp_path, ("me/good", None), ("me/good", "v2"), ("me/adapter", None))
    for (said, _), folder in zip(found, ("me/good", "me/good@v2", "me/good@v2"), strict=True):
        lm = LanguageModel.load(str(repositories / folder), device="cpu")
        logits = round(float(lm.logits(lm.tokens("a fox")).sum()), 3)
        assert (said == [logits, len(lm.tokenizer)]) is (said is not found[2][0])
    assert found[2][0][1] == found[0][0][1]


WRONG = {
    "me/closed": "'me/closed' is gated; accept its terms",
    "me/absent": "'me/absent' is neither a folder here nor a model on the Hub",
    "me/good": "'me/good' has no revision 'v9' on the Hub; give a branch",
    "me/pickled": "'me/pickled' has its weights as a pickle, pytorch_model.bin, which can run code",
    "me/coded": "'me/coded' of type 'own' brings code of its own, which is not run here",
    "me/masked": "'me/masked' of type 'bert' is no causal language model but a BertForMaskedLM",
    "me/translating": "'me/translating' of type 't5' is no causal language model but a T5ForConditionalGeneration",
    "me/strange": "'me/strange' cannot be loaded: The checkpoint you are trying to load has model type `never_seen`",
    "me/bare": "'me/bare' is not what is looked for: it has no config.json",
    "me/wordless": "'me/wordless' cannot be loaded",
    "no good name": "'no good name' is neither a folder here nor a model",
}


def test_what_is_wrong_is_said_in_one_sentence(endpoint: str, tmp_path: Path) -> None:
    revisions = {"me/good": "v9"}
    found = load(endpoint, tmp_path, *((name, revisions.get(name)) for name in WRONG))
    for (said, seconds), (name, says) in zip(found, WRONG.items(), strict=True):
        assert isinstance(said, str), name
        assert says in said
        assert "\n" not in said
        assert seconds < 5
    assert not (REPO / "hacked").exists()


def test_without_network_what_was_read_before_is_read_again(repositories: Path, tmp_path: Path) -> None:
    with hub(repositories) as endpoint:
        first = load(endpoint, tmp_path, ("me/good", None))
    again, other, branch = load(endpoint, tmp_path, ("me/good", None), ("me/pickled", None), ("me/good", "v2"))
    assert again[0] == first[0][0]
    assert "'me/pickled' is not in the cache and the Hub cannot be reached; connect" in other[0]
    assert "'me/good' at revision 'v2' is not in the cache and the Hub cannot be reached" in branch[0]
    assert max(other[1], branch[1]) < 5


def test_a_hub_that_does_not_answer_is_given_up_soon(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        start = time.perf_counter()
        ((said, seconds),) = load(f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path, ("me/good", None))
    assert "the Hub cannot be reached" in said
    assert seconds < 5, time.perf_counter() - start
