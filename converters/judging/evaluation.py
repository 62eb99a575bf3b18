"""Runs variants and measures them: outputs over a data set, quality against float and labels, latency side by side.

Models run through `runtime.load`, as on a device, on one thread, so that the same samples give the same numbers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

import runtime
from converters.data.calibration import Dataset
from converters.errors import DataRejected, RecipeFailed, SourceRejected
from converters.judging import metrics
from fleet_protocol.tensors import DYNAMIC, TensorSpec
from runtime import parity

Outputs = dict[str, NDArray[Any]]
Stopwatch = Callable[[], float]

BATCH: Final = 64
AT_ONCE: Final = 64 * 1024**2
"""Bytes that the inner values of one call may take together, unless one sample's are more."""
_ROUNDS_AT_LEAST: Final = 7
_ROUNDS_AT_MOST: Final = 300
_PATIENCE: Final = 4
_LOADS: Final = 4
_SLOT_SECONDS: Final = 0.001
"""Each timing covers so many calls that the clock's own resolution does not matter, and no more: on a busy machine short ones
run undisturbed more often."""


@dataclass(frozen=True)
class Quality:
    """A variant on some samples, against the float model's outputs and, where known, the labels."""

    samples: int
    sqnr_db: float
    agreement: float | None
    accuracy: float | None
    right: NDArray[np.bool_] | None
    """Which samples were classified as labelled."""
    score: float | None = None
    """By the metric that was given or found, where there is one: more is better."""
    metric: str = ""
    """That metric's name."""
    guess: float | None = None
    """Agreement with float, where the first output may tell a class and nobody said so."""


