"""An SAE from elsewhere opens as one that the pipeline made, once and for all, or is refused before any work."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from sae_lens.loading import pretrained_sae_loaders
from safetensors.torch import save_file
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from demo import progress
from demo.__main__ import main
from demo.badges import opening
from demo.foreign import Foreign
from demo.limits import Refused
from demo.page import Page
from demo.progress import Progress
from sae_tools import saes
from sae_tools.analysis import tables
from sae_tools.common.errors import ArtifactError, InputError, SettingError
from sae_tools.metrics.reconstruction import explained_variance
from tests.conftest import REPO, TEXT, random_sae, save_tiny
from tests.demo.conftest import free_port, serving

SITE = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def folder(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`model`, and `sae` that says that it is for it; a text, and folders that are no SAE of it."""
    root = tmp_path_factory.mktemp("elsewhere")
    save_tiny("gpt2", root / "model", tokenizer)
    for name, width in (("sae", 32), ("wide", 48)):
        sae = random_sae("topk", d_in=width)
        sae.cfg.metadata.model_name, sae.cfg.metadata.hook_name = str(root / "model"), SITE
        saes.save(sae, root / name)
    saes.save(random_sae("topk"), root / "silent")
    for name in ("empty", "pickled"):
        (root / name).mkdir()
    torch.save({}, root / "pickled" / "ae.pt")
    (root / "text.txt").write_text(TEXT * 3)
    (root / "short.txt").write_text("Too short.")
    return root


@pytest.fixture
def foreign(folder: Path, tmp_path: Path) -> Foreign:
    return Foreign(str(folder / "sae"), text=folder / "text.txt", cache=tmp_path / "cache")


