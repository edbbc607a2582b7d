"""A language model: tokens in, activations at sites out, and text generated with an activation patched.

A plain Hugging Face model with forward hooks. A hook lives only as long as the one forward pass that needs it, so a
model shared by many callers never carries one caller's patch into another's pass. Knows no SAE.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sae_tools.common.errors import InputError, SettingError
from sae_tools.common.settings import Models
from sae_tools.models.hooks import edited
from sae_tools.models.loading import load_model, load_tokenizer
from sae_tools.models.readout import matrix, straight_way
from sae_tools.models.sites import MODULE, Site, family_of, locate

BAR = " ┊ "
"""Stands for a special token where a text is shown."""


@dataclass(frozen=True)
class Patch:
    """Replace the activations at `site`, (batch, context, d), by `edit(acts)`."""

    site: Site
    edit: Callable[[Tensor], Tensor]
    everywhere: bool = False
    """Also at special tokens, which otherwise keep their own: they carry norms far from any other token's."""
    new_tokens_only: bool = False
    """At the last token of each pass alone: of a prompt that whose prediction is the first new token, then each new
    one. A pass over a whole text is taken for one over a prompt."""


class _AllRead(Exception):  # noqa: N818 - leaves a forward pass, no error
    pass


def pick_device(name: str = "auto") -> torch.device:
    """`auto` is the first of cuda, mps and cpu that the machine has.

    Raises:
        InputError: the machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(name)
    absent = device.type == "mps" and not torch.backends.mps.is_available()
    absent |= device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()
    if absent:
        raise InputError(f"device is {name!r}, but this machine does not have it; use auto or cpu.")
    return device


class LanguageModel:
    """A causal language model and its tokenizer, in evaluation mode."""

    def __init__(
        self, model: nn.Module, tokenizer: Any, name: str = "model", device: torch.device | None = None
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.name = name
        self.device = device or next(model.parameters()).device
        """Where ids are taken and activations and logits are given, also of a model that is spread over several."""
        self.family = family_of(self._whole_config.to_dict())
        self._widths: dict[Site, int] = {}
        self._ways: dict[Site, Callable[[Tensor], Tensor]] = {}

    @classmethod
    def load(
        cls, name: str, revision: str | None = None, dtype: str = "float32", device: str = "auto",
        device_map: str | None = None,
    ) -> LanguageModel:  # fmt: skip
        """Load a local folder or a Hub id, safetensors only, or a model of TransformerLens, as `loading` names them.

        Raises:
            InputError: no such model, no weights, no tokenizer, or none that can be run.
        """
        where = pick_device(device)
        tokenizer = load_tokenizer(name, revision)
        model = load_model(name, revision, dtype, device_map)
        return cls(model if device_map else model.to(where), tokenizer, name, where)

    @property
    def config(self) -> Any:
        """The configuration of the part that reads text."""
        return self._whole_config.get_text_config()

    @property
    def _whole_config(self) -> Any:
        return self.model.config

    @property
    def n_layers(self) -> int:
        return int(getattr(self.config, "num_hidden_layers", 0))

    @property
    def d_vocab(self) -> int:
        return int(self.unembedding.shape[0])

    @property
    def context_size(self) -> int:
        """The longest sequence that the model was built for."""
        return int(getattr(self.config, "max_position_embeddings", None) or 2**31 - 1)

    @property
    def unembedding(self) -> Tensor:
        """(d_vocab, d_model)"""
        return matrix(self.model.get_output_embeddings())  # type: ignore[operator]

    @property
    def special_ids(self) -> list[int]:
        """Ids of tokens that stand for no text: begin, end, padding."""
        return sorted(set(self.tokenizer.all_special_ids))

    def site(self, name: str) -> Site:
        """The site called `name` in this model.

        Raises:
            SettingError: there is none, or no activation for each token is found there.
        """
        modules = {path for path, _ in self.model.named_modules()}
        site = locate(name, self._whole_config.to_dict(), self.n_layers, modules)
        if site.kind == MODULE:
            self.width(site)
        return site

    def width(self, site: Site) -> int:
        """Size of one activation at `site`, as one token has it."""
        if site not in self._widths:
            self._widths[site] = int(self.activations(self._few_ids()[:, :1], [site])[site.name].shape[-1])
        return self._widths[site]

    def tokens(self, text: str) -> Tensor:
        """(1, n) ids of `text`, after the begin-of-sequence token where the tokenizer has one."""
        ids = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        begin = [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]
        return torch.tensor([[*begin, *ids]], dtype=torch.long, device=self.device)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The text of each token, as the function `pieces`."""
        return pieces(self.tokenizer, ids)

    def is_text(self, ids: Tensor) -> Tensor:
        """Boolean mask, shaped as `ids`: true where a token is not a special one."""
        return ~torch.isin(ids, torch.tensor(self.special_ids, device=ids.device, dtype=ids.dtype))

    @torch.no_grad()
    def activations(self, ids: Tensor, sites: Sequence[Site]) -> dict[str, Tensor]:
        """Activations (batch, context, d) at each site of (batch, context) ids; the pass ends at the deepest site."""
        found: dict[str, Tensor] = {}

        def keep(site: Site) -> Callable[[Tensor], Tensor]:
            def look(acts: Tensor) -> Tensor:
                found[site.name] = acts
                if len(found) == len(sites):
                    raise _AllRead
                return acts.clone()  # Falcon adds to what its MLP gives in place

            return look

        with ExitStack() as hooks:
            for site in sites:
                hooks.enter_context(self._edited(site, keep(site), ids))
            with suppress(_AllRead):
                self.model(ids.to(self.device), use_cache=False)
        if absent := [site.name for site in sites if site.name not in found]:
            raise SettingError(f"site {absent[0]!r} takes no part in a pass over text; name another module.")
        return found

    @torch.no_grad()
    def logits(self, ids: Tensor, patch: Patch | None = None) -> Tensor:
        """(batch, context, d_vocab) next-token logits, patched if asked."""
        return self.forward(ids, patch)[0]

    @torch.no_grad()
    def generate(
        self, ids: Tensor, max_new_tokens: int, temperature: float = 1.0, seed: int = 0, patch: Patch | None = None
    ) -> Iterator[int]:
        """Sample one token after another from (1, n) ids, until an end token, the limit or the model's context.

        Temperature 0 takes the most likely token. Equal seeds use equal random numbers, so that two runs differ
        only where their probabilities do.
        """
        generator = torch.Generator().manual_seed(seed)
        cache, step = None, ids
        for _ in range(min(max_new_tokens, self.context_size - ids.shape[1])):
            logits, cache = self.forward(step, patch, cache)
            token = int(pick(logits[0, -1], temperature, noise(self.d_vocab, generator)))
            if token == self.tokenizer.eos_token_id:
                return
            yield token
            step = torch.tensor([[token]], device=self.device)

    def forward(self, ids: Tensor, patch: Patch | None, cache: Any = None) -> tuple[Tensor, Any]:
        """Logits as `logits`, going on from what a cache holds, and the cache with these ids in it."""
        ids = ids.to(self.device)
        with ExitStack() as hooks:
            if patch is not None:
                where = torch.ones_like(ids, dtype=torch.bool) if patch.everywhere else self.is_text(ids)
                if patch.new_tokens_only:
                    where[:, :-1] = False
                masked = partial(_where, where, patch.edit)
                hooks.enter_context(self._edited(patch.site, masked, ids))
            out = self.model(ids, past_key_values=cache, use_cache=True)
        return out.logits.to(self.device), out.past_key_values

    @torch.no_grad()
    def logit_effects(self, site: Site, directions: Tensor) -> Tensor:
        """(n, d_vocab) direct effect on the logits of adding each of (n, d) directions at `site`, as in `readout`.

        Raises:
            InputError: the site is not seen to have one.
        """
        if site not in self._ways:
            self._ways[site] = straight_way(
                self.model, site, self.family, lambda: self.model(self._few_ids(), use_cache=False)
            )
        unembedding = self.unembedding
        arriving = self._ways[site](directions.to(self.device, unembedding.dtype))
        return (arriving.to(unembedding.device) @ unembedding.T).to(self.device)

    def no_logit_effects(self, site: Site) -> str:
        """Why a site has no `logit_effects`, in a sentence; nothing if it has them."""
        try:
            self.logit_effects(site, torch.zeros(1, self.width(site)))
        except InputError as error:
            return str(error)
        return ""

    def _few_ids(self) -> Tensor:
        return torch.arange(min(4, self.d_vocab), device=self.device)[None]

    @contextmanager
    def _edited(self, site: Site, edit: Callable[[Tensor], Tensor], ids: Tensor) -> Iterator[None]:
        """Pass the (batch, context, d) activations of a pass over `ids`, on this model's device, through `edit`."""

        def on_acts(acts: Tensor) -> Tensor:
            flat = acts.ndim == 2 and len(acts) == ids.numel()  # OPT lays the rows of a batch end to end
            rows = acts.reshape(*ids.shape, -1) if flat else acts
            if rows.ndim != 3 or rows.shape[:2] != ids.shape or not rows.is_floating_point():
                raise SettingError(
                    f"site {site.name!r} holds {acts.dtype} of shape {tuple(acts.shape)} for {tuple(ids.shape)} "
                    "tokens, but an activation for each token is expected; name another module."
                )
            return edit(rows.to(self.device)).to(acts.device).reshape(acts.shape)

        with edited(self.model.get_submodule(site.path), site.side, on_acts):
            yield


