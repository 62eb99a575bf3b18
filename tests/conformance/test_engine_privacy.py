"""Using an engine leaves no identifier behind and tells nobody."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.models import linear_classifier

LOAD = "import sys, pathlib, runtime; runtime.load(pathlib.Path(sys.argv[1])).close()"
LOAD_FOR_CONVERSION = "import converters, sys, pathlib, runtime; runtime.load(pathlib.Path(sys.argv[1])).close()"


@pytest.mark.parametrize("script", [LOAD, LOAD_FOR_CONVERSION], ids=["runtime", "converters"])
def test_loading_a_model_leaves_nothing_in_home_or_temporary_directories(tmp_path: Path, script: str) -> None:
    model = tmp_path / "model.onnx"
    linear_classifier(model)
    home = tmp_path / "home"
    home.mkdir()
    inherited = dict(os.environ)  # noqa: TID251 - a child with another home
    inherited.pop("ORT_DISABLE_TELEMETRY", None)
    subprocess.run(
        [sys.executable, "-c", script, str(model)],
        env={**inherited, "HOME": str(home), "TMPDIR": str(home), "XDG_CACHE_HOME": str(home)},
        check=True,
    )
    assert list(home.rglob("*")) == []
