"""The TFLite files that are kept are those that the tests would write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import tflite_models

FILES = Path(tflite_models.__file__).parent / "tflite_files"


@pytest.mark.parametrize(
    "write",
    [tflite_models.linear_classifier, tflite_models.two_inputs, tflite_models.custom_operator],
    ids=lambda each: each.__name__,
)
def test_a_kept_file_is_what_would_be_written_today(write: Callable[[Path], Path], tmp_path: Path) -> None:
    assert (FILES / f"{write.__name__}.tflite").read_bytes() == write(tmp_path / "written").read_bytes()
