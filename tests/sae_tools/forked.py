"""Runs in processes of their own, which a test may kill: forked, since importing SAELens anew takes seconds."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import socket
import threading
import warnings
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from tqdm import tqdm

LIMIT = 60


def start(work: Callable[..., Any], *args: Any, **environment: str) -> BaseProcess:
    """Call `work` in a child with these environment variables."""
    process = multiprocessing.get_context("fork").Process(target=_child, args=(work, args, environment))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads: the child has one thread only
        process.start()
    return process


def exit_code(process: BaseProcess) -> int:
    """Wait for a child; the number of a signal that killed it is negative."""
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def run(work: Callable[..., Any], *args: Any, **environment: str) -> int:
    """Call `work` in a child and give its exit code."""
    return exit_code(start(work, *args, **environment))


def ranks(n: int, work: Callable[..., Any], *args: Any) -> list[int]:
    """Call `work` in n children as torchrun would, and give their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": str(n), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    children = [start(work, *args, RANK=str(rank), LOCAL_RANK=str(rank), **shared) for rank in range(n)]
    return [exit_code(child) for child in children]


def torchrun(work: Callable[..., Any], *args: Any) -> int:
    """Call `work` as `torchrun --nproc-per-node=2 --max-restarts=1` would, but forked; give the exit code."""
    return run(_elastic, work, args)


def _elastic(work: Callable[..., Any], args: tuple[Any, ...]) -> None:
    config = LaunchConfig(
        1, 1, 2, run_id="test", rdzv_backend="c10d", rdzv_endpoint="127.0.0.1:0", max_restarts=1, start_method="fork",
        monitor_interval=0.05,
    )  # fmt: skip
    elastic_launch(config, work)(*args)


def own_progress_lock() -> None:
    """Give all progress bars a lock of this process's: tqdm's own is shared by forks, and a killed one keeps it."""
    lock, kinds = threading.RLock(), [tqdm]
    for kind in kinds:  # a library's own kind, once it was shown, has a lock of its own
        kind.set_lock(lock)
        kinds += kind.__subclasses__()


def _child(work: Callable[..., Any], args: tuple[Any, ...], environment: Mapping[str, str]) -> None:
    faulthandler.dump_traceback_later(LIMIT, exit=True)  # a child that hangs tells where, and exits with 1
    own_progress_lock()
    os.environ.update(environment)
    torch.set_num_threads(1)  # OpenMP's threads do not outlive a fork
    work(*args)
