"""Data sets of the Hub: streamed at their revision; what is not there is told in a sentence, also without a network."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.conftest import REPO
from tests.hub import environment, hub

READ = """
import json, sys, time
from sae_tools.common.errors import InputError
from sae_tools.common.settings import Dataset
from sae_tools.models.reading import read_documents

for line in sys.stdin:
    start = time.monotonic()
    try:
        answer = list(read_documents(Dataset(**json.loads(line))))
    except InputError as error:
        answer = str(error)
    print(json.dumps([answer, time.monotonic() - start]), flush=True)
"""
CONFIGS = """---
configs:
- config_name: en
  data_files: en.jsonl
- config_name: de
  data_files: de.jsonl
---
"""
Read = Callable[..., tuple[Any, float]]


def reader(endpoint: str, home: Path, **more: str) -> Iterator[Read]:
    """What a process says of a data set whose Hub is at `endpoint`, and in how many seconds."""
    process = subprocess.Popen(
        [sys.executable, "-c", READ], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        cwd=REPO, env=environment(endpoint, home) | more, text=True,
    )  # fmt: skip
    assert process.stdin
    assert process.stdout

    def read(path: str, **values: Any) -> tuple[Any, float]:
        assert process.stdin
        assert process.stdout
        process.stdin.write(json.dumps({"path": path, "n_tokens": 0, "held_out_tokens": 0} | values) + "\n")
        process.stdin.flush()
        answer, seconds = json.loads(process.stdout.readline())
        return answer, seconds

    with process:
        yield read
        process.stdin.close()


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Read]:
    root = tmp_path_factory.mktemp("hub")

    def write(name: str, texts: list[str]) -> None:
        path = root / "datasets/owner" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame({"text": texts, "other": 1}).to_parquet(path)

    write("plain/data/train-0.parquet", [f"text {i}" for i in range(50)])
    write("plain/data/train-1.parquet", [f"text {i}" for i in range(50, 100)])
    write("plain/data/test-0.parquet", ["test"])
    write("plain@v2/train.parquet", ["of v2"])
    write("gated/train.parquet", ["secret"])
    write("script/script.py", [])
    for language in ("en", "de"):
        path = root / f"datasets/owner/configs/{language}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"text": language}))
    path.with_name("README.md").write_text(CONFIGS)
    damaged = root / "datasets/owner/damaged/train.parquet"
    damaged.parent.mkdir()
    damaged.write_bytes(b"PAR1 and nothing more")
    with hub(root, gated=["owner/gated"]) as endpoint:
        yield from reader(endpoint, tmp_path_factory.mktemp("home"))


def test_a_data_set_is_streamed_at_its_split_revision_and_configuration(read: Read) -> None:
    assert read("owner/plain")[0] == [f"text {i}" for i in range(100)]
    assert read("owner/plain", split="test")[0] == ["test"]
    assert read("owner/plain", revision="v2")[0] == ["of v2"]
    assert read("owner/configs", config="de")[0] == ["de"]


def test_a_stream_is_shuffled_by_the_seed(read: Read) -> None:
    drawn, seconds = read("owner/plain", shuffle_buffer=10)
    assert sorted(drawn) == sorted(f"text {i}" for i in range(100))
    assert drawn != [f"text {i}" for i in range(100)]
    assert read("owner/plain", shuffle_buffer=10)[0] == drawn
    assert read("owner/plain", shuffle_buffer=10, seed=1)[0] != drawn
    assert seconds < 4  # `datasets` would wait for 5 with several files at a time


@pytest.mark.parametrize(
    ("path", "values", "says"),
    [
        ("owner/none", {}, "'owner/none' is neither a file or folder here nor on the Hub, or it is private; check"),
        ("owner/plain", {"revision": "v3"}, "'owner/plain' at revision 'v3' does not exist on the Hub"),
        ("owner/plain", {"split": "no"}, "Bad split: no. Available splits: ['train', 'test']"),
        ("owner/configs", {"config": "fr"}, "'fr' not found. Available: ['en', 'de']"),
        ("owner/configs", {}, "pick one among the available configs: ['en', 'de']"),
        ("owner/gated", {}, "'owner/gated' is a gated dataset on the Hub"),
        ("owner/plain", {"text_column": "body"}, "no column 'body'; it has: text, other"),
        ("owner/damaged", {}, "'owner/damaged' cannot be read: Parquet magic bytes not found"),
        ("owner/script", {}, "Dataset scripts are no longer supported"),
        ("no id", {}, "'no id' cannot be read: Repo id must"),
    ],
)
def test_what_cannot_be_had_is_told_in_a_sentence(read: Read, path: str, values: dict[str, Any], says: str) -> None:
    answer, seconds = read(path, **values)
    assert says in answer
    assert re.fullmatch(r"dataset '[^\n]*\.", answer)
    assert seconds < 5


@pytest.fixture
def deaf() -> Iterator[str]:
    """An endpoint that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_without_a_network_it_is_refused_soon(tmp_path: Path, deaf: str) -> None:
    for endpoint in ("http://127.0.0.1:9", deaf):
        for read in reader(endpoint, tmp_path):
            answer, seconds = read("owner/plain", revision="v2")
            assert answer.startswith("dataset 'owner/plain' at revision 'v2' cannot be read: the Hub cannot be reached")
            assert seconds < 5


def test_offline_nothing_is_asked_and_no_other_revision_taken(tmp_path: Path) -> None:
    for offline in reader("http://127.0.0.1:9", tmp_path, HF_HUB_OFFLINE="1"):
        assert "Couldn't reach 'owner/plain' on the Hub" in offline("owner/plain")[0]
        assert "at revision 'v2' cannot be read" in offline("owner/plain", revision="v2")[0]
