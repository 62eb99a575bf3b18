"""Settings are refused before any work is done."""

from __future__ import annotations

from pathlib import Path

import pytest

from converters.errors import SettingsRejected
from converters.settings import Settings, check_settings
from fleet_io.bundle_directory import write_bundle
from fleet_io.errors import BundleExists, BundleUnwritable
from tests.support.bundles import CONTENTS, bundle_of


def test_good_settings_pass(tmp_path: Path) -> None:
    check_settings(Settings(model="digits", version="1.0.0", out=tmp_path / "b"))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"model": "Digits!"}, "'Digits!' is not a model name"),
        ({"version": "1.0"}, "'1.0' is not a version"),
        ({"budget": 1.5}, "budget = 1.5 is not a share"),
        ({"budget": float("nan")}, "budget = nan"),
        ({"min_accuracy": 95.0}, "min_accuracy = 95.0 is not a share"),
        ({"max_regression": -0.1}, "max_regression = -0.1"),
        ({"seed": -1}, "seed = -1"),
        ({"classes": ("a", "a")}, "class names must differ"),
    ],
)
def test_each_bad_setting_is_named(tmp_path: Path, change: dict[str, object], match: str) -> None:
    given: dict[str, object] = {"model": "digits", "version": "1.0.0", "out": tmp_path / "b"} | change
    with pytest.raises(SettingsRejected, match=match):
        check_settings(Settings(**given))  # type: ignore[arg-type]  # one field is wrong on purpose


def test_an_output_that_holds_something_else_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(BundleExists, match="is not a whole bundle"):
        check_settings(Settings(model="digits", version="1.0.0", out=tmp_path))


def test_an_output_that_is_a_file_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "b").touch()
    with pytest.raises(BundleExists):
        check_settings(Settings(model="digits", version="1.0.0", out=tmp_path / "b"))


def test_an_output_that_holds_another_release_is_refused_at_once(tmp_path: Path) -> None:
    manifest, files = bundle_of(tmp_path, CONTENTS)
    write_bundle(tmp_path / "b", manifest, files)
    with pytest.raises(BundleExists, match=r"already holds toy 1\.0\.0"):
        check_settings(Settings(model="toy", version="1.0.1", out=tmp_path / "b"))
    check_settings(Settings(model="toy", version="1.0.0", out=tmp_path / "b"))


def test_an_output_that_the_system_does_not_take_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(BundleUnwritable, match="too long"):
        check_settings(Settings(model="digits", version="1.0.0", out=tmp_path / ("o" * 300)))
