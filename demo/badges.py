"""One line under the head: what is looked at, and how well the SAE describes it."""

from __future__ import annotations

from typing import Any

from demo.progress import Progress
from demo.workbench import Opened
from sae_tools.reports.render import escape, number

LEAST_EXPLAINED = 0.5
"""Explained variance below which a visitor is warned: a fitting SAE has more."""
MEASURED = (("l0", "L0"), ("explained_variance", "Explained variance"), ("ce_loss_score", "CE recovered"))


def badges(opened: Opened) -> str:
    """Model, site, SAE and its main metrics."""
    about, measured = opened.about, opened.results.evaluation(opened.name)
    items = [
        ("Model", short(about["base"]["name"])), ("Site", about["site"]),
        ("SAE", f"{opened.name}, {opened.d_sae:,} features"),
    ]  # fmt: skip
    items += [(name, number(measured[key])) for key, name in MEASURED if key in measured]
    line = "".join(f"<span><b>{escape(k)}</b> {escape(str(v))}</span>" for k, v in items)
    return f'<div class="badges">{line}</div>{_warning(measured.get("explained_variance", 1.0))}'


def _warning(explained: float) -> str:
    if explained >= LEAST_EXPLAINED:
        return ""
    return (
        f'<p class="warning" role="alert">This SAE explains little of this model here (explained variance '
        f"{explained:.2f}): are this the site, the model and the kind of text that it was trained on?</p>"
    )


def opening(now: Progress) -> str:
    """In the badges' place while there are none: what is going on, and how far it is."""
    what, share = escape(now.what), now.share
    if share is None:
        return f'<div class="opening" role="status">{what} …</div>'
    bar = f'<progress max="100" value="{100 * share:.0f}"></progress>'
    return f'<div class="opening" role="status">{what} … {share:.0%}{bar}</div>'


def short(name: str) -> str:
    """The last two parts of a Hub id or a folder: no more of a machine's paths is shown."""
    parts = name.rstrip("/").split("/")
    return parts[-1] if name.startswith("/") else "/".join(parts[-2:])


def models(about: dict[str, Any]) -> tuple[str, str]:
    """Short escaped names of the base and the finetuned model."""
    finetuned = about.get("finetuned") or {"name": ""}
    return escape(short(about["base"]["name"])), escape(short(finetuned["name"]))
