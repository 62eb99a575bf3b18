"""The gate on real files in real child processes, and on children that misbehave."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest
from onnx import TensorProto

import runtime
from fleet_protocol.manifest import Tolerance
from runtime.errors import GateUnavailable
from runtime.gate import CHILD, GateRequest, GateVerdict, ModelFile, _Watch, examine
from runtime.gate_child import ORPHANED
from runtime.trial import TrialOrder
from tests.support import models, tflite_models
from tests.support.waiting import until

TOLERANCE = Tolerance(min_sqnr_db=20.0, min_agreement=0.9)
MEMORY = 1 << 30


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    return models.linear_golden(tmp_path / "golden.npz")


def gate(
    candidate: Path, golden: Path, *, timeout_s: float = 30.0, memory_bytes: int = MEMORY, **demands: object
) -> GateVerdict:
    request = GateRequest(ModelFile(candidate), golden, TOLERANCE, **demands)  # type: ignore[arg-type]  # chosen by each test
    return examine(request, timeout_s=timeout_s, memory_bytes=memory_bytes)


def with_child(golden: Path, code: str, *, timeout_s: float = 30.0, memory_bytes: int = MEMORY) -> GateVerdict:
    """The gate with a child that runs `code` instead of a trial."""
    request = GateRequest(ModelFile(golden), golden, TOLERANCE)
    return examine(request, timeout_s=timeout_s, memory_bytes=memory_bytes, command=(sys.executable, "-c", code))


def test_a_good_model_passes_with_what_was_measured(tmp_path: Path, golden: Path) -> None:
    running = models.linear_classifier(tmp_path / "running", seed=1)
    verdict = gate(models.linear_classifier(tmp_path / "good"), golden, min_accuracy=0.9, baseline=ModelFile(running))
    assert verdict.passed, verdict.reason
    assert (verdict.sqnr_db or 0) > 100
    assert verdict.agreement == 1.0
    assert (verdict.accuracy or 0) > 0.9
    assert (verdict.baseline_accuracy or 0) > 0.9
    assert 0 < (verdict.latency_p50_s or 0) < 1
    assert 10 << 20 < (verdict.peak_memory_bytes or 0) < MEMORY


def test_damaged_weights_are_refused_with_the_numbers(tmp_path: Path, golden: Path) -> None:
    running = models.linear_classifier(tmp_path / "running")
    verdict = gate(
        models.linear_classifier(tmp_path / "bad", damage=0.3), golden, min_accuracy=0.9, baseline=ModelFile(running)
    )
    assert not verdict.passed
    assert "dB on the golden outputs, at least 20 wanted" in verdict.reason
    assert "accuracy on the golden labels" in verdict.reason
    assert "where the running version has 0." in verdict.reason


def test_a_model_that_is_well_for_itself_but_worse_than_the_running_one_is_refused(tmp_path: Path) -> None:
    """Golden outputs made by the damaged model itself: only the labels can tell."""
    pixels, labels = models.samples(64, seed=99)
    bad = models.linear_classifier(tmp_path / "bad", damage=0.05)
    running = models.linear_classifier(tmp_path / "running")
    model = runtime.load(bad)
    golden = models.write_golden(tmp_path / "golden.npz", {"pixels": pixels}, model({"pixels": pixels}), labels)
    assert gate(bad, golden).passed
    verdict = gate(bad, golden, baseline=ModelFile(running))
    assert not verdict.passed
    assert "a loss of at most 0.100 is allowed" in verdict.reason


def test_answers_that_are_no_numbers_are_refused(tmp_path: Path, golden: Path) -> None:
    verdict = gate(models.not_a_number(tmp_path / "nan"), golden)
    assert (verdict.passed, verdict.reason) == (
        False,
        "Output scores holds NaN or infinity for 64 of 64 golden samples.",
    )


def test_a_truncated_file_is_refused(tmp_path: Path, golden: Path) -> None:
    good = models.linear_classifier(tmp_path / "good")
    verdict = gate(models.truncated(good, tmp_path / "short"), golden)
    assert not verdict.passed
    assert "is not a model that onnxruntime" in verdict.reason


def test_a_model_of_another_shape_is_refused(tmp_path: Path, golden: Path) -> None:
    verdict = gate(models.linear_classifier(tmp_path / "wide", features=32), golden)
    assert (verdict.passed, verdict.reason) == (False, "Input pixels has shape [1, 64]; wanted pixels: FP32[?, 32].")


def test_a_model_with_other_outputs_is_refused(tmp_path: Path, golden: Path) -> None:
    assert "has no output scores" in gate(models.linear_classifier(tmp_path / "a", output_name="chances"), golden).reason
    verdict = gate(models.linear_classifier(tmp_path / "b", classes=3), golden)
    assert verdict.reason == "Output scores has shape [64, 3] on the golden inputs; wanted [64, 10]."


def test_a_golden_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    golden = tmp_path / "golden.npz"
    golden.write_bytes(b"nothing")
    verdict = gate(models.linear_classifier(tmp_path / "good"), golden)
    assert not verdict.passed
    assert "golden file" in verdict.reason


def test_a_model_of_a_fixed_batch_is_asked_in_that_batch(tmp_path: Path) -> None:
    model = models.identity(tmp_path / "model", TensorProto.FLOAT, (4, 3))
    x = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    golden = models.write_golden(tmp_path / "golden.npz", {"x": x}, {"y": x})
    assert gate(model, golden).passed


def test_a_tflite_model_passes_the_same_gate(tmp_path: Path, golden: Path) -> None:
    assert gate(tflite_models.linear_classifier(tmp_path / "model"), golden).passed


def test_a_model_that_takes_too_much_memory_is_refused(tmp_path: Path) -> None:
    x = np.full((1, 1), 0.5, np.float32)
    golden = models.write_golden(tmp_path / "golden.npz", {"x": x[0]}, {"y": np.exp(1 + x[0])})
    hungry = models.hungry(tmp_path / "hungry", megabytes=300)
    small = models.hungry(tmp_path / "small", megabytes=1)
    assert "MiB" not in gate(small, golden, memory_bytes=250 << 20).reason
    verdict = gate(hungry, golden, memory_bytes=250 << 20)
    assert not verdict.passed
    assert "MiB of memory, at most 250 MiB are allowed" in verdict.reason


def test_a_model_that_wants_more_than_there_is_is_refused(tmp_path: Path) -> None:
    x = np.full((1,), 0.5, np.float32)
    golden = models.write_golden(tmp_path / "golden.npz", {"x": x}, {"y": x})
    verdict = gate(models.hungry(tmp_path / "hungry", megabytes=1 << 16), golden)
    assert not verdict.passed
    assert verdict.reason


def test_a_child_that_hangs_is_stopped_in_time(golden: Path) -> None:
    verdict = with_child(golden, "import threading; threading.Event().wait()", timeout_s=0.5)
    assert verdict.reason == "It did not finish within 0.5 s and was stopped."


def test_a_child_that_is_killed_is_a_refusal(golden: Path) -> None:
    verdict = with_child(golden, "import os; os.kill(os.getpid(), 9)")
    assert verdict.reason == "Its trial was killed, most likely because the device ran out of memory."


def test_a_child_that_died_before_it_was_given_its_order_is_a_refusal(golden: Path) -> None:
    command, pipe = (sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"), subprocess.PIPE
    child = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    order = TrialOrder(model="", session_options={}, golden=str(golden), cpu_seconds=1, address_bytes=MEMORY, alarm_s=1.0)
    with _Watch(child, 30, MEMORY) as watch:
        result = watch.result(order)
    assert result.failure == "its trial was killed, most likely because the device ran out of memory"


def test_a_child_that_crashes_is_a_refusal(golden: Path) -> None:
    verdict = with_child(golden, "import os; os.kill(os.getpid(), 11)")
    assert verdict.reason == "Its trial crashed (Segmentation fault)."


def test_a_child_that_eats_memory_is_stopped(golden: Path) -> None:
    verdict = with_child(golden, "held = bytearray(400 << 20); input(); input()", memory_bytes=200 << 20)
    assert "of memory, at most 200 MiB are allowed" in verdict.reason


@pytest.mark.parametrize("said", ["", "hello", "{}[]", '{"samples": "many"}'])
def test_a_child_that_says_nonsense_is_a_refusal(golden: Path, said: str) -> None:
    assert with_child(golden, f"print({said!r})").reason == "Its trial ended without a result."


def test_the_last_words_of_a_child_are_passed_on(golden: Path) -> None:
    assert with_child(golden, "raise SystemExit('no such processor')").reason == (
        "Its trial failed with exit code 1: no such processor."
    )


def test_a_child_that_cannot_be_started_says_nothing_of_the_candidate(golden: Path) -> None:
    request = GateRequest(ModelFile(golden), golden, TOLERANCE)
    with pytest.raises(GateUnavailable, match="cannot be started"):
        examine(request, timeout_s=1, memory_bytes=MEMORY, command=("/no/such/python",))


def test_no_child_outlives_the_gate(golden: Path) -> None:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    with_child(golden, "import threading; threading.Event().wait()", timeout_s=0.3)
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before


def test_a_peak_that_nobody_saw_is_told_by_the_child(golden: Path) -> None:
    verdict = with_child(golden, f"print('{{\"peak_memory_bytes\": {3 << 30}}}')")
    assert verdict.reason == "It took 3072 MiB of memory, at most 1024 MiB are allowed."


def test_a_child_ends_when_its_parent_is_gone(tmp_path: Path) -> None:
    """The parent's end is the end of the child's stdin; here the child hangs on a golden file that never comes."""
    os.mkfifo(tmp_path / "golden.npz")
    order = TrialOrder(
        model="/nowhere",
        session_options={},
        golden=str(tmp_path / "golden.npz"),
        cpu_seconds=9,
        address_bytes=8 << 30,
        alarm_s=60.0,
    )
    child = subprocess.Popen(CHILD, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert child.stdin is not None
    child.stdin.write(msgspec.json.encode(order) + b"\n")
    child.stdin.close()
    until(lambda: child.poll() is not None, "the child ended with its parent")
    assert child.returncode == ORPHANED
