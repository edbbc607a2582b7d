"""The Hub of the tests answers as the Hub does: its own clients read it, and raise what they raise there."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.hub import environment, hub

CLIENTS = """
import json, sys
from datasets import load_dataset
from huggingface_hub import HfApi, hf_hub_download, list_repo_files, snapshot_download
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError

def text(*place, **options):
    with open(hf_hub_download(*place, **options)) as file:
        return file.read()

def error(*place, **options):
    try:
        return text(*place, **options)
    except (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError) as problem:
        return type(problem).__name__

sha = HfApi().model_info("me/model").sha
print(json.dumps({
    "main": text("me/model", "config.json"),
    "branch": text("me/model", "config.json", revision="v2"),
    "commit": text("me/model", "config.json", revision=sha),
    "short": text("short", "config.json"),
    "files": list_repo_files("me/model"),
    "snapshot": open(snapshot_download("me/model") + "/part/weights.bin").read(),
    "rows": load_dataset("me/text", split="train")["text"][:],
    "streamed": [row["text"] for row in load_dataset("me/text", split="train", streaming=True)],
    "gated": error("me/closed", "config.json"),
    "gated_with_token": error("me/closed", "config.json", token="hf_x"),
    "no repository": error("me/absent", "config.json"),
    "no revision": error("me/model", "config.json", revision="v3"),
    "no file": error("me/model", "absent.json"),
}))
"""


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    for name, text in {"me/model": "one", "me/model@v2": "two", "short": "three", "me/closed": "four"}.items():
        (folder / name / "part").mkdir(parents=True)
        (folder / name / "config.json").write_text(text)
        (folder / name / "part/weights.bin").write_text("0123456789")
    (folder / "datasets/me/text/data").mkdir(parents=True)
    table = pd.DataFrame({"text": ["a fox", "sings"]})
    table.to_parquet(folder / "datasets/me/text/data/train-00000-of-00001.parquet")
    return folder


def test_its_own_clients_read_it(repositories: Path, tmp_path: Path) -> None:
    with hub(repositories, gated={"me/closed"}) as endpoint:
        done = subprocess.run(
            [sys.executable, "-c", CLIENTS], env=environment(endpoint, tmp_path), capture_output=True, text=True
        )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "main": "one",
        "branch": "two",
        "commit": "one",
        "short": "three",
        "files": ["config.json", "part/weights.bin"],
        "snapshot": "0123456789",
        "rows": ["a fox", "sings"],
        "streamed": ["a fox", "sings"],
        "gated": "GatedRepoError",
        "gated_with_token": "GatedRepoError",
        "no repository": "RepositoryNotFoundError",
        "no revision": "RevisionNotFoundError",
        "no file": "RemoteEntryNotFoundError",
    }


@pytest.mark.parametrize(
    ("range_", "status", "content"),
    [("bytes=2-4", 206, b"234"), ("bytes=7-", 206, b"789"), ("bytes=-2", 206, b"89"), ("bytes=4-99", 206, b"456789"),
     ("bytes=10-", 416, b""), ("", 200, b"0123456789")],
)  # fmt: skip
def test_parts_of_a_file(repositories: Path, range_: str, status: int, content: bytes) -> None:
    with hub(repositories) as endpoint:
        connection = http.client.HTTPConnection(endpoint.removeprefix("http://"), timeout=10)
        connection.request("GET", "/me/model/resolve/main/part/weights.bin", headers={"Range": range_})
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (status, content)
        connection.close()
