"""The activation gate: does this candidate answer the golden inputs on this very device as it must?

The candidate is loaded for the first time in a child process with limits (DESIGN.md §4). A child that crashes, hangs, eats its
memory or says nonsense is a refusal with a reason, as a wrong answer is. What now runs is tried in a child of its own, so
that its faults are not laid at the candidate's door. `judge` is pure: measurements and demands in, verdict out.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final, Self

import msgspec
import psutil

from fleet_protocol.manifest import Tolerance
from runtime.errors import GateUnavailable
from runtime.trial import TrialOrder, TrialResult

CHILD: Final = (sys.executable, "-P", "-B", "-m", "runtime.gate_child")

_LOOK_EVERY_S: Final = 0.02
_ALARM_SLACK_S: Final = 5.0
_ADDRESS_SLACK_BYTES: Final = 4 << 30
"""Engines map far more than they use (arenas, thread stacks); resident memory is what the parent watches."""
_STDERR_TAIL: Final = 300
_REASON_CHARACTERS: Final = 900
"""Reasons travel in reports, which hold 1,000."""


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model file and the session options of its variant."""

    path: Path
    session_options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GateRequest:
    """A candidate, and what is demanded of it.

    `golden` is an `.npz` (`fleet_protocol.manifest.Golden`). `min_accuracy` and `max_regression` are shares in [0, 1] and count
    only where the golden file has labels; `baseline` is what runs now.
    """

    candidate: ModelFile
    golden: Path
    tolerance: Tolerance
    min_accuracy: float | None = None
    max_regression: float = 0.1
    baseline: ModelFile | None = None


@dataclass(frozen=True, slots=True)
class GateVerdict:
    """Whether the candidate may be activated, why (for people: what was measured and what was wanted), and the measurements."""

    passed: bool
    reason: str
    sqnr_db: float | None = None
    agreement: float | None = None
    accuracy: float | None = None
    baseline_accuracy: float | None = None
    latency_p50_s: float | None = None
    peak_memory_bytes: int | None = None


def examine(request: GateRequest, *, timeout_s: float, memory_bytes: int, command: Sequence[str] = CHILD) -> GateVerdict:
    """Try the candidate, and the baseline where accuracy can be compared, each in a child with these limits.

    `timeout_s` is the wall time of one child; `memory_bytes` its whole resident memory, Python and engine included.
    `command` starts the child. Raises `GateUnavailable` when no child can be started: that says nothing of the candidate.
    """
    trial = _try(request.candidate, request.golden, timeout_s, memory_bytes, command)
    baseline = None
    if request.baseline is not None and trial.failure is None and trial.accuracy is not None:
        baseline = _try(request.baseline, request.golden, timeout_s, memory_bytes, command)
    return judge(request, trial, baseline)


def judge(request: GateRequest, trial: TrialResult, baseline: TrialResult | None) -> GateVerdict:
    """The verdict on what was measured."""
    baseline_accuracy = _comparable_accuracy(trial, baseline)
    reasons = [trial.failure] if trial.failure is not None else _shortfalls(request, trial, baseline_accuracy)
    return GateVerdict(
        passed=not reasons,
        reason=_sentence("; ".join(reasons)) if reasons else _praise(trial, baseline_accuracy),
        sqnr_db=trial.sqnr_db,
        agreement=trial.agreement,
        accuracy=trial.accuracy,
        baseline_accuracy=baseline_accuracy,
        latency_p50_s=trial.latency_p50_s,
        peak_memory_bytes=trial.peak_memory_bytes,
    )


def _comparable_accuracy(trial: TrialResult, baseline: TrialResult | None) -> float | None:
    """The baseline's accuracy, where it ran and is the same kind of model."""
    if baseline is None or baseline.failure is not None:
        return None
    same = (baseline.inputs, baseline.outputs) == (trial.inputs, trial.outputs)
    return baseline.accuracy if same else None


def _shortfalls(request: GateRequest, trial: TrialResult, baseline_accuracy: float | None) -> list[str]:
    """Every demand that was not met, with both numbers."""
    tolerance = request.tolerance
    found = []
    if trial.sqnr_db is not None and trial.sqnr_db < tolerance.min_sqnr_db:
        found.append(
            f"signal-to-noise ratio {trial.sqnr_db:.1f} dB on the golden outputs, at least {tolerance.min_sqnr_db:g} wanted"
        )
    found += _below("agreement with the golden classes", trial.agreement, tolerance.min_agreement)
    if trial.accuracy is not None or request.min_accuracy is not None:
        found += _below("accuracy on the golden labels", trial.accuracy, request.min_accuracy)
    if trial.accuracy is not None and baseline_accuracy is not None:
        lost = baseline_accuracy - trial.accuracy
        if lost > request.max_regression + 1e-9:
            found.append(
                f"accuracy {trial.accuracy:.3f} where the running version has {baseline_accuracy:.3f}: "
                f"a loss of at most {request.max_regression:.3f} is allowed"
            )
    return found


