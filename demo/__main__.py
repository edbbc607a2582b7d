"""`python -m demo`: the page over one run of the pipeline."""

from __future__ import annotations

import argparse
import os
import sys
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported

from demo.access import Access
from demo.results import Results
from sae_tools.common.errors import WorkbenchError

if TYPE_CHECKING:
    from demo.workbench import Workbench


def main(arguments: list[str] | None = None) -> int:
    on_spaces = "SPACE_ID" in os.environ
    parser = argparse.ArgumentParser(prog="python -m demo", description="Explore and steer a model's features.")
    options = {
        "artifacts": (Path, Path("artifacts"), "what the pipeline made"),
        "host": (str, "0.0.0.0" if on_spaces else "127.0.0.1", "address to listen on"),
        "port": (int, 7860, "port to listen on"),
    }
    for name, (kind, default, what) in options.items():
        parser.add_argument(f"--{name}", type=kind, default=default, help=f"{what} (default: %(default)s)")
    on = "named endpoints for programs (default: on, unless the page is public)"
    parser.add_argument("--api", action=argparse.BooleanOptionalAction, default=None, help=on)
    parser.add_argument("--mcp", action="store_true", help="offer these endpoints to MCP clients as tools")
    given = parser.parse_args(arguments)
    results = Results(given.artifacts)
    try:
        names = results.names()
        serve(names, results, Access.of(given.host, given.port, given.api, given.mcp, on_spaces))
    except WorkbenchError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def serve(names: list[str], results: Results, access: Access) -> None:
    """Serve at once and open the models meanwhile: the page is up in half the time."""
    from demo.app import build
    from demo.launch import launch

    bench: Future[Workbench] = Future()
    page = build(names, bench, access.api)
    port = launch(page, access.host, access.port, block=False, mcp=access.mcp)
    taken = "" if port == access.port else f", since port {access.port} is taken"
    print(f"The page is on {access.address(port)}{taken}", flush=True)
    threading.Thread(target=_open, args=(names, results, bench), daemon=True).start()
    page.block_thread()


def _open(names: list[str], results: Results, bench: Future[Workbench]) -> None:
    try:
        from demo.workbench import Workbench

        opening = Workbench(results)
        opened = opening.open(names[0])
    except Exception as error:
        # Whoever waits for the features gets the error; the server's log gets it too.
        bench.set_exception(error)
        raise
    bench.set_result(opening)
    _ = opened.unit, opened.sae  # what the first visitor would else wait for


if __name__ == "__main__":
    sys.exit(main())
