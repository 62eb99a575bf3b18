"""A command that is asked to end leaves nothing behind, neither files nor processes, as one that Ctrl-C stops."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import models
from tests.support.waiting import until

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "examples" / "digits"


def stopped(asked: signal.Signals, work: Path, sign: str, *arguments: str | Path) -> str:
    """What the command says that is sent a signal once `sign` is there in its temporary directory `work`."""
    work.mkdir()
    told = ["env", f"TMPDIR={work}", sys.executable, "-m", "edgeward", *map(str, arguments)]
    with subprocess.Popen(told, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as command:
        until(lambda: any(work.glob(sign)), f"{sign} is there", timeout_s=60)
        command.send_signal(asked)
        _, said = command.communicate(timeout=60)
    # A shell says 130 to both; CPython ends as if SIGINT had killed it when a string that it was executing was interrupted.
    assert command.returncode in (130, -signal.SIGINT)
    return said


def processes_of(work: Path) -> list[str]:
    """Command lines of all processes that name it."""
    found = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            found.append(each.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [line for line in found if str(work) in line]


@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGINT])
def test_a_conversion_that_is_asked_to_end_removes_its_temporary_files(asked: signal.Signals, tmp_path: Path) -> None:
    work, out = tmp_path / "work", tmp_path / "out"
    given = (DIGITS / "digits-v1.onnx", "--data", DIGITS / "digits.npz", "--name", "digits", "--version", "1.0.0")
    said = stopped(asked, work, "edgeward-convert-*/given.onnx", "convert", *given, "--out", out, "--minutes", "5")
    assert said.endswith("Interrupted.\n")
    assert not out.exists()
    assert not list(work.iterdir())


def test_a_tuning_that_is_asked_to_end_removes_its_temporary_files_and_keeps_no_result(tmp_path: Path) -> None:
    work, cache = tmp_path / "work", tmp_path / "cache"
    model = models.linear_classifier(tmp_path / "digits.onnx")
    # A file in it, not it alone: between the making of a directory and Python's knowing of it, a signal leaves it there.
    stopped(signal.SIGTERM, work, "edgeward-tune-*/*.npz", "tune", model, "--cache", cache, "--seconds", "60")
    assert not list(work.iterdir())
    assert not list(cache.glob("*.json"))


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="asks Linux which processes run")
def test_a_demonstration_that_is_asked_to_end_ends_its_fleet(tmp_path: Path) -> None:
    work = tmp_path / "work"
    stopped(signal.SIGTERM, work, "edgeward-demo-*/central/broker/mosquitto.conf", "demo")
    assert not list(work.iterdir())
    assert not processes_of(work)