def test_tables_and_figures_are_those_of_the_sae_on_the_text(foreign: Foreign, folder: Path) -> None:
    (name,) = foreign.names()
    opened = foreign.open().open(name)
    assert (opened.name, opened.about["site"], opened.d_sae) == ("sae", SITE, 64)
    lm, size = opened.base, opened.about["context_size"]
    ids = lm.tokenizer(TEXT * 3, add_special_tokens=False)["input_ids"]
    ids = torch.tensor([*ids, lm.tokenizer.eos_token_id])
    blocks = ids[: len(ids) // (size - 1) * (size - 1)].view(-1, size - 1)
    blocks = torch.cat([torch.zeros(len(blocks), 1, dtype=torch.long), blocks], dim=1)
    acts = lm.activations(blocks, [opened.site])[SITE]
    text = lm.is_text(blocks)
    features = saes.load(folder / "sae").encode(acts)
    measured = opened.results.evaluation(name)
    assert measured["l0"] == pytest.approx(float((features[text] != 0).sum(-1).float().mean()))
    x_hat = saes.load(folder / "sae").decode(features[text])
    assert measured["explained_variance"] == pytest.approx(explained_variance(acts[text], x_hat), abs=1e-5)
    train = features[: -max(1, len(blocks) // 5)]
    expected = train[text[: len(train)]].amax(0)
    assert opened.store.table["maximum"].tolist() == pytest.approx(expected.tolist(), rel=1e-5)
    assert opened.about["n_tokens"] == train.shape[0] * train.shape[1]


def test_what_was_found_is_kept_for_this_sae_model_and_text_alone(
    foreign: Foreign, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []
    real = tables.make_tables
    monkeypatch.setattr(tables, "make_tables", lambda *given: (made.append(given[5]), real(*given)))
    first = foreign.open().open("sae").store.table
    assert foreign.open().open("sae").store.table.equals(first)
    assert len(made) == 1
    (tmp_path / "other.txt").write_text(TEXT * 2 + "The end of it all is another one. " * 9)
    for other in (replace(foreign, site="blocks.0.hook_resid_post"), replace(foreign, text=tmp_path / "other.txt")):
        other.open()
    assert len({path.parent.parent for path in made}) == len(made) == 3
    (made[0] / "features.parquet").write_bytes(b"damaged")
    assert foreign.open().open("sae").store.table.equals(first)
    assert made[3:] == made[:1]


REFUSED: dict[str, tuple[dict[str, str], str]] = {
    "no folder": ({"source": "absent"}, "no folder; give the folder of an SAE"),
    "no SAE": ({"source": "empty"}, "holds no SAE"),
    "a folder of SAEs": ({"source": "."}, "give one of the folders in it: sae, silent, wide"),
    "a pickle": ({"source": "pickled"}, "ae.pt is a pickle"),
    "another width": ({"source": "wide"}, "width 48, but at blocks.1.hook_resid_post they have 32"),
    "no origin": ({"source": "silent"}, "does not say what it was trained on; give --model"),
    "an unknown site": ({"site": "blocks.1.hook_resid"}, r"layers 0 to 2 and hooks hook_resid_pre, .*attn.hook_z"),
    "a layer that is not there": ({"site": "blocks.3.hook_resid_pre"}, "layers 0 to 2"),
    "no model": ({"model": "./absent"}, "model folder './absent' does not exist"),
    "no text": ({"text": "absent.txt"}, "absent.txt' does not exist"),
    "too little text": ({"text": "short.txt"}, "short.txt' holds less text than one block of 64 tokens"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_in_one_sentence(foreign: Foreign, folder: Path, case: str) -> None:
    changes, told = REFUSED[case]
    paths = {key: str(folder / value) if key in ("source", "text") else value for key, value in changes.items()}
    bad = replace(foreign, **({**paths, "text": Path(paths["text"])} if "text" in paths else paths))  # type: ignore[arg-type]
    with pytest.raises((ArtifactError, InputError, SettingError), match=told) as refused:
        bad.names(), bad.open()
    assert "\n" not in str(refused.value)
    assert not foreign.cache.exists()


# --- a release, the Hub replaced by a folder -------------------------------------------------------------------------

RELEASE, SAE_ID = "gpt2-small-res-jb", "blocks.1.hook_resid_pre"
REPOSITORY = "jbloom/GPT2-Small-SAEs-Reformatted"
Hub = Callable[..., str]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What `REPOSITORY` holds, in the format of its time."""
    root = tmp_path / "hub"
    (root / SAE_ID).mkdir(parents=True)
    sae = random_sae("standard")
    save_file({k: v.contiguous() for k, v in sae.state_dict().items()}, root / SAE_ID / "sae_weights.safetensors")
    cfg = {"d_in": 32, "d_sae": 64, "dtype": "torch.float32", "model_name": "gpt2-small", "hook_point": SAE_ID}
    (root / SAE_ID / "cfg.json").write_text(json.dumps(cfg))

    def fetch(repo_id: str, filename: str, **_: Any) -> str:
        assert repo_id == REPOSITORY
        if not (root / filename).is_file():
            raise LocalEntryNotFoundError("offline")
        return str(root / filename)

    monkeypatch.setattr(pretrained_sae_loaders, "hf_hub_download", fetch)
    return root


@pytest.mark.filterwarnings(r"ignore:\s*This SAE has non-empty")  # SAELens' advice: here it is followed
def test_a_release_opens_and_its_centred_encoder_reads_the_model_as_it_is(
    foreign: Foreign, folder: Path, hub: Path
) -> None:
    release = replace(foreign, source=RELEASE, sae_id=SAE_ID, model=str(folder / "model"))
    (name,) = release.names()
    opened = release.open().open(name)
    assert (name, opened.site.name) == (f"{RELEASE}-{SAE_ID}", SAE_ID)
    x = torch.randn(20, 32) + 3
    theirs = saes.load(RELEASE, SAE_ID)
    torch.testing.assert_close(opened.sae.encode(x), theirs.encode(x - x.mean(-1, keepdim=True)), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(opened.sae.encode(x), theirs.encode(x), atol=1e-2)


def test_a_release_that_is_not_at_hand_names_its_repository(foreign: Foreign, hub: Path) -> None:
    (hub / SAE_ID / "cfg.json").unlink()
    with pytest.raises(InputError, match=f"Hub repository '{REPOSITORY}' is not in the cache"):
        replace(foreign, source=RELEASE, sae_id=SAE_ID).open()
    with pytest.raises(InputError, match=r"is no folder; .*--release with --sae-id"):
        replace(foreign, source=RELEASE).names()


# --- the process -----------------------------------------------------------------------------------------------------


def test_the_page_of_a_folder(foreign: Foreign, browser: Any, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    arguments = ["--sae", foreign.source, "--text", str(foreign.text), "--cache", str(foreign.cache)]
    with serving(arguments, tmp_path / "log") as address:
        page = browser.new_page()
        page.goto(f"{address}/?tab=explore&prompt=the+fox+sang")
        expect(page.locator("#badges")).to_contain_text("sae, 64 features", timeout=60_000)
        expect(page.locator("#badges")).to_contain_text("L0 4")
        expect(page.locator("#badges .warning")).to_contain_text("explains little of this model here")
        expect(page.locator("#strip .strip")).to_contain_text("the fox sang", timeout=60_000)
        page.close()
    assert list(foreign.cache.glob("*/features/sae/manifest.json"))


def test_what_turns_out_wrong_once_the_page_is_up_ends_it(foreign: Foreign, folder: Path) -> None:
    command = [sys.executable, "-m", "demo", "--sae", str(folder / "wide"), f"--port={free_port()}"]
    ended = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2
    assert "The page is on" in ended.stdout
    assert "width 48" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr


def test_options_that_do_not_go_together_are_refused(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    for arguments in (["--site", SITE], ["--sae", "a", "--release", "b"]):
        with pytest.raises(SystemExit):
            main(arguments)
    assert main(["--sae", str(folder / "empty")]) == 2
    assert "holds no SAE" in capsys.readouterr().err.splitlines()[-1]


def test_the_page_is_up_before_saelens_is_imported() -> None:
    code = "import sys, demo.__main__, demo.app, demo.launch; sys.exit('sae_lens' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO).returncode == 0


def test_progress_is_told_in_words() -> None:
    assert progress.now().share is None
    with tqdm(total=200, desc="features", file=open("/dev/null", "w")) as bar:  # noqa: PTH123
        bar.update(80)
        assert progress.now() == Progress("Looking for where features fire", 0.4)
        assert "Looking for where features fire … 40%" in opening(progress.now())
    assert progress.now().what == progress.OTHERWISE
    assert "<b>" not in opening(Progress("<b>"))


def test_a_click_while_the_page_opens_is_answered_at_once() -> None:
    import gradio as gr

    with gr.Blocks():
        page = Page(["sae"], Future())
    with pytest.raises(Refused, match="still being opened"):
        page.open("sae")
