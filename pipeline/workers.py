"""On a machine with several GPUs a stage starts itself anew under torchrun, one process for each."""

from __future__ import annotations

import os
import sys


def spread(device: str, divides: int | None = None) -> None:
    """Replace this process by torchrun's if it is alone on several GPUs; their number divides `divides`."""
    import torch

    if "RANK" in os.environ or device not in ("auto", "cuda"):
        return
    n = torch.cuda.device_count()
    while n > 1 and divides is not None and divides % n:
        n -= 1
    if n > 1:
        stage = sys.modules["__main__"].__spec__
        assert stage is not None
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}", "--max-restarts=1"]
        os.execv(sys.executable, [sys.executable, *torchrun, "-m", stage.name, *sys.argv[1:]])
