"""One trial: a model file, loaded and asked every golden sample alone, as requests come; and what was measured.

This is the work of the gate's child process (`runtime.gate_child`); it may crash, hang or eat memory, and the gate outlives it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from fleet_protocol.tensors import DYNAMIC, TensorSpec
from runtime import golden, parity
from runtime.engine import Array
from runtime.errors import InvalidInput, RuntimeFailure
from runtime.golden import GoldenSet
from runtime.model import Model, load

WARM_UP_RUNS: Final = 1


class TrialOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What the child shall try. `cpu_seconds`, `address_bytes` and `alarm_s` are limits that the child sets upon itself."""

    model: str
    session_options: dict[str, str]
    golden: str
    cpu_seconds: int
    address_bytes: int
    alarm_s: float


class TrialResult(msgspec.Struct, frozen=True, kw_only=True):
    """What the child measured. With a `failure` (for people) the rest is as far as it got."""

    failure: str | None = None
    engine: str = ""
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    samples: int = 0
    sqnr_db: float | None = None
    """The least over the floating-point outputs; None without one."""
    agreement: float | None = None
    """Of the first output with classes."""
    accuracy: float | None = None
    latency_p50_s: float | None = None
    peak_memory_bytes: int | None = None


def run(model: Path, session_options: Mapping[str, str], golden_file: Path) -> TrialResult:
    """Load, ask, compare. Failures of the model or the golden file are in the result; never raises `RuntimeFailure`."""
    try:
        wanted = golden.read(golden_file)
        candidate = load(model, session_options=session_options)
        answers, seconds = ask(candidate, wanted)
        return compare(candidate, wanted, answers, seconds)
    except RuntimeFailure as error:
        return TrialResult(failure=str(error))


def ask(model: Model, wanted: GoldenSet) -> tuple[dict[str, Array], list[float]]:
    """The model's answers to all golden inputs, first axis the sample, and each run's seconds."""
    parts: dict[str, list[Array]] = {spec.name: [] for spec in model.outputs}
    seconds = []
    batches = list(_batches(model, wanted))
    for request, _ in batches[:WARM_UP_RUNS]:
        model(request)
    for request, count in batches:
        started = time.perf_counter()
        outputs = model(request)
        seconds.append(time.perf_counter() - started)
        for name, array in outputs.items():
            if not array.ndim:
                raise InvalidInput(f"Output {name} has no sample axis; golden outputs have one.")
            parts[name].append(array[:count])
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}, seconds


def _batches(model: Model, wanted: GoldenSet) -> Iterator[tuple[dict[str, Array], int]]:
    """Requests of one sample, or of the model's fixed batch (the last one filled up), and how many samples count."""
    size = _batch_size(model)
    for start in range(0, wanted.samples, size):
        rows = np.minimum(np.arange(start, start + size), wanted.samples - 1)
        yield {name: array[rows] for name, array in wanted.inputs.items()}, min(size, wanted.samples - start)


def _batch_size(model: Model) -> int:
    first = model.inputs[0].shape if model.inputs else ()
    return 1 if not first or first[0] in (DYNAMIC, 0) else first[0]


def compare(model: Model, wanted: GoldenSet, answers: dict[str, Array], seconds: list[float]) -> TrialResult:
    """Hold the answers against the golden outputs."""
    result = TrialResult(
        engine=model.engine,
        inputs=model.inputs,
        outputs=model.outputs,
        samples=wanted.samples,
        latency_p50_s=statistics.median(seconds),
    )
    failure = _mismatch(wanted, answers)
    if failure is not None:
        return msgspec.structs.replace(result, failure=failure)
    ratios = [parity.sqnr_db(array, answers[name]) for name, array in wanted.outputs.items() if array.dtype.kind == "f"]
    agreements = [parity.agreement(array, answers[name]) for name, array in wanted.outputs.items()]
    scores = answers.get(model.outputs[0].name) if model.outputs else None
    return msgspec.structs.replace(
        result,
        sqnr_db=min(ratios, default=None),
        agreement=next((each for each in agreements if each is not None), None),
        accuracy=None if wanted.labels is None or scores is None else parity.accuracy(scores, wanted.labels),
    )


def _mismatch(wanted: GoldenSet, answers: dict[str, Array]) -> str | None:
    """Why answers and golden outputs cannot be compared, for people; None when they can."""
    for name, array in wanted.outputs.items():
        if name not in answers:
            return f"it has no output {name}; it has {', '.join(answers)}"
        got = answers[name]
        if got.shape != array.shape:
            return f"output {name} has shape {list(got.shape)} on the golden inputs; wanted {list(array.shape)}"
        if got.dtype.kind == "f" and not np.isfinite(got).all():
            bad = int((~np.isfinite(got)).reshape(len(got), -1).any(axis=1).sum())
            return f"output {name} holds NaN or infinity for {bad} of {len(got)} golden samples"
    return None
