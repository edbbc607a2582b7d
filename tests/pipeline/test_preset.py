"""`make demo PRESET=name` puts a preset in the place of params.yaml, and of nothing that a user has written."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pipeline.preset import use
from sae_tools.common.errors import InputError, SettingError
from tests.conftest import REPO


def git(*arguments: str) -> None:
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], check=True, capture_output=True)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with two presets, whose params.yaml git holds."""
    (tmp_path / "presets").mkdir()
    for name in ("gpt2", "gemma-2b"):
        (tmp_path / "presets" / f"{name}.yaml").write_text(f"site: {name}\n")
    (tmp_path / "params.yaml").write_text("site: default\n")
    monkeypatch.chdir(tmp_path)
    git("init", "--quiet")
    git("add", "params.yaml")
    git("commit", "--quiet", "--message", "start")
    return tmp_path


def test_presets_take_each_others_place(place: Path) -> None:
    for name in ("gpt2", "gemma-2b", "gemma-2b"):
        assert "git checkout params.yaml" in use(name)
        assert (place / "params.yaml").read_text() == f"site: {name}\n"
    (place / "params.yaml").unlink()
    use("gpt2")
    assert (place / "params.yaml").read_text() == "site: gpt2\n"


def test_changes_of_the_users_own_stay(place: Path) -> None:
    (place / "params.yaml").write_text("site: mine\n")
    with pytest.raises(InputError, match="changes of your own"):
        use("gpt2")
    assert (place / "params.yaml").read_text() == "site: mine\n"
    git("add", "params.yaml")
    with pytest.raises(InputError):
        use("gpt2")
    git("commit", "--quiet", "--message", "mine")
    use("gpt2")


def test_what_git_does_not_hold_stays(place: Path) -> None:
    git("rm", "--quiet", "--cached", "params.yaml")
    git("commit", "--quiet", "--message", "without")
    with pytest.raises(InputError):
        use("gpt2")
    (place / ".git").rename(place / "other")
    with pytest.raises(InputError):
        use("gpt2")


@pytest.mark.parametrize(("name", "hint"), [("gtp2", "did you mean 'gpt2'"), ("zzz", "use one of"), ("../x", "gpt2")])
def test_an_unknown_name_is_answered_with_all_of_them(place: Path, name: str, hint: str) -> None:
    with pytest.raises(SettingError) as caught:
        use(name)
    assert hint in str(caught.value)
    assert "gemma-2b, gpt2" in str(caught.value)


def test_make_asks_for_it() -> None:
    """Before anything runs, and only if it is named."""
    for target in ("demo", "space"):
        told = [
            subprocess.run(
                ["make", "--dry-run", "--assume-old=.venv/ready", target, *named],
                cwd=REPO,
                capture_output=True,
                text=True,
            ).stdout
            for named in ([], ["PRESET=gpt2"])
        ]
        assert "pipeline.preset" not in told[0]
        assert told[1].index("pipeline.preset 'gpt2'") < told[1].index("dvc repro")
