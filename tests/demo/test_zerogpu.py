"""On a ZeroGPU Space whatever runs a model runs in another process, which values and answers reach by pickle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from demo import zerogpu
from tests.conftest import REPO

SPACES = '''
"""What ZeroGPU's `GPU` does, less the GPU: a process is forked for each call, and everything is pickled on its way."""
import inspect, multiprocessing, os, pickle

fork = multiprocessing.get_context("fork")
pids = []

def GPU(duration):
    assert 0 < duration <= 60
    def decorate(task):
        streams = inspect.isgeneratorfunction(task)
        def work(values, end):
            results = task(*pickle.loads(values))
            for result in results if streams else [results]:
                end.send((os.getpid(), result))
            end.send(None)
        def stream(*values):
            mine, theirs = fork.Pipe()
            process = fork.Process(target=work, args=(pickle.dumps(values), theirs))
            process.start()
            while (said := mine.recv()) is not None:
                pids.append(said[0])
                yield said[1]
            process.join()
        return stream if streams else lambda *values: next(stream(*values))
    return decorate
'''
PAGE = """
import json, os, sys
from pathlib import Path

from demo import launch, zerogpu
from demo.__main__ import serve
from demo.access import Access
from demo.results import Results
from demo.workbench import Workbench

results = Results(Path(sys.argv[1]))
names, bench = results.names(), Workbench(results)

def launched(page, *_, **__):
    loaded = all({"sae", "base", "finetuned"} <= set(vars(bench.open(name))) for name in names)
    events = [fn for fn in page.fns.values() if fn.concurrency_id in ("read", "write")]
    named = {fn.api_name: fn.fn for fn in events if fn.api_name}
    both = next(fn.fn for fn in events if fn.concurrency_id == "write" and len(fn.inputs) == 7)
    runs = {
        "features": (named["features"], ("Once upon a time there was a little dog.",)),
        "steer": (named["steer"], ("Tom was", [{"feature": 7, "mode": "add", "strength": 0.5}], 8)),
        "stream": (both, (names[0], 7, 0.5, "Tom was", 8, 0.7, 0)),
    }

    def told(of):
        answers = {what: of(fn)(*values) for what, (fn, values) in runs.items()}
        return {**answers, "stream": list(answers["stream"])}

    there = told(lambda fn: fn)
    pids = sys.modules["spaces"].pids
    n_answers, elsewhere = len(pids), os.getpid() not in pids
    here = told(lambda fn: fn.__wrapped__)
    equal = json.dumps(there, default=str) == json.dumps(here, default=str)
    print(json.dumps([loaded, equal, elsewhere, n_answers, len(here["stream"]), len(zerogpu._answers), len(events)]))
    sys.exit()

launch.launch = launched
serve(names, lambda: bench, Access("127.0.0.1", 7860, api=True, mcp=False))
"""


def test_what_runs_a_model_runs_elsewhere_and_answers_the_same(workbench: Path, tmp_path: Path) -> None:
    (tmp_path / "spaces.py").write_text(SPACES)
    environment = {"PYTHONPATH": str(tmp_path), "SPACES_ZERO_GPU": "true", "OMP_NUM_THREADS": "1"}
    made = subprocess.run(
        [sys.executable, "-c", PAGE, str(workbench / "artifacts")], cwd=REPO, env=os.environ | environment,
        capture_output=True, text=True, check=True, timeout=240,
    )  # fmt: skip
    loaded, equal, elsewhere, n_answers, n_views, n_wrapped, n_events = json.loads(made.stdout.splitlines()[-1])
    assert loaded  # ZeroGPU takes to its GPU what is in memory when the page is launched, and nothing that comes later
    assert equal
    assert elsewhere
    assert n_answers == 2 + n_views > 6  # each view of a stream arrives by itself
    assert n_wrapped == n_events > 20


def test_elsewhere_nothing_is_wrapped() -> None:
    assert not zerogpu.ON
    assert zerogpu.on_gpu(len) is len
