"""Pairs are read from every format, and what is no pair is refused with its line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sae_tools.analysis.pairs import Pair, read_pairs
from sae_tools.common.errors import InputError
from tests.conftest import DATA

TWO = [Pair("a happy, old dog", "a sad dog"), Pair('he said "yes"', "no\nand no")]
ROWS = [{"positive": pair.positive, "negative": pair.negative} for pair in TWO]
CSV = '"a happy, old dog",a sad dog\n"he said ""yes""","no\nand no"\n'


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(json.dumps(row) for row in ROWS),
        "\n\n".join(json.dumps(row | {"note": "x"}) for row in ROWS) + "\n",
        "\ufeff" + "\r\n".join(json.dumps(row) for row in ROWS),
        json.dumps(ROWS, indent=2),
        CSV,
        "\n\n" + CSV,
        "Positive, negative\n" + CSV,
        'negative,positive\na sad dog,"a happy, old dog"\n"no\nand no","he said ""yes"""',
    ],
    ids=["lines", "blank lines", "windows", "list", "csv", "csv blank", "header", "swapped"],
)
def test_every_format_gives_the_same_pairs(text: str, tmp_path: Path) -> None:
    assert read_pairs(text) == TWO
    file = tmp_path / "pairs"
    file.write_bytes(text.encode())
    assert [pair.positive for pair in read_pairs(file)] == [pair.positive for pair in TWO]


def test_a_caa_entry_is_two_texts_of_one_question() -> None:
    entry = {"question": " Why?\n", "answer_matching_behavior": " (A)", "answer_not_matching_behavior": "(B)"}
    expected = [Pair("Input: Why?\nResponse: (A)", "Input: Why?\nResponse: (B)")]
    assert read_pairs(json.dumps([entry])) == expected
    assert read_pairs(json.dumps(entry)) == expected


@pytest.mark.skipif(not (DATA / "caa").is_dir(), reason="no CAA data beside the checkout")
@pytest.mark.parametrize("behaviour", ["refusal", "sycophancy"])
def test_the_published_caa_sets_are_read(behaviour: str) -> None:
    path = DATA / "caa" / behaviour / "generate_dataset.json"
    pairs = read_pairs(path)
    assert len(pairs) == len(json.loads(path.read_text()))
    assert all(pair.positive[:-2] == pair.negative[:-2] for pair in pairs)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no pair of texts was given"),
        (" \n", "no pair of texts was given"),
        ("[]", "no pair of texts was given"),
        ("positive,negative\n", "no pair of texts was given"),
        ("a,b\nc", "line 2 has 1 columns, but two texts are expected"),
        ("a,b\n\nc, d, e", "line 3 has 3 columns"),
        ("a,b\nc,", "line 2: the negative text is ''"),
        ("a,b\n ,d", "line 2: the positive text is"),
        ('{"positive": "a", "negative": "b"}\n{"positive": "a"}', "line 2: the negative text is None"),
        ('{"positive": "a", "negative": 3}', "line 1: the negative text is 3"),
        ('{"positive": "a", "negative": "b"}\n\n{"positive"', "line 3 is not a JSON object"),
        ('[{"positive": "a", "negative": "b"}, "c"]', "entry 2 is not a JSON object"),
        ('[{"positive": "a", "negative": " "}]', "entry 1: the negative text is ' '"),
        ('[{"question": "a", "answer_matching_behavior": "(A)"}]', "entry 1: the negative text is None"),
        ("[{", "the list of pairs is not JSON"),
        ("[" * 50_000, "the list of pairs is not JSON"),
        ('{"a":' * 50_000, "line 1 is not a JSON object"),
        (r'{"positive": "a", "negative": "\ud800"}', "line 1: the negative text holds half of a surrogate pair"),
    ],
)
def test_what_is_no_pair_is_refused_with_its_place(text: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        read_pairs(text)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be read: No such file"):
        read_pairs(tmp_path / "none.jsonl")
    (tmp_path / "latin.csv").write_bytes(b"caf\xe9,tea")
    with pytest.raises(InputError, match="cannot be read: not text in UTF-8"):
        read_pairs(tmp_path / "latin.csv")
