"""`python -m demo.space --repo-id`, as its user runs it, to a Hub that stands in for the real one."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import markdown_it
import pytest
import torch
import yaml

from demo.publishing import repository
from sae_tools import saes
from sae_tools.common.artifacts import new_folder
from tests.conftest import REPO
from tests.demo.test_space import project
from tests.hub import environment, serving
from tests.hub_writes import WritableHub

HOSTILE = "a|b *c* <img src=x onerror=alert(1)> [d](javascript:e) `f`\n# g"
ME: dict[str, Any] = {"type": "user", "name": "me", "orgs": [{"name": "lab", "roleInOrg": "read"}]}
ACCOUNTS = {
    "writes": ME | {"auth": {"accessToken": {"role": "write"}}},
    "reads": ME | {"auth": {"accessToken": {"role": "read"}}},
}


def sae(seed: int) -> Any:
    metadata = {"model_name": "assets/tiny", "hook_name": "blocks.1.hook_resid_post", "dataset_path": HOSTILE}
    return saes.build("topk", 8, 16, {"k": 4}, metadata, seed, "cpu")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project with SAEs that open: two seeds of `topk`, `other`, and `taken`, which was not trained here."""
    root = project(tmp_path / "project")
    for name, recipe in (("topk", {"architecture": "topk", "k": 4, "seeds": 2}), ("other", {"k": 8}), ("taken", {})):
        with new_folder(root / "artifacts/saes" / name, {"recipe": recipe}) as folder:
            saes.save(sae(0), folder)
            if name == "topk":
                saes.save(sae(1), folder / "seed-1")
        about = {"base": {"name": "assets/tiny"}, "finetuned": {"name": "someone/tuned"}}
        with new_folder(root / "artifacts/features" / name, about) as folder:
            (folder / "features.parquet").write_bytes(name.encode())
    for stage, figures in (("evaluation", {"l0": 4.0, "explained_variance": 0.5, "dead_share": 0.125}),
                           ("transfer", {"base_text": {"base": {"l0": 4.0}, "finetuned": {"l0": 3.25}}})):  # fmt: skip
        folder = root / "artifacts" / stage / "topk"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "figures.json").write_text(json.dumps(figures))
        (folder / "verdict.json").write_text(json.dumps([f"{stage} says {HOSTILE}"]))
    return root


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[WritableHub]:
    (tmp_path / "hub").mkdir()
    server = WritableHub(tmp_path / "hub", ACCOUNTS)
    with serving(server):
        yield server


class Publish:
    """Runs the command in a project against a Hub."""

    def __init__(self, root: Path, hub: WritableHub) -> None:
        self.root = root
        self.environment = environment(f"http://127.0.0.1:{hub.server_port}", root.parent / "home")

    def start(self, *arguments: str, token: str | None = "writes", **more: str) -> subprocess.Popen[str]:
        with_token = {} if token is None else {"HF_TOKEN": token}
        return subprocess.Popen(
            [sys.executable, "-m", "demo.space", *arguments], cwd=self.root, env=self.environment | with_token | more,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __call__(self, *arguments: str, **more: Any) -> tuple[int, str, str]:
        process = self.start(*arguments, **more)
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err


@pytest.fixture
def publish(root: Path, hub: WritableHub) -> Publish:
    return Publish(root, hub)


def held(folder: Path) -> dict[str, bytes]:
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: content for name, content in files.items() if name != ".gitattributes"}


def same(hub: WritableHub, root: Path) -> None:
    """The Hub holds what was built, file by file."""
    for kind, built in (("model", "saes"), ("space", "space")):
        assert held(hub.repository(kind, "me/saes")) == held(root / "build" / built)


def test_published_updated_and_read_back(publish: Publish, hub: WritableHub, root: Path) -> None:
    code, out, err = publish("--repo-id", "me/saes")
    assert code == 0, err
    address = f"http://127.0.0.1:{hub.server_port}"
    assert out.splitlines() == [f"{address}/me/saes", f"{address}/spaces/me/saes"]
    same(hub, root)
    model = held(hub.repository("model", "me/saes"))
    assert set(model) == {"README.md", *(f"{folder}/{file}" for folder in ("topk", "topk/seed-1", "other")
                                         for file in ("cfg.json", "sae_weights.safetensors"))}  # fmt: skip
    assert "artifacts/saes/taken/cfg.json" in held(hub.repository("space", "me/saes"))
    assert not hub.private
    read_back(publish.environment, model["README.md"].decode())

    assert publish("--repo-id", "me/saes")[0] == 0
    assert len(hub.commits) == 2  # nothing changed: nothing is committed

    with new_folder(root / "artifacts/saes/topk", {"recipe": {"k": 4}}) as folder:
        saes.save(sae(2), folder)  # and no second seed
    (root / "demo/plots.py").unlink()
    hub.uploads.clear()
    code, _, err = publish("--repo-id", "me/saes", "--private")
    assert code == 0, err
    same(hub, root)
    (_, in_model), (_, in_space) = hub.commits[2:]
    gone = {"topk/seed-1/cfg.json", "topk/seed-1/sae_weights.safetensors"}
    assert {path for key, path in in_model if key == "deletedFile"} == gone
    assert {path for key, path in in_model if key != "deletedFile"} == {"README.md", "topk/sae_weights.safetensors"}
    assert ("deletedFile", "demo/plots.py") in in_space
    assert len(hub.uploads) == 1
    assert hub.private == {"model me/saes", "space me/saes"}


