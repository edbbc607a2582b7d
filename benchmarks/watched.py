"""`python -m demo` in a process that tells on a signal what no visitor sees: forward passes, hooks, temporary files.

    python -m benchmarks.watched FILE ARGUMENTS...

At each SIGUSR1 it writes a JSON object to FILE; the first one starts the count of passes.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any


class Watched:
    """A page that runs while the block lasts, watched from outside."""

    def __init__(self, arguments: list[str], port: int) -> None:
        self.arguments, self.address = [*arguments, f"--port={port}"], f"http://127.0.0.1:{port}"

    def __enter__(self) -> Watched:
        self._folder = tempfile.TemporaryDirectory()
        root = Path(self._folder.name)
        self.temporary, self._told, self.log = root / "temporary", root / "told.json", root / "log"
        self.temporary.mkdir()
        environment = {**os.environ, "TMPDIR": str(self.temporary), "GRADIO_TEMP_DIR": str(self.temporary / "gradio")}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.watched", str(self._told), *self.arguments], env=environment,
                stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.process.terminate()
        self.process.wait(30)
        if kind is not None:
            print(self.log.read_text()[-2000:], file=sys.stderr)
        self._folder.cleanup()

    def state(self) -> dict[str, int]:
        """passes of a model since the first call, hooks on models, threads, files under the temporary folder."""
        self._told.unlink(missing_ok=True)
        self.process.send_signal(signal.SIGUSR1)
        while not self._told.exists():
            if self.process.poll() is not None:
                raise RuntimeError(f"the page ended with code {self.process.returncode}")
            time.sleep(0.002)
        files = sum(path.is_file() for path in self.temporary.rglob("*"))
        return {**json.loads(self._told.read_text()), "threads": self._status("Threads"), "files": files}

    def memory(self) -> float:
        """Resident GB."""
        return self._status("VmRSS") * 1024 / 1e9

    def peak(self) -> float:
        """The most GB that were resident."""
        return self._status("VmHWM") * 1024 / 1e9

    def _status(self, name: str) -> int:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])


def tell_on_signal(path: Path) -> None:
    """Answer SIGUSR1 with passes and hooks in `path`. Imports nothing slow before it is asked."""
    passes = 0

    def count() -> None:
        from sae_tools.models.lm import LanguageModel

        forward = LanguageModel.forward

        def counted(self: LanguageModel, *given: Any) -> Any:
            nonlocal passes
            passes += 1
            return forward(self, *given)

        LanguageModel.forward = counted  # type: ignore[method-assign, assignment]

    def tell(*_: object) -> None:
        from sae_tools.models.lm import LanguageModel

        if LanguageModel.forward.__name__ != "counted":
            count()
        models = [found.model for found in gc.get_objects() if isinstance(found, LanguageModel)]
        modules = [module for model in models for module in model.modules()]
        hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules)
        unfinished = path.with_suffix(".tmp")
        unfinished.write_text(json.dumps({"passes": passes, "hooks": hooks}))
        unfinished.replace(path)

    signal.signal(signal.SIGUSR1, tell)


if __name__ == "__main__":
    from demo.__main__ import main

    tell_on_signal(Path(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