def _below(what: str, measured: float | None, wanted: float | None) -> list[str]:
    if wanted is None:
        return []
    if measured is None:
        return [f"{what} could not be measured, at least {wanted:.3f} wanted"]
    return [f"{what} {measured:.3f}, at least {wanted:.3f} wanted"] if measured < wanted else []


def _sentence(text: str) -> str:
    text = text[:_REASON_CHARACTERS]
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _praise(trial: TrialResult, baseline_accuracy: float | None) -> str:
    facts = [f"{trial.samples} golden samples answered"]
    if trial.sqnr_db is not None:
        facts.append(f"signal-to-noise ratio {trial.sqnr_db:.1f} dB")
    if trial.agreement is not None:
        facts.append(f"agreement {trial.agreement:.3f}")
    if trial.accuracy is not None:
        before = "" if baseline_accuracy is None else f" (running version: {baseline_accuracy:.3f})"
        facts.append(f"accuracy {trial.accuracy:.3f}{before}")
    if trial.latency_p50_s is not None:
        facts.append(f"median latency {trial.latency_p50_s * 1000:.3g} ms")
    return ", ".join(facts) + "."


def _try(file: ModelFile, golden: Path, timeout_s: float, memory_bytes: int, command: Sequence[str]) -> TrialResult:
    order = TrialOrder(
        model=str(file.path),
        session_options=dict(file.session_options),
        golden=str(golden),
        cpu_seconds=math.ceil(timeout_s * (os.cpu_count() or 1)) + 1,
        address_bytes=memory_bytes + _ADDRESS_SLACK_BYTES,
        alarm_s=timeout_s + _ALARM_SLACK_S,
    )
    try:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except OSError as error:
        raise GateUnavailable(f"The gate's child process cannot be started: {error}. Free memory or processes.") from error
    with _Watch(process, timeout_s, memory_bytes) as watch:
        return watch.result(order)


class _Watch:
    """A child under watch: its wall time and its resident memory. It is dead when the block ends."""

    def __init__(self, process: subprocess.Popen[bytes], timeout_s: float, memory_bytes: int) -> None:
        self._process = process
        self._timeout_s = timeout_s
        self._memory_bytes = memory_bytes
        self._peak_bytes = 0
        self._said = (b"", b"")
        assert process.stdin is not None
        # Kept from communicate(), which would close it: its end tells the child that we are gone.
        self._stdin: IO[bytes] = process.stdin
        process.stdin = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        with contextlib.suppress(BrokenPipeError):  # what it died before reading is still to be written
            self._stdin.close()

    def result(self, order: TrialOrder) -> TrialResult:
        """What the child says, or why it says nothing."""
        try:
            self._stdin.write(msgspec.json.encode(order) + b"\n")
            self._stdin.flush()
        except BrokenPipeError:
            pass  # it died before it read; how it died is told below
        stopped = self._stopped()
        if stopped is not None:
            return TrialResult(failure=stopped, peak_memory_bytes=self._peak_bytes or None)
        return self._read()

    def _stopped(self) -> str | None:
        """Wait for the child's end; why it must be stopped before, or None."""
        started = time.perf_counter()
        while True:
            try:
                self._said = self._process.communicate(timeout=_LOOK_EVERY_S)
                return None
            except subprocess.TimeoutExpired:
                pass
            if time.perf_counter() - started > self._timeout_s:
                return f"it did not finish within {self._timeout_s:g} s and was stopped"
            if self._resident() > self._memory_bytes:
                return self._too_much(self._peak_bytes)

    def _resident(self) -> int:
        try:
            resident = int(psutil.Process(self._process.pid).memory_info().rss)
        except psutil.Error:  # it ended a moment ago
            return 0
        self._peak_bytes = max(self._peak_bytes, resident)
        return resident

    def _read(self) -> TrialResult:
        stdout, stderr = self._said
        code = self._process.returncode
        if code == 0:
            return self._decode(stdout)
        said = " ".join(stderr.decode("utf-8", "replace").split())[-_STDERR_TAIL:]
        return TrialResult(failure=f"its trial {_ending(code)}" + (f": {said}" if said else ""))

    def _decode(self, stdout: bytes) -> TrialResult:
        try:
            result = msgspec.json.decode(stdout, type=TrialResult)
        except msgspec.DecodeError:
            return TrialResult(failure="its trial ended without a result")
        peak = result.peak_memory_bytes or 0
        if peak > self._memory_bytes:  # a peak between two looks
            return msgspec.structs.replace(result, failure=self._too_much(peak))
        return result

    def _too_much(self, taken: int) -> str:
        return f"it took {taken >> 20} MiB of memory, at most {self._memory_bytes >> 20} MiB are allowed"


def _ending(code: int) -> str:
    """How a process ended, for people."""
    if code >= 0:
        return f"failed with exit code {code}"
    if -code == signal.SIGKILL:
        return "was killed, most likely because the device ran out of memory"
    return f"crashed ({signal.strsignal(-code) or f'signal {-code}'})"
