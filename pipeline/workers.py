"""On a machine with several GPUs a stage starts itself anew under torchrun, one process for each."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable


def spread(device: str, fits: Callable[[int], bool] = lambda _: True) -> None:
    """Replace this process by torchrun's if it is alone on several GPUs, for the largest number of them that `fits`."""
    import torch

    if "RANK" in os.environ or device not in ("auto", "cuda"):
        return
    n = torch.cuda.device_count()
    while n > 1 and not fits(n):
        n -= 1
    if n > 1:
        stage = sys.modules["__main__"].__spec__
        assert stage is not None
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}", "--max-restarts=1"]
        os.execv(sys.executable, [sys.executable, *torchrun, "-m", stage.name, *sys.argv[1:]])
