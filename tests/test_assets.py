"""How the embedded models and texts are made: what is trained on, what is held out, what is counted."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from assets import make
from assets.make import CONTEXT, average, batch_at, make_model, make_tokenizer, save
from assets.muon import orthogonal
from assets.texts import contains, ngrams, training_texts, unknown_words


def story(number: int) -> str:
    return " ".join(f"word{(number * 7919 + i * i * 31) % 9973}" for i in range(60)).translate(
        str.maketrans("0123456789", "abcdefghij")
    )


def write(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def test_held_out_documents_and_near_copies_of_them_are_never_trained_on(tmp_path: Path) -> None:
    first = [story(i) for i in range(40)]
    near = first[19].replace("word", "WORD", 1) + " and then some more words"
    cut = " ".join(first[39].split()[20:])
    others = [story(i) for i in range(100, 120)]
    more = [others[0], first[19], near, cut, *others[1:]]
    paths = [write(tmp_path / "a.jsonl", first), write(tmp_path / "b.jsonl", more)]
    fit, held_out = training_texts(paths)
    assert held_out == [first[19], first[39]]
    assert fit == [*first[:19], *first[20:39], *others]


def test_half_of_the_windows_begin_where_a_story_begins_and_all_are_taken_once_an_epoch() -> None:
    begins = torch.arange(0, 60_000, 300)
    stream = torch.arange(1, 60_001)
    stream[begins[1:] - 1] = 0  # the end token before each story but the first
    batches = [batch_at(stream, step, 8, 0) for step in range(46)]
    assert all(batch.shape == (8, CONTEXT) and (batch[:, 0] == 0).all() for batch in batches)
    starts = torch.stack([batch[:, 1] for batch in batches])
    inside = len(begins) - 1  # the last begins too near the end
    at_begin = starts[:, :4].flatten()[: (inside // 4) * 4]
    assert torch.isin(at_begin - 1, begins).all()
    assert len(at_begin.unique()) == len(at_begin)
    assert not torch.isin(starts[:, 4:].flatten() - 1, begins).all()
    assert torch.equal(batch_at(stream, 17, 8, 0), batches[17])


def test_muon_s_step_is_near_orthogonal() -> None:
    for shape in ((24, 60), (60, 24), (32, 32)):
        matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        left, _, right = torch.linalg.svd(matrix, full_matrices=False)
        found = orthogonal(matrix)
        values = torch.linalg.svdvals(found)
        assert 0.5 < values.min() < values.max() < 1.3
        assert torch.nn.functional.cosine_similarity(found.flatten(), (left @ right).flatten(), dim=0) > 0.95


def test_a_word_that_training_never_saw_is_unknown_whatever_its_case() -> None:
    assert unknown_words(["The cat, the withackingggling cat!", "Sat."], ["the Cat sat"]) == pytest.approx(1 / 6)
    assert unknown_words([], ["a"]) == 0


def test_a_run_of_50_tokens_is_found_and_one_of_49_is_not() -> None:
    known = np.unique(ngrams(np.arange(1000), 50))
    assert contains(known, ngrams(np.arange(500, 550), 50))
    assert not contains(known, ngrams(np.arange(500, 549), 50))
    assert not contains(known, ngrams(np.arange(550, 500, -1), 50))


def test_an_average_of_checkpoints_is_the_mean_of_their_weights(tmp_path: Path) -> None:
    tokenizer = make_tokenizer([story(1)])
    folders = [tmp_path / "a", tmp_path / "b", tmp_path / "mean"]
    for value, folder in zip((1.0, 2.0), folders, strict=False):
        model = make_model()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(value)
        save(model, tokenizer, folder)
    average(argparse.Namespace(models=folders[:2], out=folders[2]))
    weights = load_file(folders[2] / "model.safetensors")
    assert weights
    assert all(bool((weight == 1.5).all()) for weight in weights.values())


def test_each_sample_is_whole_and_begins_as_a_training_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(make, "CONTEXT", 100)
    monkeypatch.setattr(make, "VOCAB", 300)  # so that a random model comes upon the end token
    texts = [story(i) for i in range(40)]
    tokenizer = make_tokenizer(texts)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=100, **sizes))
    save(model, tokenizer, tmp_path / "model")
    args = argparse.Namespace(
        model=tmp_path / "model", text=[write(tmp_path / "a.jsonl", texts)], out=tmp_path / "out.parquet",
        temperature=1.0, top_p=1.0, tokens=2_000, seed=0,
    )  # fmt: skip
    make.sample(args)
    report = json.loads(capsys.readouterr().out)
    kept = pd.read_parquet(args.out)["text"].tolist()
    assert report["documents"] == len(kept)
    assert report["documents"] + report["dropped_unfinished"] == 256 * len(list(tmp_path.glob("build/**/part-*.json")))
    training = {text[:6] for i, text in enumerate(texts, 1) if i % 20}
    assert {text[:6] for text in kept} <= training
    assert not any(tokenizer.bos_token in text for text in kept)
