"""What the model would write next, with and without the SAE."""

from __future__ import annotations

from typing import Any

from demo.reading import NEXT, Reading
from sae_tools.reports.render import chip, note, share


def following(reading: Reading) -> str:
    """The likeliest next tokens either way, and the difference that the SAE makes."""
    head = "".join(f"<th>{name}</th>" for name in ("Next token", "The model", "With the SAE", "Difference"))
    largest = float(reading.following[["model", "sae"]].to_numpy().max(initial=0.0)) or 1.0
    body = "".join(_row(each, largest) for each in reading.following.to_dict("records"))
    words = note(
        f"The {NEXT} likeliest tokens after the text, of the model as it is and with the SAE's reconstruction in its "
        "place. The smaller the differences, the less the SAE loses here."
    )
    return f'{words}<table class="rows next"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _row(each: dict[Any, Any], largest: float) -> str:
    cells = "".join(
        f'<td class="bar"><span style="--part:{each[way] / largest:.2f}">{share(each[way])}</span></td>'
        for way in ("model", "sae")
    )
    change = 100 * each["change"]
    return f'<tr><td>{chip(each["token"])}</td>{cells}<td class="id">{change:+.1f} points</td></tr>'
