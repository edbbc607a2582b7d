"""pair: base and finetuned model on equal tokens -> artifacts/pair, rows of both in one order, for adapt and diff.

An empty folder unless the transfer study asks for more than an evaluation: `transfer.own`, `adapt` or `diff`.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pipeline import identity, paths
from pipeline.params import Params, run

if TYPE_CHECKING:
    from torch import Tensor

MODELS = ("base", "finetuned")
HELD_OUT = 32_768
"""Held-out tokens of both texts that are kept, at most."""


def is_wanted(params: Params) -> bool:
    config = params.transfer
    return params.language_model.finetuned is not None and bool(config.own is True or config.adapt or config.diff)


def main(params: Params) -> None:
    from sae_tools.common.artifacts import new_folder

    if not is_wanted(params):
        with new_folder(paths.PAIR):
            return
    from sae_tools.activations.harvest import harvest, n_bytes, summary
    from sae_tools.common.artifacts import commit, require_space, workspace
    from sae_tools.models.corpus import Tokens
    from sae_tools.models.lm import load_base, load_finetuned
    from sae_tools.models.pair import check_pair, own_tokens
    from sae_tools.models.reading import check_readable
    from sae_tools.verify import check

    models, config = params.language_model, params.transfer
    assert models.finetuned is not None
    check(paths.TOKENS)
    if config.dataset is not None:
        check_readable(config.dataset)
    base = load_base(models)
    finetuned = load_finetuned(models)
    site = base.site(params.site)
    check_pair(base, finetuned, site, models.least_agreement)
    texts = [Tokens.load(paths.TOKENS)]
    if config.dataset is not None:
        texts.append(own_tokens(config.dataset, finetuned.tokenizer, finetuned.name, base.d_vocab))
    trained = [text for text in texts if len(text.train)]
    ids = mixed([text.train for text in trained], config.pair_tokens)
    held_out = mixed([text.held_out for text in texts if len(text.held_out)], HELD_OUT)

    def mask(text: Tokens) -> Tensor:
        if text.train_mask is not None:
            return text.train_mask
        first = text.train[: len(ids)]
        return base.is_text(first).cpu() & finetuned.is_text(first).cpu()

    wanted = mixed([mask(text) for text in trained], config.pair_tokens)
    with workspace(paths.PAIR, _identity(params)) as folder:
        require_space(folder, 2 * n_bytes(base, wanted, [site], params.harvest), "activations of both models")
        about: dict[str, Any] = {}
        digests: dict[str, str] = {}
        for which, lm in zip(MODELS, (base, finetuned), strict=True):
            harvest(lm, ids, wanted, [site], params.harvest, folder / which)
            found, hashes = summary(folder / which, [site])
            about |= {f"{which}/{name}": counts for name, counts in found.items()}
            digests |= {f"{which}/{name}": digest for name, digest in hashes.items()}
        (folder / "tokens").mkdir(exist_ok=True)
        Tokens(ids, held_out).save(folder / "tokens")
        commit(folder, paths.PAIR, about, digests)


def _identity(params: Params) -> dict[str, Any]:
    models = params.language_model
    return {
        "models": asdict(models),
        "files": [identity.of_model(name) for name in (models.base, models.finetuned) if name],
        "dataset": asdict(params.transfer.dataset) if params.transfer.dataset else None,
        "pair_tokens": params.transfer.pair_tokens,
        "tokens": identity.of_folder(paths.TOKENS),
        "site": params.site,
        "harvest": asdict(params.harvest),
        "versions": identity.versions(),
    }


def mixed(texts: list[Tensor], n_tokens: int) -> Tensor:
    """(n_blocks, context) blocks of all texts in turn: equally many of each while they last, `n_tokens` at most."""
    import torch

    most = max(1, n_tokens // texts[0].shape[1])
    texts = [text[:most] for text in texts]
    each = min(len(text) for text in texts)
    turns = torch.stack([text[:each] for text in texts], dim=1).flatten(0, 1)
    rest = [text[each:] for text in texts]
    return torch.cat([turns, *rest])[:most]


if __name__ == "__main__":
    run(main, named=False)
