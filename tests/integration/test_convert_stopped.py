"""A conversion that is asked to end leaves nothing behind, as one that Ctrl-C stops."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.waiting import until

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "examples" / "digits"


@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGINT])
def test_a_conversion_that_is_asked_to_end_removes_its_temporary_files(asked: signal.Signals, tmp_path: Path) -> None:
    (work := tmp_path / "work").mkdir()
    command = [
        sys.executable,
        "-m",
        "edgeward",
        "convert",
        str(DIGITS / "digits-v1.onnx"),
        "--data",
        str(DIGITS / "digits.npz"),
    ]
    command += ["--name", "digits", "--version", "1.0.0", "--out", str(tmp_path / "out"), "--minutes", "5"]
    told = ["env", f"TMPDIR={work}", *command]
    with subprocess.Popen(told, cwd=ROOT, stderr=subprocess.PIPE, text=True) as conversion:
        until(lambda: any(work.glob("edgeward-convert-*/given.onnx")), "the model is read", timeout_s=60)
        conversion.send_signal(asked)
        _, said = conversion.communicate(timeout=60)
    # A shell says 130 to both; CPython ends as if SIGINT had killed it when a string that it was executing was interrupted.
    assert conversion.returncode in (130, -signal.SIGINT)
    assert said.endswith("Interrupted.\n")
    assert not (tmp_path / "out").exists()
    assert not list(work.iterdir())
