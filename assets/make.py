"""Make the embedded default from raw text: a tiny language model, its finetune, and text sampled from each.

    python -m assets.make train  --text stories.jsonl.gz more.jsonl.gz --out assets/stories
    python -m assets.make train  --text plays.txt --init assets/stories --out assets/shakespeare --steps 300
    python -m assets.make sample --model assets/stories --text stories.jsonl.gz more.jsonl.gz --tokens 1250000 \
        --out assets/stories.parquet

Texts are `.jsonl`, `.jsonl.gz` (one `{"text": …}` a line) or `.txt` (one document). `train` resumes by itself
after any kill; `sample` keeps its finished batches. `train` compiles the step, which needs a C++ compiler. Nothing here
is used at run time by the workbench.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from assets.muon import Muon
from assets.texts import contains, ngrams, pieces, read_texts, split, training_texts, unknown_words
from sae_tools.common.precision import product_dtype
from sae_tools.training import memory

BOS = "<|endoftext|>"  # begins every window and ends every document
CONTEXT = 256
VOCAB = 4096
OPENING = 4  # tokens of a training document that a sampled one begins with


def documents(paths: list[Path]) -> tuple[list[str], list[str]]:
    """Training and held-out documents; plays are trained on in pieces that a context holds whole."""
    texts, held_out = training_texts(paths)
    if paths[0].suffix == ".txt":
        texts = [piece.strip() for text in texts for piece in pieces(text, 500)]
    return texts, held_out


def make_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE of `VOCAB` tokens: any text encodes, no unknown token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=[BOS], initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=BOS, model_max_length=CONTEXT)


def make_model() -> LlamaForCausalLM:
    """A Llama of 4.2M parameters, a quarter of them in the (tied) embedding."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB, hidden_size=256, intermediate_size=688, num_hidden_layers=4, num_attention_heads=8,
            max_position_embeddings=CONTEXT, tie_word_embeddings=True, bos_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> list[np.ndarray]:
    """The ids of each document."""
    return [np.array(ids) for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]]


