"""A base model and its finetune: whether they can share tokens and an SAE."""

from __future__ import annotations

import logging
from typing import Any

from sae_tools.common.errors import InputError
from sae_tools.common.settings import Dataset
from sae_tools.models.corpus import Tokens, tokenize
from sae_tools.models.lm import LanguageModel
from sae_tools.models.sites import Site

logger = logging.getLogger(__name__)
LEAST_AGREEMENT = 0.99
"""Share of equal tokens below which ids mean other things to the two models."""


def compare_tokenizers(base: dict[str, int], finetuned: dict[str, int]) -> dict[str, float]:
    """Two vocabularies {token: id}: sizes, tokens in one only, shared tokens with different ids, and the agreement.

    agreement, agreement_finetuned: share of that vocabulary's tokens that the other has at the same id.
    """
    shared = base.keys() & finetuned.keys()
    moved = sum(base[token] != finetuned[token] for token in shared)
    same = len(shared) - moved
    return {
        "size_base": len(base),
        "size_finetuned": len(finetuned),
        "only_base": len(base) - len(shared),
        "only_finetuned": len(finetuned) - len(shared),
        "moved": moved,
        "agreement": same / len(base),
        "agreement_finetuned": same / len(finetuned),
    }


def own_tokens(dataset: Dataset, tokenizer: Any, finetuned: str, d_vocab: int) -> Tokens:
    """A finetuned model's own text by its own tokenizer, as far as a base model of `d_vocab` tokens can read it.

    Blocks that hold a token added by finetuning are left out; how many is logged.

    Raises:
        InputError: as `corpus.tokenize`, or no block is left.
    """
    found = tokenize(dataset, tokenizer)
    train, held_out = ((blocks < d_vocab).all(dim=1) for blocks in (found.train, found.held_out))
    mask = None if found.train_mask is None else found.train_mask[train]
    kept = Tokens(found.train[train], found.held_out[held_out], mask)
    n, n_kept = (len(tokens.train) + len(tokens.held_out) for tokens in (found, kept))
    if not len(kept.held_out):
        raise InputError(
            f"every held-out block of {dataset.path!r} holds a token that {finetuned!r} has and its base model lacks; "
            "give a text without them, such as one without a chat template."
        )
    if n_kept < n:
        logger.warning(
            "%d of %d blocks of %s hold tokens that the base model lacks: left out", n - n_kept, n, dataset.path
        )
    return kept


def check_pair(
    base: LanguageModel, finetuned: LanguageModel, site: Site, least: float = LEAST_AGREEMENT
) -> dict[str, float]:
    """Refuse two models that can't share an SAE or tokens; returns the comparison of their tokenizers.

    And `added_rows`: rows of the finetune's unembedding that the base model does not have; they are left out.

    Raises:
        InputError: they differ in family, depth or width, or fewer than `least` of the token ids mean the same.
    """
    kinds = [(lm.config.model_type, lm.n_layers) for lm in (base, finetuned)]
    if kinds[0] != kinds[1]:
        raise InputError(
            f"{finetuned.name!r} is a {kinds[1][0]} of {kinds[1][1]} layers, but {base.name!r} is a {kinds[0][0]} of "
            f"{kinds[0][1]}; give a finetune of the base model."
        )
    if base.width(site) != finetuned.width(site):
        raise InputError(
            f"{finetuned.name!r} has activations of width {finetuned.width(site)} at {site.name}, "
            f"but {base.name!r} has {base.width(site)}; give a finetune of the base model."
        )
    tokenizers = check_tokenizers(base.name, base.tokenizer, finetuned.name, finetuned.tokenizer, least)
    return tokenizers | {"added_rows": max(0, finetuned.d_vocab - base.d_vocab)}


def check_tokenizers(base: str, mine: Any, finetuned: str, other: Any, least: float) -> dict[str, float]:
    """Compare the tokenizers `mine` and `other` of two models by name.

    Raises:
        InputError: fewer than `least` of the base model's token ids mean the same in the finetuned model.
    """
    found = compare_tokenizers(mine.get_vocab(), other.get_vocab())
    if found["agreement"] < least:
        raise InputError(
            f"only {found['agreement']:.1%} of the token ids of {base!r} mean the same in {finetuned!r}; "
            "give a finetune that keeps the base model's tokenizer, or lower language_model.least_agreement."
        )
    return found
