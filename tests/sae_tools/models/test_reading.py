"""The documents of files of every kind, and files that cannot be read."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
import torch

from sae_tools.common.errors import InputError
from sae_tools.common.settings import Dataset
from sae_tools.models.reading import PIECE, check_readable, read_documents


def settings(path: Path | str, **values: Any) -> Dataset:
    return Dataset(path=str(path), **{"n_tokens": 0, "held_out_tokens": 0, **values})


TEXTS = ["one fox", "two\nlines, a comma and “quotes”", "שלום 👨‍👩‍👧", "last"]


def json_lines(column: str = "text") -> str:
    return "".join(json.dumps({column: text, "other": 1}) + "\n" for text in TEXTS)


def write_parquet(path: Path) -> None:
    pd.DataFrame({"other": 1, "text": TEXTS}).to_parquet(path)


def write_csv(path: Path) -> None:
    pd.DataFrame({"other": 1, "text": TEXTS}).to_csv(path, index=False)


def compressed(write: Callable[[Path], object], compress: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    def apply(path: Path) -> None:
        plain = path.with_suffix("")
        write(plain)
        path.write_bytes(compress(plain.read_bytes()))
        plain.unlink()

    return apply


def zstd(data: bytes) -> bytes:
    return bytes(pa.compress(data, "zstd", asbytes=True))


COMPRESS: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".zst": zstd, ".xz": lzma.compress}
UNCOMPRESSED: dict[str, Callable[[Path], object]] = {
    "x.jsonl": lambda path: path.write_text(json_lines()),
    "x.json": lambda path: path.write_text(json_lines()),
    "x.csv": write_csv,
    "x.parquet": write_parquet,
}
WRITERS = UNCOMPRESSED | {
    name + ending: compressed(write, compress)
    for name, write in UNCOMPRESSED.items()
    if name != "x.parquet"
    for ending, compress in COMPRESS.items()
}


@pytest.mark.parametrize("name", WRITERS)
def test_documents_of_a_file(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    assert list(read_documents(settings(tmp_path / name))) == TEXTS


@pytest.mark.parametrize("ending", ["", *COMPRESS])
def test_a_text_file_is_one_document(tmp_path: Path, ending: str) -> None:
    data = b"line one\n\nline two\n"
    path = tmp_path / f"x.txt{ending}"
    path.write_bytes(COMPRESS[ending](data) if ending else data)
    assert list(read_documents(settings(path))) == [data.decode()]


def test_a_large_text_file_is_read_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("".join(f"line {i}\n" for i in range(300_000)))
    pieces = list(read_documents(settings(path)))
    assert len(pieces) > 2
    assert max(map(len, pieces)) < PIECE + 20
    assert all(piece.endswith("\n") for piece in pieces)
    assert "".join(pieces) == path.read_text()


def test_a_folder_or_glob_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    for name in ("b", "c/a", "a", "d"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.txt").write_text(name)
        (tmp_path / f"{name}.jsonl.gz").write_bytes(gzip.compress(json.dumps({"text": name + "."}).encode()))
    (tmp_path / "README.md").write_text("# no text")
    assert list(read_documents(settings(tmp_path / "**/*.txt"))) == ["a", "b", "c/a", "d"]
    assert list(read_documents(settings(tmp_path / "[ab].jsonl.gz"))) == ["a.", "b."]
    for path in tmp_path.rglob("*.txt"):
        path.unlink()
    assert list(read_documents(settings(tmp_path))) == ["a.", "b.", "c/a.", "d."]
    drawn = list(read_documents(settings(tmp_path, shuffle_buffer=4, seed=3)))
    assert drawn != ["a.", "b.", "c/a.", "d."]
    assert sorted(drawn) == ["a.", "b.", "c/a.", "d."]


def test_files_of_several_kinds_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.csv").write_text("text\na\n")
    with pytest.raises(InputError, match=r"several kinds, such as a.txt and b.csv; give those of one kind: .*/\*.txt"):
        list(read_documents(settings(tmp_path)))


@pytest.mark.parametrize(("path", "says"), [("", "folder .* holds no file of a known kind"), ("*.csv", "not exist")])
def test_nothing_to_read_is_refused(tmp_path: Path, path: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        list(read_documents(settings(tmp_path / path)))


def test_the_first_document_tells_whether_a_data_set_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(json_lines("body"))
    check_readable(settings(path, text_column="body", shuffle_buffer=10))
    with pytest.raises(InputError, match="no column 'text'; it has: body, other"):
        check_readable(settings(path, shuffle_buffer=10))


def test_another_column_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(json_lines("body"))
    assert list(read_documents(settings(path, text_column="body"))) == TEXTS


@pytest.mark.parametrize("name", WRITERS)
def test_a_wrong_column_is_named_with_those_there_are(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    with pytest.raises(InputError, match=r"no column 'body'; it has: .*text"):
        list(read_documents(settings(tmp_path / name, text_column="body")))


def cut_short(path: Path) -> None:
    # Random letters, so that the second half is missed.
    data = "".join(json.dumps({"text": str(torch.rand(20).tolist())}) + "\n" for _ in range(300))
    path.write_bytes(gzip.compress(data.encode())[:-5000])


UNUSABLE: dict[str, Callable[[Path], object]] = {
    "empty.jsonl": Path.touch,
    "empty.txt": Path.touch,
    "empty.parquet": Path.touch,
    "half.jsonl": lambda path: path.write_text('{"text": "a"}\n{"text": "b'),
    "no_json.jsonl": lambda path: path.write_text("this is no json\n"),
    "binary.parquet": lambda path: path.write_bytes(bytes(range(256)) * 4),
    "no_gzip.jsonl.gz": lambda path: path.write_text(json_lines()),
    "cut.jsonl.gz": cut_short,
    "no_zstd.jsonl.zst": lambda path: path.write_text(json_lines()),
    "cut.jsonl.zst": lambda path: path.write_bytes(zstd(json_lines().encode() * 99)[:-40]),
    "no_xz.txt.xz": lambda path: path.write_text("text"),
    "cut.txt.xz": lambda path: path.write_bytes(lzma.compress(b"text" * 99)[:-20]),
    "latin.txt": lambda path: path.write_bytes(b"caf\xe9 " * 10),
    "kind.parquet.gz": lambda path: path.write_text("a"),
    "kind.docx": lambda path: path.write_text("a"),
    "kind.jsonl.bz2": lambda path: path.write_bytes(bz2.compress(json_lines().encode())),
    "a_folder.jsonl": Path.mkdir,
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_an_unusable_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    UNUSABLE[name](path)
    with pytest.raises(InputError) as error:
        list(read_documents(settings(path)))
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["absent.jsonl", "absent.jsonl.gz", "absent/deep.parquet"])
def test_an_absent_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"does not exist; .* Hub id"):
        list(read_documents(settings(tmp_path / name)))
