"""An SAE that no pipeline made here: a release of SAELens' or a folder, opened beside a model on a text of one's own.

What the page shows of its features is made once and kept as a small `artifacts/` folder in the cache, whose name is a
digest of all that decides it. Knows no Gradio.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demo.results import Results
from sae_tools.common.artifacts import new_folder, verify, write_json
from sae_tools.common.errors import ArtifactError, InputError
from sae_tools.common.settings import Dataset, Features
from sae_tools.models.sources import check_model, check_sae
from sae_tools.models.texts import check_dataset

if TYPE_CHECKING:
    from torch import Tensor, nn

    from demo.workbench import Workbench
    from sae_tools.models.lm import LanguageModel
    from sae_tools.models.sites import Site

log = logging.getLogger(__name__)

CACHE = Path("~/.cache/sae-workbench")
PLAIN = Path(__file__).parent / "plain.txt"
"""Everyday English on many subjects, written for this project: about 4,000 tokens."""
CONTEXT = 128
N_TOKENS = 65_536
"""Tokens of a text that are read, at most: a minute for a small model on two cores."""
N_GAINED = 256
"""Features whose push is tried: on a model of GPT-2's size each takes a third of a second. None is tried by writing."""
BATCH = 8
"""Blocks in one forward pass: few, so that the page can say how far it is."""
N_FIT = 16_384
"""Tokens on which explained variance and L0 are measured, at most."""
HELD_OUT = 5
"""One block in so many is kept for testing labels."""


@dataclass(frozen=True)
class Foreign:
    source: str
    """A SAELens release, a Hub repository of SAEs, or a local folder."""
    sae_id: str = ""
    model: str = ""
    """Hub id or folder; "": what the SAE says."""
    site: str = ""
    text: Path = PLAIN
    cache: Path = CACHE

    @property
    def name(self) -> str:
        """What the page calls it."""
        folder = Path(self.source)
        first = folder.resolve().name if folder.is_dir() else self.source
        return "-".join(part.replace("/", "-") for part in (first, self.sae_id) if part)

    def names(self) -> list[str]:
        """Its name, after a look at what is on this machine: imports nothing slow.

        Raises:
            WorkbenchError: a folder without an SAE, a text or a model that is not there.
        """
        folder = Path(self.source) / self.sae_id
        if folder.is_dir():
            check_sae(folder)
        elif not self.sae_id:
            raise InputError(f"{self.source!r} is no folder; give the folder of an SAE, or --release with --sae-id.")
        check_dataset(Dataset(str(self.text), n_tokens=0, held_out_tokens=0))
        if not self.text.is_file():
            raise InputError(f"text {str(self.text)!r} is no file; give a .txt, .jsonl or .parquet file.")
        if self.model:
            check_model(self.model)
        return [self.name]

    def open(self) -> Workbench:
        """The SAE beside its model, with tables from the cache or made now.

        Raises:
            WorkbenchError: they cannot be had, or do not belong together.
        """
        from demo.workbench import Workbench

        sae, lm, site = self._load()
        ids = self._ids(lm, sae.cfg.metadata.get("context_size"))
        config = Features(n_tokens=N_TOKENS, batch_size=BATCH, n_gained=N_GAINED, n_calibrated=0)
        kept = self.cache.expanduser() / _digest(sae, lm, site, ids, config)
        if not _is_whole(kept / "features" / self.name):
            self._make(kept, sae, lm, site, ids, config)
        log.info("the tables of %s are kept in %s", self.name, kept)
        return Workbench(Results(kept), {self.name: sae}, [lm])

    def _load(self) -> tuple[Any, LanguageModel, Site]:
        from sae_tools import saes
        from sae_tools.analysis.foreign import hub_id, origin
        from sae_tools.models.lm import LanguageModel

        sae = saes.load(self.source, self.sae_id)
        said_model, said_site = origin(sae)
        model, site_name = hub_id(self.model) or said_model, self.site or said_site
        for value, option in ((model, "--model"), (site_name, "--site")):
            if not value:
                raise InputError(f"{self.name} does not say what it was trained on; give {option}.")
        lm = LanguageModel.load(model)
        site = lm.site(site_name)
        saes.check_width(sae, lm.width(site), self.name, site.name)
        return saes.as_trained(sae).to(lm.device), lm, site

    def _ids(self, lm: LanguageModel, trained_on: int | None) -> Tensor:
        from sae_tools.models.corpus import first_blocks
        from sae_tools.models.reading import read_documents

        size = min(CONTEXT, lm.context_size, trained_on or CONTEXT)
        texts = read_documents(Dataset(str(self.text), n_tokens=0, held_out_tokens=0))
        return first_blocks(texts, lm.tokenizer, size, N_TOKENS, f"text {str(self.text)!r}")

    def _make(self, kept: Path, sae: Any, lm: LanguageModel, site: Site, ids: Tensor, config: Features) -> None:
        """Measure, then write the tables: where they are, all is."""
        from sae_tools.analysis.foreign import fit
        from sae_tools.analysis.tables import make_tables
        from sae_tools.models.corpus import Tokens

        size = ids.shape[1]
        figures = fit(sae, lm, site, ids[: max(1, N_FIT // size)], config.batch_size)
        log.info("%s: explained variance %.3f, L0 %.1f", self.name, *figures.values())
        with new_folder(kept / "evaluation" / self.name) as folder:
            write_json(folder / "figures.json", figures)
        n_held_out = max(1, len(ids) // HELD_OUT)
        about = {
            "sae": self.name, "site": site.name, "base": {"name": lm.name, "revision": None}, "finetuned": None,
            "dtype": "float32", "context_size": size,
        }  # fmt: skip
        train = ids[:-n_held_out] if len(ids) > 1 else ids
        make_tables(
            sae, lm, site, Tokens(train, ids[-n_held_out:]), config, kept / "features" / self.name, about
        )  # fmt: skip


def _is_whole(folder: Path) -> bool:
    """Whether tables were kept and are undamaged; else they are made again."""
    try:
        verify(folder)
    except ArtifactError as error:
        if folder.exists():
            log.warning("%s The features are looked for again.", error)
        return False
    return True


def _digest(sae: nn.Module, lm: LanguageModel, site: Site, ids: Tensor, config: Features) -> str:
    """What decides the tables, in 16 hex digits: SAE, model, site, text as the tokenizer reads it, settings."""
    import torch

    from sae_tools.analysis.tables import VERSION

    cfg = {key: value for key, value in sae.cfg.to_dict().items() if key not in ("device", "metadata")}  # type: ignore[union-attr, operator]
    hashed = hashlib.sha256()
    parts = {"version": VERSION, "sae": cfg, "site": site.name, "settings": dataclasses.asdict(config)}
    hashed.update(json.dumps(parts, sort_keys=True, default=str).encode())
    tensors = {**sae.state_dict(prefix="sae."), **lm.model.state_dict(prefix="model."), "ids": ids}
    for name, tensor in sorted(tensors.items()):
        hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        hashed.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return hashed.hexdigest()[:16]
