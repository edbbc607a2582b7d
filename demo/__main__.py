"""`python -m demo`: the page over one run of the pipeline, or over an SAE from elsewhere."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported

from demo import zerogpu
from demo.access import Access
from demo.foreign import CACHE, PLAIN, Foreign
from demo.results import Results
from sae_tools.common.errors import WorkbenchError

if TYPE_CHECKING:
    from demo.workbench import Workbench


def main(arguments: list[str] | None = None) -> int:
    given = parse(arguments)
    source = given.release or given.sae
    try:
        if source:
            foreign = Foreign(source, given.sae_id, given.model, given.site, given.text, given.cache)
            return serve(foreign.names(), foreign.open, access(given))
        results = Results(given.artifacts)
        return serve(results.names(), lambda: opened(results), access(given))
    except WorkbenchError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m demo", description="Explore and steer a model's features: of the SAEs that the pipeline made "
        "(--artifacts), of a pretrained one that SAELens knows (--release, --sae-id), or of an SAE's folder (--sae).",
    )  # fmt: skip
    here = "0.0.0.0" if "SPACE_ID" in os.environ else "127.0.0.1"
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--artifacts", type=Path, default=Path("artifacts"), help="what the pipeline made (default)")
    source.add_argument("--release", default="", help="a SAELens release, or a Hub repository of SAEs")
    source.add_argument("--sae", default="", metavar="FOLDER", help="an SAE: cfg.json and sae_weights.safetensors")
    parser.add_argument("--sae-id", default="", help="which SAE of the release")
    parser.add_argument("--model", default="", help="Hub id or folder of its model (default: what the SAE says)")
    parser.add_argument("--site", default="", help="where it reads, as blocks.8.hook_resid_pre (default: what it says)")
    parser.add_argument(
        "--text", type=Path, default=PLAIN, help="where to look for what fires: .txt, .jsonl, .parquet (default: "
        "a few pages of plain English)",
    )  # fmt: skip
    parser.add_argument("--cache", type=Path, default=CACHE, help="where what was found is kept (default: %(default)s)")
    parser.add_argument("--host", default=here, help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=7860, help="port to listen on (default: %(default)s)")
    on = "named endpoints for programs (default: on, unless the page is public)"
    parser.add_argument("--api", action=argparse.BooleanOptionalAction, default=None, help=on)
    parser.add_argument("--mcp", action="store_true", help="offer these endpoints to MCP clients as tools")
    given = parser.parse_args(arguments)
    if not (given.release or given.sae) and (given.sae_id or given.model or given.site):
        parser.error("--sae-id, --model and --site go with --release or --sae")
    return given


def opened(results: Results) -> Workbench:
    """The workbench over one run of the pipeline."""
    from demo.workbench import Workbench

    return Workbench(results)


def access(given: argparse.Namespace) -> Access:
    """How the page may be reached."""
    return Access.of(given.host, given.port, given.api, given.mcp, "SPACE_ID" in os.environ)


def serve(names: list[str], open_bench: Callable[[], Workbench], access: Access) -> int:
    """Serve at once and open the models meanwhile: the page says what is going on. Ends where they cannot be opened.

    Raises:
        WorkbenchError: why not.
    """
    from demo.app import build
    from demo.launch import launch

    bench: Future[Workbench] = Future()
    page = build(names, bench, access.api)
    if zerogpu.ON:
        bench.set_result(_loaded(open_bench(), names))
    port = launch(page, access.host, access.port, block=False, mcp=access.mcp)
    taken = "" if port == access.port else f", since port {access.port} is taken"
    print(f"The page is on {access.address(port)}{taken}", flush=True)
    if not bench.done():
        opening = open_bench()
        first = opening.open(names[0])
        bench.set_result(opening)
        # Else the first visitor waits for it.
        threading.Thread(target=lambda: (first.unit, first.sae), daemon=True).start()
    page.block_thread()
    return 0


def _loaded(bench: Workbench, names: list[str]) -> Workbench:
    for name in names:
        bench.open(name).load()
    return bench


if __name__ == "__main__":
    log = logging.getLogger("demo")
    log.setLevel(logging.INFO)
    log.addHandler(logging.StreamHandler())
    sys.exit(main())