def token_stream(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> torch.Tensor:
    """All documents' ids in one row, `BOS` after each."""
    return torch.tensor([t for ids in encode(tokenizer, texts) for t in (*ids, 0)])


def shuffled(starts: torch.Tensor, first: int, n: int, seed: int) -> torch.Tensor:
    """(n,) of `starts`, from the `first` on in an endless order that takes each once an epoch."""
    out: list[torch.Tensor] = []
    while n:
        epoch, i = divmod(first, len(starts))
        order = torch.randperm(len(starts), generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
        out.append(starts[order[i : i + n]])
        first, n = first + len(out[-1]), n - len(out[-1])
    return torch.cat(out)


def batch_at(stream: torch.Tensor, step: int, batch: int, seed: int) -> torch.Tensor:
    """(batch, CONTEXT) ids of one step, a pure function of the step; each row is `BOS` and a window of the stream.

    Half of the windows begin where a document begins, the others anywhere (windows side by side, shifted each epoch).
    """
    begins = torch.cat([torch.zeros(1, dtype=torch.long), (stream == 0).nonzero()[:, 0] + 1])
    begins = begins[begins <= len(stream) - CONTEXT]
    half = batch // 2
    anywhere = torch.arange(0, len(stream) - 2 * CONTEXT, CONTEXT - 1)
    epoch = step * (batch - half) // len(anywhere)
    shift = int(torch.randint(CONTEXT - 1, (1,), generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch)))
    starts = torch.cat([
        shuffled(begins, step * half, half, seed + 1),
        shuffled(anywhere, step * (batch - half), batch - half, seed) + shift,
    ])  # fmt: skip
    rows = stream[starts[:, None] + torch.arange(CONTEXT - 1)]
    return torch.cat([torch.zeros(len(rows), 1, dtype=torch.long), rows], dim=1)


def make_optimizers(model: LlamaForCausalLM, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for the embedding and the norms.

    The strong decay is for several epochs of a small text: with 0.05, documents that were trained on scored 0.8 nats
    a token below held-out ones.
    """
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        Muon(matrices, lr=2 * lr, weight_decay=0.3),
        torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def train(args: argparse.Namespace) -> None:
    """Train (or finetune from `--init`) and write a Hugging Face checkpoint; prints its bits per byte."""
    torch.manual_seed(args.seed)
    texts, held_out = documents(args.text)
    if args.init:
        tokenizer = AutoTokenizer.from_pretrained(args.init)
        model = LlamaForCausalLM.from_pretrained(args.init, dtype=torch.float32)
    else:
        tokenizer = make_tokenizer(texts)
        model = make_model()
    stream = token_stream(tokenizer, texts)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(stream):,} training tokens")
    fit(model, stream, args)
    save(model, tokenizer, args.out)
    print(json.dumps({"tokens": args.steps * args.batch * CONTEXT, **score(args.out, held_out)}))


def fit(model: LlamaForCausalLM, stream: torch.Tensor, args: argparse.Namespace) -> None:
    """The training loop; goes on from the last state saved under build/, if there is one."""
    optimizers = make_optimizers(model, args.lr)
    share = lambda step: min((step + 1) / args.warmup, 1 - step / args.steps)  # noqa: E731 - warm-up, then decay
    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, share) for optimizer in optimizers]
    numbered = {f"opt{i}": o for i, o in enumerate(optimizers)} | {f"lr{i}": s for i, s in enumerate(schedules)}
    parts = {"model": model, **numbered}
    state = Path("build/assets") / args.out.name / "state.pt"
    first = resume(state, parts)
    model.train()
    per_step = args.batch * CONTEXT
    dtype = product_dtype("auto", torch.device("cpu"))

    @torch.compile
    def loss_of(ids: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            logits = model(ids[:, :-1], use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())

    with tqdm(
        total=args.steps * per_step, initial=first * per_step, unit="tok", unit_scale=True, mininterval=10
    ) as bar:
        for step in range(first, args.steps):
            ids = batch_at(stream, step, args.batch, args.seed)
            loss = loss_of(ids)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for part in (*optimizers, *schedules):
                part.step()
            model.zero_grad()
            bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
            bar.update(per_step)
            if (step + 1) % 50 == 0:
                checkpoint(state, parts, step + 1)


def average(args: argparse.Namespace) -> None:
    """Write the mean of the weights of checkpoints, each trained on from the one before.

    Wortsman et al. 2022, "Model soups", https://arxiv.org/abs/2203.05482.
    """
    trained = [LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32) for folder in args.models]
    with torch.no_grad():
        for parameter, *others in zip(*(model.parameters() for model in trained), strict=True):
            parameter.copy_(torch.stack([parameter, *others]).mean(0))
    save(trained[0], AutoTokenizer.from_pretrained(args.models[0]), args.out)


def checkpoint(path: Path, parts: dict, step: int) -> None:
    """Write the whole training state beside the old one, then rename over it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"step": step, **{k: p.state_dict() for k, p in parts.items()}}, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def resume(path: Path, parts: dict) -> int:
    """Load the last training state into `parts`, if there is one, and return its step."""
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return int(state["step"])


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """A checkpoint folder in bfloat16 (8.4 MB), without the files that nothing reads."""
    shutil.rmtree(out, ignore_errors=True)
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)


@torch.no_grad()
def score(folder: Path, texts: list[str]) -> dict[str, float]:
    """Nats a token and bits per byte of documents: `BOS` then the text, in windows that overlap by half.

    Every token but a document's first window's has at least half a context before it.
    bits per byte = total nats / ln 2 / UTF-8 bytes.
    """
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(),
        AutoTokenizer.from_pretrained(folder),
    )
    context, nats, tokens = min(model.config.max_position_embeddings, 512), 0.0, 0
    for text in tqdm(texts, desc="score", mininterval=5):
        ids = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]]
        done = 1
        while done < len(ids):
            start = 0 if done == 1 else max(0, done - context // 2)
            window = torch.tensor([ids[start : start + context]])
            loss = torch.nn.functional.cross_entropy(model(window).logits[0, :-1], window[0, 1:], reduction="none")
            nats += loss[done - start - 1 :].sum().item()
            tokens += len(ids[done : start + context])
            done = start + context
    return {"nats_per_token": nats / tokens, "bits_per_byte": nats / math.log(2) / sum(len(t.encode()) for t in texts)}


@torch.no_grad()
def generate(model: LlamaForCausalLM, openings: torch.Tensor, args: argparse.Namespace, part: int) -> list[list[int]]:
    """Sample 256 documents, each from `BOS` and one of `openings` up to the next `BOS` or a full context."""
    torch.manual_seed(args.seed + part)
    opening = openings[torch.randint(len(openings), (256,))]
    prompt = torch.cat([torch.zeros(256, 1, dtype=torch.long), opening], dim=1)
    with memory.kept():  # the cache grows by a copy a token: a third less time
        ids = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=True,
            temperature=args.temperature, top_k=0, top_p=args.top_p, max_length=CONTEXT, pad_token_id=0,
        )  # fmt: skip
    return [row[1:].tolist() for row in ids]


