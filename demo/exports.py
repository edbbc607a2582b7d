"""What a visitor takes along: tables as CSV, and links that hold their file: none is kept on the server."""

from __future__ import annotations

import csv as writer
import io
from base64 import b64encode
from collections.abc import Mapping, Sequence

from sae_tools.reports.render import escape

ACTING = ("=", "+", "-", "@", "\t", "\r", "\n")
"""A spreadsheet takes a cell that begins so for a formula, or breaks it."""


def csv(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows as CSV under the names of all their columns; numbers stay numbers, text is made `harmless`."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    out = io.StringIO()
    table = writer.DictWriter(out, columns, lineterminator="\n")
    table.writerow({name: harmless(name) for name in columns})
    table.writerows({name: harmless(value) for name, value in row.items()} for row in rows)
    return out.getvalue()


def harmless(value: object) -> object:
    """Text that a spreadsheet would act on, behind a quote, by which it is shown as text."""
    return f"'{value}" if isinstance(value, str) and value.startswith(ACTING) else value


def data_link(name: str, mime: str, text: str, words: str = "") -> str:
    """A link called `words` that saves `text` as the file `name`."""
    held = b64encode(text.encode("utf-8", "replace")).decode()
    href = f"data:{escape(mime)};charset=utf-8;base64,{held}"
    return f'<a class="act" download="{escape(name)}" href="{href}">{escape(words or name)}</a>'
