"""What the page answers, as named endpoints for programs: `gradio_client`, and tools of an MCP server.

The limits and refusals are the page's own; a refusal arrives as an error whose message is the sentence.
"""
# Gradio reads the annotations and the docstrings of the endpoints: they are what a client sees. It does so without
# resolving text, so annotations are not postponed here.

import functools
import logging
import math
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import gradio as gr
import numpy as np
import pandas as pd

from demo import cards, limits
from demo.limits import Refused
from demo.page import TURNS, Page
from demo.reading import NEXT, read
from demo.steering.ask import Ask
from demo.steering.pushes import checked
from demo.writing import write
from demo.zerogpu import on_gpu
from sae_tools.analysis.search import MATCH, Wanted, Where, spellings
from sae_tools.analysis.steering import steer
from sae_tools.common.errors import WorkbenchError
from sae_tools.models.lm import shown_pieces

if TYPE_CHECKING:
    from demo.workbench import Opened

log = logging.getLogger(__name__)

MOST_LISTED = 200
MODELS = ("base", "finetuned")
Listed = list[dict[str, Any]]


class Api:
    """The endpoints, over the SAEs of a page; an `sae` left empty is the first of them."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def wire(self) -> None:
        """Register every endpoint under its own name; call it inside the page's `gr.Blocks`."""
        endpoints: tuple[tuple[Callable[..., Any], str], ...] = (
            (self.features, "read"), (self.feature, "tables"), (self.steer, "write"), (self.search, "tables"),
            (self.next_tokens, "read"),
        )  # fmt: skip
        for endpoint, group in endpoints:
            told = _told(endpoint) if group == "tables" else on_gpu(_told(endpoint))
            gr.api(told, api_name=endpoint.__name__, concurrency_limit=TURNS[group], concurrency_id=group)

    def features(self, text: str, count: int = 20, sae: str = "") -> Listed:
        """The features that fire on a text, each at its strongest token, the strongest first.

        Args:
            text: at most 2,000 characters and 256 tokens are read
            count: how many features, at most 200
            sae: name of the SAE; empty is the one that explains most

        Returns:
            A list of {id, label, value, token (its text), position (its place in the text)}.
        """
        opened, prompt = self._open(sae), limits.prompt(text)
        most = limits.whole(count, "count", 1, MOST_LISTED)
        reading = read(opened, prompt)
        return [
            {
                "id": found.feature, "label": str(opened.store.table.at[found.feature, "label"]), "value": found.value,
                "token": reading.pieces[found.token], "position": found.token,
            }
            for found in reading.firings()[:most]
        ]  # fmt: skip

    def feature(self, feature: int, sae: str = "") -> dict[str, Any]:
        """Everything known of one feature: label, how often and how strongly it fires, on what, what it promotes.

        Args:
            feature: its id
            sae: name of the SAE; empty is the one that explains most

        Returns:
            The columns of the features' table, correlation (with itself in the finetuned model), and examples.
        """
        opened = self._open(sae)
        which = limits.feature(feature, opened.d_sae)
        known = {name: _plain(value) for name, value in opened.row(which).items()}
        examples = [
            {
                "band": each.band, "activation": each.activation, "position": each.position,
                "tokens": shown_pieces(opened.base.tokenizer, each.ids), "values": each.values,
            }
            for each in opened.store.examples(which)
        ]  # fmt: skip
        return {"id": which, **known, "correlation": cards.correlated(opened, which), "examples": examples}

    def steer(
        self, prompt: str, pushes: Listed, new_tokens: int = 60, temperature: float = 0.7, seed: int = 0,
        model: Literal["base", "finetuned"] = "base", sae: str = "",
    ) -> dict[str, str]:  # fmt: skip
        """Continue a prompt twice from one seed: as the model is, and with features pushed.

        Args:
            prompt: the text to go on from
            pushes: at most 5 of {feature: id, mode: add, clamp or ablate, strength: -1 to 1; 0.4 is a firm push}
            new_tokens: 1 to 128
            temperature: 0 to 2; 0 takes the likeliest token
            seed: equal seeds give equal texts
            model: base or finetuned
            sae: name of the SAE; empty is the one that explains most

        Returns:
            {default, steered, over: why they ended early, if they did}; the texts without the prompt.
        """
        opened, ask = self._open(sae), Ask.checked(prompt, new_tokens, temperature, seed)
        change = checked(opened, _triples(pushes))
        if limits.choice(model, "model", MODELS) == "finetuned" and not opened.has_finetuned:
            raise Refused("This SAE was made without a finetuned model.")
        lm = opened.base if model == "base" else opened.finetuned
        patch = steer(opened.sae, lm.site(opened.about["site"]), change, opened.unit)
        texts = write(opened, lm, ask.prompt, patch, ask.new_tokens, ask.temperature, ask.seed)
        written = deque(texts, maxlen=1).pop()
        return {"default": written.default, "steered": written.steered, "over": written.over}

    def search(self, q: str = "", token: str = "", count: int = 20, sae: str = "") -> Listed:
        """Features that mean something: by their label, and by the words they fire on or make likelier.

        Args:
            q: words of the label, or that the feature fires on or makes likelier
            token: a word that the feature fires on, or that it makes likelier where it fires
            count: how many features, at most 200
            sae: name of the SAE; empty is the one that explains most

        Returns:
            A list of {id, label, density, maximum, match}, the best match first.
        """
        opened, most = self._open(sae), limits.whole(count, "count", 1, MOST_LISTED)
        if q == token == "":
            raise Refused("Nothing to search for: give q, token or both.")
        words, word = (
            "" if value == "" else limits.text(value, what, limits.MAX_CHARACTERS)
            for what, value in (("q", q), ("token", token))
        )
        found = self._found(opened, words, "anywhere").add(
            self._found(opened, word, "fires").add(self._found(opened, word, "promotes"), fill_value=0)
        )
        best = found.dropna().sort_values(ascending=False, kind="stable").head(most)
        table = opened.store.table.loc[best.index, ["label", "density", "maximum"]].assign(match=best)
        return [{"id": int(i)} | {name: _plain(value) for name, value in row.items()} for i, row in table.iterrows()]

    def _found(self, opened: "Opened", text: str, where: Where) -> pd.Series:
        """How well each feature that is found matches; an empty text matches all that are alive."""
        return opened.finder.find(Wanted(text, where), lambda word: spellings(opened.base.tokenizer, word))[MATCH]

    def next_tokens(self, text: str, count: int = NEXT, sae: str = "") -> dict[str, Listed]:
        """The likeliest tokens after a text: of the model as it is, and on what the SAE makes of its activations.

        Args:
            text: at most 2,000 characters and 256 tokens are read
            count: how many tokens, at most 10
            sae: name of the SAE; empty is the one that explains most

        Returns:
            {model: [{token, probability}], sae: [{token, probability}]}, the likeliest first.
        """
        opened, prompt = self._open(sae), limits.prompt(text)
        following, most = read(opened, prompt).following, limits.whole(count, "count", 1, NEXT)
        return {
            way: [
                {"token": str(piece), "probability": float(probability)}
                for piece, probability in following.nlargest(most, way)[["token", way]].itertuples(index=False)
            ]
            for way in ("model", "sae")
        }

    def _open(self, name: object) -> "Opened":
        return self.page.open(self.page.names[0] if name in ("", None) else name)


def _told(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """`endpoint`, its refusals as errors that a client can read; a fault's reason goes to the server's log alone."""

    @functools.wraps(endpoint)
    def answer(*values: object) -> Any:
        try:
            return endpoint(*values)
        except Refused as refused:
            raise gr.Error(str(refused), print_exception=False) from None
        except WorkbenchError as error:
            log.error("%s", error)
            message = "The model or its features could not be opened. The reason is in the server's log."
            raise gr.Error(message, print_exception=False) from None

    return answer


def _triples(pushes: object) -> object:
    """[feature, mode, strength] of objects with these names; all else as it is, to be refused."""
    if not isinstance(pushes, list):
        return pushes
    return [
        [push.get("feature"), push.get("mode", "add"), push.get("strength")] if isinstance(push, dict) else push
        for push in pushes
    ]


def _plain(value: object) -> Any:
    """A cell of a table as JSON holds it; what is no number is None."""
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
