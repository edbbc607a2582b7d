"""A named point kills at its n-th call and nowhere else; a wrong name is no silent pass."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from sae_tools.common.faults import POINTS, reach
from tests.conftest import REPO

CODE = """
from sae_tools.common.faults import reach
for i in range(4):
    reach("shard-written")
    reach("file-written")
    print(i, flush=True)
"""


def run(fault: str, **environment: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", CODE], env={"SAE_TOOLS_FAULT": fault, "PYTHONPATH": str(REPO), **environment},
        capture_output=True, text=True,
    )  # fmt: skip
    return done.returncode, done.stdout


def test_the_process_dies_at_the_nth_call_of_that_point() -> None:
    assert run("") == (0, "0\n1\n2\n3\n")
    assert run("shard-written:1") == (-9, "")
    assert run("shard-written:3") == (-9, "0\n1\n")
    assert run("shard-written:5") == (0, "0\n1\n2\n3\n")


def test_a_restart_by_torchrun_is_spared() -> None:
    assert run("shard-written:1", TORCHELASTIC_RESTART_COUNT="1")[0] == 0
    assert run("shard-written:1", TORCHELASTIC_RESTART_COUNT="0")[0] == -9


def test_an_unknown_point_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError):
        reach("shard-writen")
    monkeypatch.setenv("SAE_TOOLS_FAULT", "shard-writen:1")
    with pytest.raises(AssertionError):
        reach("shard-written")


def test_every_point_is_in_the_code_and_every_one_in_the_code_is_listed() -> None:
    sources = [path.read_text() for name in ("sae_tools", "pipeline") for path in (REPO / name).rglob("*.py")]
    assert sorted(set(re.findall(r'reach\("([\w-]+)"\)', "".join(sources)))) == sorted(POINTS)
