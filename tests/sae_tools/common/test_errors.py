from __future__ import annotations

from sae_tools.common.errors import ArtifactError, InputError, SettingError, WorkbenchError, did_you_mean


def test_all_errors_are_of_one_family() -> None:
    assert all(issubclass(error, WorkbenchError) for error in (SettingError, InputError, ArtifactError))


def test_the_nearest_name_is_suggested_or_all_are_listed() -> None:
    assert did_you_mean("d_sea", ["d_sae", "k", "lr"]) == "did you mean 'd_sae'?"
    assert did_you_mean("zzzz", ["b", "a"]) == "use one of: a, b."
