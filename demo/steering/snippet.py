"""What the page does, as Python that does the same. Knows no Gradio."""

from __future__ import annotations

from demo.badges import short
from demo.steering.ask import Ask, Source


def snippet(source: Source, ask: Ask) -> str:
    """A script that writes both texts; run where `artifacts/` is."""
    opened = source.opened
    base = opened.about["base"]
    name = str(base["name"])
    # An absolute path is this machine's own affair.
    shown, remark = (short(name), "  # its folder") if name.startswith("/") else (name, "")
    imports = ["from pathlib import Path", "", "from sae_tools import saes", *source.imports]
    imports.append("from sae_tools.models.lm import LanguageModel")
    return "\n".join([
        *imports, "",
        f"lm = LanguageModel.load({shown!r}, {base.get('revision')!r}, {opened.about['dtype']!r}){remark}",
        f"sae = saes.load(Path({f'artifacts/saes/{opened.name}'!r}), device=str(lm.device))",
        f"site = lm.site({source.site!r})",
        source.code,
        f"ids = lm.tokens({ask.prompt!r})",
        "for change in (None, patch):",
        f"    new = list(lm.generate(ids, {ask.new_tokens}, {ask.temperature!r}, {ask.seed}, change))",
        '    print("".join(lm.pieces(ids[0].tolist() + new)[ids.shape[1] :]))',
    ])  # fmt: skip
