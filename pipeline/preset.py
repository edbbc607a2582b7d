"""`python -m pipeline.preset NAME`: presets/NAME.yaml becomes params.yaml, unless the user's own changes are in it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from sae_tools.common.errors import InputError, SettingError, WorkbenchError, did_you_mean

PRESETS, PARAMS = Path("presets"), Path("params.yaml")


def use(name: str) -> str:
    """Copy the preset called `name`; returns what was done.

    Raises:
        SettingError: there is no such preset.
        InputError: params.yaml would be lost.
    """
    presets = {path.stem: path.read_bytes() for path in sorted(PRESETS.glob("*.yaml"))}
    if name not in presets:
        hint = did_you_mean(name, presets)
        every = f" There are: {', '.join(presets)}." if hint.endswith("?") else ""
        raise SettingError(f"preset {name!r} does not exist; {hint}{every}")
    if PARAMS.exists() and PARAMS.read_bytes() not in presets.values() and not _is_committed(PARAMS):
        raise InputError(
            f"{PARAMS} holds changes of your own; commit them or move it away, then ask for {name!r} again."
        )
    PARAMS.write_bytes(presets[name])
    return f"{PARAMS} is now {PRESETS / f'{name}.yaml'}; `git checkout {PARAMS}` brings back the one before."


def _is_committed(path: Path) -> bool:
    """Whether git holds the file as it is."""
    done = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", str(path)], capture_output=True, check=False)
    known = subprocess.run(["git", "ls-files", "--error-unmatch", str(path)], capture_output=True, check=False)
    return done.returncode == known.returncode == 0


if __name__ == "__main__":
    try:
        if len(sys.argv) != 2:
            raise SettingError(f"the arguments are {sys.argv[1:]}, but the name of one preset is expected.")
        print(use(sys.argv[1]))
    except WorkbenchError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