def _where(mask: Tensor, edit: Callable[[Tensor], Tensor], acts: Tensor) -> Tensor:
    return torch.where(mask[..., None], edit(acts), acts)


def load_base(models: Models) -> LanguageModel:
    """The base model that the settings name."""
    return LanguageModel.load(models.base, models.revision, models.dtype, models.device, models.device_map)


def load_finetuned(models: Models) -> LanguageModel:
    """The finetuned model that the settings name."""
    assert models.finetuned is not None
    return LanguageModel.load(
        models.finetuned, models.finetuned_revision, models.dtype, models.device, models.device_map
    )


def pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text of each token, such that all joined are the decoded text.

    A character spread over several byte tokens stands at its last one; the ones before are empty.
    """
    found: list[str] = []
    done = ""
    for end in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:end], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        whole = end == len(ids) or not text.endswith("\ufffd")
        found.append(text[len(done) :] if whole else "")
        done = text if whole else done
    return found


def shown_pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """As `pieces`, a bar for each special token."""
    special = set(tokenizer.all_special_ids)
    found = zip(ids, pieces(tokenizer, ids), strict=True)
    return [BAR if token in special else piece for token, piece in found]


def noise(d_vocab: int, generator: torch.Generator) -> Tensor:
    """(d_vocab,) exponentially distributed numbers: what one `pick` needs of chance."""
    return torch.empty(d_vocab).exponential_(generator=generator)


def pick(logits: Tensor, temperature: float, chance: Tensor) -> Tensor:
    """(...) tokens sampled from (..., d_vocab) logits by (..., d_vocab) `noise`; temperature 0 takes the likeliest.

    argmax p_t / e_t is t with probability p_t, as `torch.multinomial` draws too: equal noise means equal luck.
    """
    if temperature == 0:
        return logits.argmax(dim=-1).cpu()
    return (torch.softmax(logits.float().cpu() / temperature, dim=-1) / chance).argmax(dim=-1)
