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

from demo.results import Results
from sae_tools.common.errors import WorkbenchError

if TYPE_CHECKING:
    from demo.handlers import Handlers


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
    given = parser.parse_args(arguments)
    results = Results(given.artifacts)
    try:
        names = results.names()
    except WorkbenchError as error:
        print(error, file=sys.stderr)
        return 2
    serve(names, results, given.host, given.port)
    return 0


def serve(names: list[str], results: Results, host: str, port: int) -> None:
    """Serve at once and open the models meanwhile: the page is up in half the time."""
    from demo.app import Page
    from demo.launch import launch

    handlers: Future[Handlers] = Future()
    page = Page(names, handlers)
    launch(page, host, port, block=False)
    print(f"The page is on http://{'localhost' if host == '0.0.0.0' else host}:{port}", flush=True)
    threading.Thread(target=_open, args=(names, results, handlers), daemon=True).start()
    page.blocks.block_thread()


def _open(names: list[str], results: Results, handlers: Future[Handlers]) -> None:
    try:
        from demo.handlers import Handlers

        opened = Handlers(results)
        opened.open(names[0])
        handlers.set_result(opened)
    except Exception as error:
        # Whoever waits for the models gets the error; the server's log gets it too.
        handlers.set_exception(error)
        raise


if __name__ == "__main__":
    sys.exit(main())
