"""Labels from people, Delphi and Neuronpedia, in the forms in which these write them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from sae_tools.analysis.imported import MOST_CHARACTERS, PERSON, Label, read_labels
from sae_tools.common.errors import InputError


def explanation(index: object, text: str, **more: object) -> dict[str, object]:
    return {"modelId": "gpt2-small", "layer": "2-res", "index": index, "description": text, **more}


def test_a_person_s_table(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text('\ufefffeature,label,score\n3,"red, blue",0.5\n0,<b>\n  bold</b>,\n1,,\n'.replace("<b>\n", "<b>"))
    assert read_labels(path, 4) == {3: Label("red, blue", PERSON, 0.5), 0: Label("<b> bold</b>", PERSON)}


def test_neuronpedia_s_export(tmp_path: Path) -> None:
    rows = [explanation("7", "colours", explanationModelName="gpt-4o-mini", typeName="oai"), explanation(2, "numbers")]
    path = tmp_path / "batch-0.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    expected = {7: Label("colours", "gpt-4o-mini"), 2: Label("numbers", "Neuronpedia")}
    assert read_labels(path, 8) == expected
    (tmp_path / "list.json").write_text(json.dumps(rows))
    assert read_labels(tmp_path / "list.json", 8) == expected
    (tmp_path / "one.json").write_text(json.dumps({"index": "7", "explanations": [{"description": "colours"}]}))
    assert read_labels(tmp_path / "one.json", 8) == {7: Label("colours", "Neuronpedia")}


def test_delphi_s_folder_with_its_scores(tmp_path: Path) -> None:
    for name in ("explanations", "scores/detection"):
        (tmp_path / name).mkdir(parents=True)
    for latent in (5, 12):
        (tmp_path / f"explanations/layers.2_latent{latent}.txt").write_text(json.dumps(f"about {latent}"))
    answers = [(True, True), (True, True), (True, False), (False, True), (False, False), (True, None)]
    rows = [{"activating": truth, "prediction": said, "correct": truth == said} for truth, said in answers]
    (tmp_path / "scores/detection/layers.2_latent12.txt").write_text(json.dumps(rows))
    assert read_labels(tmp_path, 13) == {5: Label("about 5", "Delphi"), 12: Label("about 12", "Delphi", 2 / 3)}


def test_of_several_files_a_person_s_label_stays(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"1": "a model's", "layers.2_latent2": "its own"}))
    (tmp_path / "b.csv").write_text("feature,label\n1,a person's\n")
    (tmp_path / "c.csv").write_text("feature,label,source\n1,again,Ada\n2,again,Ada\n")
    (tmp_path / "notes.txt").write_text("no label")
    assert read_labels(tmp_path, 3) == {1: Label("a person's", PERSON), 2: Label("its own", "a")}


def test_a_label_is_one_line_of_bounded_length(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"0": "a\nb\t" + "c" * 10_000}))
    text = read_labels(tmp_path / "a.json", 1)[0].text
    assert text.startswith("a b ccc")
    assert len(text) == MOST_CHARACTERS


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "latent,label\n0,x\n", "no column 'feature'; they have: latent, label"),
        ("a.csv", "feature,name\n0,x\n", "no column 'label'"),
        ("a.csv", "", "no column 'feature'; they have: none"),
        ("a.csv", "feature,label\n0,x\n4,y\n", "line 3: feature is 4, but the SAE has features 0 to 3"),
        ("a.csv", "feature,label\nred,x\n", "line 2: feature is 'red'"),
        ("a.csv", "feature,label\n-1,x\n", "feature is '-1'"),
        ("a.csv", "feature,label\n1.5,x\n", "feature is '1.5'"),
        ("a.csv", "feature,label\n1\n", "label is None"),
        ("a.csv", "feature,label,score\n1,x,2\n", "score is '2', but a number from 0 to 1"),
        ("a.csv", "feature,label,score\n1,x,high\n", "score is 'high'"),
        ("a.json", "{", "cannot be read"),
        ("a.json", "3", "it holds int"),
        ("a.json", '{"1": 2}', "label is 2"),
        ("a.json", "[1]", "row 1 has no index"),
        ("a.jsonl", '{"index": true, "description": "x"}', "feature is True"),
        ("a.jsonl.gz", "no gzip", "cannot be read"),
        ("a.xlsx", "", "of no known kind"),
        ("latent3.txt", "no JSON", "feature is 'latent3'"),
        ("x_latent3.txt", "no JSON", "cannot be read"),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_sentence(tmp_path: Path, name: str, content: str, words: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError) as refused:
        read_labels(tmp_path / name, 4)
    assert words in str(refused.value)
    assert str(refused.value).endswith(".")
    assert "\n" not in str(refused.value)


def test_a_folder_without_labels_and_a_path_to_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="hold no file of a known kind"):
        read_labels(tmp_path, 4)
    with pytest.raises(InputError, match="do not exist"):
        read_labels(tmp_path / "none", 4)