def batch_size(specs: tuple[TensorSpec, ...], path: Path, inner: Callable[[], int] = lambda: 0) -> int:
    """How many samples one call takes; `inner` measures how many bytes one sample's inner values take.

    So many that these stay within `AT_ONCE`: more would cost memory, and time too, as they leave the processor's caches.
    Raises `SourceRejected` when an input has no axis to put samples on.
    """
    for spec in specs:
        if not spec.shape or spec.shape[0] not in (DYNAMIC, 1):
            raise SourceRejected(
                f"{path}: the input {spec.describe()} fixes its first axis. Export the model with a free batch axis, or with 1."
            )
    if any(spec.shape[0] != DYNAMIC for spec in specs):
        return 1
    return min(BATCH, max(1, AT_ONCE // max(1, inner())))


def load_source(path: Path, shown: Path) -> runtime.Model:
    """The float model, ready to run. `shown` is the user's file. Raises `SourceRejected`."""
    try:
        return runtime.load(path, threads=1)
    except runtime.ModelRejected as error:
        raise SourceRejected(f"{shown} cannot be run: {str(error).replace(str(path), 'the model')}") from error


def load_variant(path: Path, session_options: Mapping[str, str]) -> runtime.Model:
    """A variant, ready to run. Raises `RecipeFailed`."""
    try:
        return runtime.load(path, session_options=session_options, threads=1)
    except runtime.ModelRejected as error:
        said = str(error).replace(str(path), "the file").rstrip(".")
        raise RecipeFailed(f"cannot be run by the engine: {said}") from error


def run(model: runtime.Model, data: Dataset, *, batch: int) -> Outputs:
    """All outputs for all samples, first axis the sample. Raises `RecipeFailed`: the model does not run on such data."""
    found: Outputs = {}
    for start, inputs in zip(range(0, len(data), batch), data.batches(batch), strict=True):
        count = len(next(iter(inputs.values())))
        try:
            outputs = model(inputs)
        except (runtime.InferenceFailed, runtime.InvalidInput) as error:
            said = str(error).rstrip(".")
            raise RecipeFailed(f"fails on the data: {said}") from error
        for name, values in outputs.items():
            if not values.shape or values.shape[0] != count:
                raise RecipeFailed(
                    f"gives {name!r} in the shape {list(values.shape)} for {count} samples, and its first axis must count them"
                )
            if name not in found:
                found[name] = np.empty((len(data), *values.shape[1:]), values.dtype)
            if values.shape[1:] != found[name].shape[1:]:
                raise RecipeFailed(
                    f"gives {name!r} in the shape {list(values.shape)} after {[count, *found[name].shape[1:]]}: samples are "
                    "compared only where all answers have one shape"
                )
            found[name][start : start + count] = values
    return found


def class_output(specs: tuple[TensorSpec, ...], outputs: Outputs, labels: NDArray[np.int64] | None) -> str | None:
    """The output that tells the class, or None where the model gives values.

    It is the first output, as on the device: with labels, when it can be class scores or class numbers; without, when its
    rows are probabilities or it is class numbers. Raises `DataRejected` when it cannot have told such labels.
    """
    first = specs[0]
    answers = outputs[first.name]
    told = parity.classes(answers)
    if labels is None:
        return first.name if told is not None and (answers.ndim == 1 or metrics.looks_like_probabilities(answers)) else None
    if told is None:
        raise DataRejected(
            f"The data has labels, but the model's first output {first.describe()} is no row of class scores a sample. "
            "Leave the labels out, or put the scores first."
        )
    if answers.ndim == 2 and labels.size and int(labels.max()) >= answers.shape[1]:
        raise DataRejected(
            f"The data has the label {int(labels.max())}, but the model's output {first.describe()} has {answers.shape[1]} "
            f"classes, 0 to {answers.shape[1] - 1}."
        )
    return first.name


def judge(reference: Outputs, outputs: Outputs, labels: NDArray[np.int64] | None, classes: str | None) -> Quality:
    """Compare outputs with the float model's; `classes` names the output that tells the class.

    Raises `RecipeFailed` when they hold NaN or infinity.
    """
    if not metrics.all_finite(outputs):
        raise RecipeFailed("answers NaN or infinity")
    samples = len(next(iter(reference.values())))
    sqnr_db = metrics.worst_sqnr_db(reference, outputs)
    if classes is None:
        first = next(iter(reference))
        guess = parity.agreement(reference[first], outputs[first]) if metrics.looks_like_scores(reference[first]) else None
        return Quality(samples=samples, sqnr_db=sqnr_db, agreement=None, accuracy=None, right=None, guess=guess)
    predicted = parity.classes(outputs[classes])
    right = None if labels is None or predicted is None else predicted == labels
    return Quality(
        samples=samples,
        sqnr_db=sqnr_db,
        agreement=parity.agreement(reference[classes], outputs[classes]),
        accuracy=None if right is None else float(right.mean()),
        right=right,
    )


@dataclass(frozen=True)
class Ratio:
    """How long a model takes over another one: the median of the rounds' ratios, and its 95 % interval."""

    value: float
    low: float
    high: float


def latencies(
    models: Mapping[str, runtime.Model],
    data: Dataset,
    *,
    seconds: float,
    stopwatch: Stopwatch = time.process_time,
    clock: Stopwatch = time.perf_counter,
) -> dict[str, float]:
    """Seconds of one single-sample call, per model: the best of the `rounds`, because what else runs on the machine can only
    add to a time.
    """
    measured = rounds(models, data, seconds=seconds, stopwatch=stopwatch, clock=clock)
    return {name: float(times.min()) for name, times in measured.items()}


def rounds(
    models: Mapping[str, runtime.Model],
    data: Dataset,
    *,
    seconds: float,
    stopwatch: Stopwatch = time.process_time,
    clock: Stopwatch = time.perf_counter,
) -> dict[str, NDArray[np.float64]]:
    """Seconds of one single-sample call in each of many rounds, per model, taken for about `seconds` in all.

    `stopwatch` counts this process's own work: models run on one thread, and what else runs on the machine is not theirs. On a
    busy machine that takes longer, by the `clock` at most `_PATIENCE` times `seconds`.
    Interleaved: every round times every model, so that a machine that gets slower slows all alike.
    """
    sample = next(data.batches(1))
    order = list(models.items())
    calls = {name: _calls_per_slot(model, sample, stopwatch) for name, model in models.items()}
    measured: dict[str, list[float]] = {name: [] for name in models}
    start, began = stopwatch(), clock()
    for at in range(_ROUNDS_AT_MOST):
        for name, model in order if at % 2 else reversed(order):
            measured[name].append(_time(model, sample, calls[name], stopwatch))
        if at + 1 >= _ROUNDS_AT_LEAST and (stopwatch() - start > seconds or clock() - began > _PATIENCE * seconds):
            break
    return {name: np.array(times) for name, times in measured.items()}


Load = Callable[[], runtime.Model]


def loaded_again(one: Load, other: Load, data: Dataset, *, seconds: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The rounds of two models, each loaded anew several times, for `seconds` each time.

    Where a model comes to lie in memory is drawn at each load, and moved the same graph's latency by up to 3 % (measured).
    """
    found: list[dict[str, NDArray[np.float64]]] = []
    for at in range(_LOADS):
        loads = {"one": one, "other": other} if at % 2 else {"other": other, "one": one}
        models = {name: load() for name, load in loads.items()}
        try:
            found.append(rounds(models, data, seconds=seconds))
        finally:
            for model in models.values():
                model.close()
    return np.concatenate([each["one"] for each in found]), np.concatenate([each["other"] for each in found])


def ratio(times: NDArray[np.float64], others: NDArray[np.float64]) -> Ratio:
    """How long a model takes over another that was timed in the same rounds: what slowed a round slowed both."""
    each = times / np.maximum(others, 1e-12)
    sure = metrics.median_interval(each)
    return Ratio(float(np.median(each)), sure.low, sure.high)


def _calls_per_slot(model: runtime.Model, sample: Outputs, stopwatch: Stopwatch) -> int:
    for _ in range(3):
        model(sample)
    once = _time(model, sample, 1, stopwatch)
    return max(1, min(1000, int(_SLOT_SECONDS / max(once, 1e-7))))


def _time(model: runtime.Model, sample: Outputs, calls: int, stopwatch: Stopwatch) -> float:
    """Seconds of one call. Before short ones goes one that does not count: it fetches what other models pushed out."""
    if calls > 1:
        model(sample)
    before = stopwatch()
    for _ in range(calls):
        model(sample)
    return (stopwatch() - before) / calls