def sample(args: argparse.Namespace) -> None:
    """Write sampled documents to a parquet file: whole ones, up to the end token, that repeat no training text.

    Each begins with the first `OPENING` tokens of a training document drawn at random: half of the training windows put
    `BOS` before the middle of a document, so that from `BOS` alone a third of the samples begin there.
    Dropped are those that did not end within a context, and those with 50 tokens in a row from the training text.
    """
    dtype = product_dtype("auto", torch.device("cpu"))
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    every = [text for path in args.text for text in read_texts(path)]
    known = np.unique(np.concatenate([ngrams(ids, 50) for ids in encode(tokenizer, every)]))
    training = encode(tokenizer, documents(args.text)[0])
    openings = torch.tensor(np.stack([ids[:OPENING] for ids in training if len(ids) >= OPENING]))
    scratch = Path("build/assets") / args.out.stem
    scratch.mkdir(parents=True, exist_ok=True)
    kept: list[list[int]] = []
    unfinished = verbatim = part = 0
    with tqdm(total=args.tokens, unit="tok", unit_scale=True, mininterval=5) as bar:
        while sum(map(len, kept)) < args.tokens:
            file = scratch / f"part-{part:05d}.json"
            if not file.exists():
                file.with_suffix(".tmp").write_text(json.dumps(generate(model, openings, args, part)))
                file.with_suffix(".tmp").replace(file)
            for row in json.loads(file.read_text()):
                if 0 not in row:
                    unfinished += 1
                elif contains(known, ngrams(np.array(row[: row.index(0)]), 50)):
                    verbatim += 1
                else:
                    kept.append(row[: row.index(0)])
                    bar.update(row.index(0))
            part += 1
    texts = tokenizer.batch_decode(kept)
    pd.DataFrame({"text": texts}).to_parquet(args.out, compression="zstd", index=False)
    counts = Counter(np.concatenate([ngrams(np.array(doc), 20) for doc in kept]).tolist())
    report = {
        "documents": len(kept),
        "tokens": sum(map(len, kept)),
        "dropped_unfinished": unfinished,
        "dropped_verbatim": verbatim,
        "duplicate_20grams": sum(c for c in counts.values() if c > 1) / max(sum(counts.values()), 1),
        "unknown_words": unknown_words(texts, every),
    }
    print(json.dumps(report))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    p = commands.add_parser("train", help="train a model from text, or finetune one")
    p.add_argument("--text", type=Path, nargs="+", required=True, help="the first is split, the others only train")
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--init", type=Path, help="checkpoint to finetune; its tokenizer is kept")
    p.add_argument("--steps", type=int, default=2000)
    p.add_argument("--batch", type=int, default=16)
    p.add_argument("--lr", type=float, default=2e-3)
    p.add_argument("--warmup", type=int, default=100)
    p.add_argument("--seed", type=int, default=0)
    p.set_defaults(run=train)
    p = commands.add_parser("average", help="the mean of the weights of several checkpoints of one training run")
    p.add_argument("--models", type=Path, nargs="+", required=True)
    p.add_argument("--out", type=Path, required=True)
    p.set_defaults(run=average)
    p = commands.add_parser("sample", help="sample documents from a model into a parquet file")
    p.add_argument("--model", type=Path, required=True)
    p.add_argument("--text", type=Path, nargs="+", required=True, help="what the model was trained on")
    p.add_argument("--temperature", type=float, default=1.0)
    p.add_argument("--top-p", type=float, default=1.0)
    p.add_argument("--tokens", type=int, required=True)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--seed", type=int, default=0)
    p.set_defaults(run=sample)
    p = commands.add_parser("score", help="bits per byte on the held-out part of a text")
    p.add_argument("--model", type=Path, required=True)
    p.add_argument("--text", type=Path, required=True)
    p.set_defaults(run=lambda a: print(json.dumps(score(a.model, split(read_texts(a.text))[1]))))
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