def read_back(environment: dict[str, str], card: str) -> None:
    """SAELens, this project as params.yaml would have it, and the card's own example open what was published."""
    (example,), (params,) = (re.findall(rf"```{kind}\n(.*?)```", card, re.DOTALL) for kind in ("python", "yaml"))
    assert yaml.safe_load(params) == {"saes": {"topk": {"release": "me/saes", "sae_id": "topk"}}}
    ask = (
        "import json, sys\nfrom sae_tools import saes\n"
        "exec(sys.argv[1])\nassert features.shape == (1, 16)\n"
        "opened = [sae, saes.load('me/saes', 'topk'), saes.load('me/saes', 'topk/seed-1')]\n"
        "print(json.dumps([each(torch.ones(8)).tolist() for each in opened]))"
    )
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ask, example], cwd=REPO, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    first, second = (sae(seed).eval()(torch.ones(8)).tolist() for seed in (0, 1))
    for rebuilt, expected in zip(json.loads(found.stdout), (first, first, second), strict=True):
        assert rebuilt == pytest.approx(expected, abs=1e-6)


def test_killed_and_run_again_sends_nothing_twice(publish: Publish, hub: WritableHub, root: Path) -> None:
    process = publish.start("--repo-id", "me/saes")
    hub.received = lambda n: os.kill(process.pid, signal.SIGKILL) if n == 1 else None
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    sent = [*hub.uploads]
    assert sent
    assert not hub.commits
    code, _, err = publish("--repo-id", "me/saes")
    assert code == 0, err
    same(hub, root)
    assert len(hub.commits) == 2
    assert not set(sent) & set(hub.uploads[len(sent) :])


@pytest.mark.parametrize(("arguments", "more", "sentence"), [
    (["me"], {}, "--repo-id is 'me', but OWNER/NAME is expected"),
    (["me/a b"], {}, "--repo-id is 'me/a b', but OWNER/NAME is expected"),
    (["me/saes"], {"token": None}, "Nobody is signed in to the Hub: run `hf auth login`"),
    (["me/saes"], {"token": "forged"}, "The Hub refuses your token"),
    (["me/saes"], {"token": "reads"}, "The token of me only reads"),
    (["lab/saes"], {}, "me may not write to 'lab' on the Hub; give an id that begins with one of: me."),
    (["me/saes"], {"HF_ENDPOINT": "http://127.0.0.1:9"}, "The Hub cannot be reached at http://127.0.0.1:9"),
    (["me/saes", "--license", "My Own"], {}, 'Invalid metadata in README.md. - "license" must be one of'),
])  # fmt: skip
def test_refused_in_one_sentence_before_anything_is_sent(
    publish: Publish, hub: WritableHub, arguments: list[str], more: dict[str, Any], sentence: str
) -> None:
    code, out, err = publish("--repo-id", *arguments, **more)
    assert (code, out) == (2, "")
    assert sentence in err.splitlines()[-1]
    assert "Traceback" not in err
    assert not hub.uploads
    assert not hub.commits


def test_no_right_to_spaces_is_told_before_anything_is_sent(publish: Publish, hub: WritableHub) -> None:
    hub.no_space_for = {"me"}
    code, _, err = publish("--repo-id", "me/saes")
    assert code == 2
    assert "The Space 'me/saes' cannot be written: You need a paid plan to create Gradio Spaces." in err
    assert not hub.uploads
    assert not hub.commits


def test_what_was_not_made_here_is_never_replaced(publish: Publish, hub: WritableHub) -> None:
    theirs = hub.repository("model", "me/saes")
    theirs.mkdir(parents=True)
    (theirs / "model.safetensors").write_text("years of work")
    code, _, err = publish("--repo-id", "me/saes")
    assert code == 2
    assert "The model repository 'me/saes' was not made by this command: it holds 'model.safetensors'" in err
    assert not hub.commits
    (theirs / "README.md").write_text("---\ntags: [sae-workbench]\nlicense: mit\n---\n")
    assert publish("--repo-id", "me/saes")[0] == 0
    assert not (hub.repository("model", "me/saes") / "model.safetensors").exists()


def test_the_card_tells_what_is_known_and_what_users_wrote_is_text(root: Path) -> None:
    repository.build(root, root / "built", ["topk", "other"], "me/saes", "mit")
    card = (root / "built/README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == "saelens"
    assert front["license"] == "mit"
    assert "sae-workbench" in front["tags"]
    assert not {"base_model", "datasets"} & set(front)  # neither is on the Hub
    for row in ("| k | 4 |", "| L0 | 4.00 |", "| Explained variance | 0.500 |", "| Dead | 12% |",
                "|  | base model on base text | finetuned model on base text |", "| L0 | 4.00 | 3.25 |"):  # fmt: skip
        assert row in card, row
    assert re.search(r"Not on the Hub, but in \[the Space's files\]\(.*\): assets/tiny\.", card)
    page = markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table").render(card.split("---", 2)[2])
    for sentence in ("evaluation says ", "transfer says ", "<td>"):
        assert f"{sentence}a|b *c* &lt;img src=x onerror=alert(1)&gt; [d](javascript:e) `f` # g" in page


@pytest.mark.parametrize("name", ["EleutherAI/pythia-70m", "gpt2"])
def test_models_and_texts_on_the_hub_are_linked(root: Path, name: str) -> None:
    path = root / "artifacts/saes/topk/cfg.json"
    config = json.loads(path.read_text())
    config["metadata"] |= {"model_name": name, "dataset_path": "NeelNanda/pile-10k"}
    path.write_text(json.dumps(config))
    repository.build(root, root / "built", ["topk"], "me/saes", "mit")
    front = yaml.safe_load((root / "built/README.md").read_text().split("---")[1])
    assert front["base_model"] == [name]
    assert front["datasets"] == ["NeelNanda/pile-10k"]
