"""Counting: latency, classes, and values that are no numbers."""

from __future__ import annotations

import numpy as np
import pytest

from fleet_protocol.histogram import Histogram
from fleet_protocol.telemetry import ModelUsage
from fleet_protocol.tensors import TensorSpec
from runtime.engine import Array
from runtime.hosting.usage import UsageCounter, add_all, all_finite, looks_like_scores

X = TensorSpec(name="x", datatype="FP32", shape=(-1, 2))
GIVEN = {"x": np.zeros((1, 2), np.float32)}
NAMES = {"model": "m", "version": "1.0.0", "manifest": "sha256:" + "0" * 64, "variant": "v"}


def spec(datatype: str, *shape: int) -> TensorSpec:
    return TensorSpec(name="y", datatype=datatype, shape=shape)  # type: ignore[arg-type]  # tests name types by text


@pytest.mark.parametrize(
    ("output", "scores"),
    [
        (spec("FP32", -1, 10), True),
        (spec("INT8", 1, 2), True),
        (spec("FP32", -1, 1), False),
        (spec("FP32", -1, -1), False),
        (spec("FP32", 10), False),
        (spec("FP32", -1, 3, 4), False),
        (spec("BOOL", -1, 10), False),
        (spec("BYTES", -1, 10), False),
        (spec("FP32", -1, 5000), False),
    ],
)
def test_class_scores_are_told_from_other_outputs(output: TensorSpec, scores: bool) -> None:
    assert looks_like_scores(output) is scores


def counter_of(*shape: int, labels: tuple[str, ...] = (), started: float = 0.0) -> UsageCounter:
    return UsageCounter((X,), (spec("FP32", *shape),), labels, started)


def taken(counter: UsageCounter, now: float = 1.0) -> ModelUsage:
    usage = counter.take(now, **NAMES)
    assert usage is not None
    return usage


def scores(*rows: tuple[float, ...], of: int = 1) -> dict[str, Array]:
    """Answers of `of` times as many samples as there are rows."""
    return {"y": np.tile(np.array(rows, np.float32), (of, 1))}


LARGE = 200
"""So many rows are looked at at once; few are kept for later."""


@pytest.mark.parametrize("of", [1, LARGE])
def test_classes_without_a_label_are_counted_by_number(of: int) -> None:
    counter = counter_of(-1, 3, labels=("cat",))
    counter.note(0.1, GIVEN, scores((9, 0, 0), (0, 9, 0), (0, 9, 0), of=of))
    assert taken(counter).predictions == {"cat": of, "1": 2 * of}


@pytest.mark.parametrize("samples", [3, 500])
def test_outputs_that_are_no_scores_have_no_classes(samples: int) -> None:
    counter = counter_of(-1)
    counter.note(0.1, GIVEN, {"y": np.zeros(samples, np.float32)})
    usage = taken(counter)
    assert (usage.predictions, usage.latency.count) == ({}, 1)


def test_an_empty_batch_has_no_classes() -> None:
    counter = counter_of(-1, 3)
    counter.note(0.1, GIVEN, {"y": np.zeros((0, 3), np.float32)})
    assert (taken(counter).predictions, counter.healthy) == ({}, 1)


@pytest.mark.parametrize("of", [1, LARGE])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_answer_that_is_no_number_is_the_models_fault_or_its_inputs(of: int, bad: float) -> None:
    counter = counter_of(-1, 3)
    spoilt = {"x": np.full((1, 2), np.nan, np.float32)}
    for inputs, row in ((GIVEN, (1, 2, 3)), (GIVEN, (1, bad, 3)), (spoilt, (1, bad, 3)), (spoilt, (3, 2, 1))):
        counter.note(0.1, inputs, scores(row, of=of))
    assert (counter.healthy, counter.faults) == (2, 1)
    usage = taken(counter)
    assert (usage.errors, usage.predictions) == ({"non_finite": 1, "invalid_input": 1}, {"2": of, "0": of})
    assert usage.latency.count == 4


def test_what_a_caller_does_to_the_arrays_afterwards_changes_no_count() -> None:
    counter = counter_of(-1, 3)
    inputs, outputs = {"x": np.zeros((1, 2), np.float32)}, scores((0, 1, 0))
    counter.note(0.1, inputs, outputs)
    inputs["x"][:], outputs["y"][:] = np.nan, np.nan
    assert (counter.healthy, taken(counter).predictions) == (1, {"1": 1})


def test_an_answer_of_an_odd_shape_is_counted_without_classes() -> None:
    counter = counter_of(-1, 3)
    counter.note(0.1, GIVEN, {"y": np.zeros(4, np.float32)})
    counter.note(0.1, GIVEN, scores((0, 1, 0)))
    assert (counter.healthy, taken(counter).predictions) == (2, {"1": 1})


def test_an_engine_that_answers_another_type_than_it_says_is_counted_all_the_same() -> None:
    counter = counter_of(-1, 3)
    counter.note(0.1, GIVEN, {"y": np.array([[0.0, 1.0, 0.0]])})
    assert taken(counter).predictions == {"1": 1}


def test_the_typical_latency_is_the_mean_of_the_last_few_whether_they_were_looked_at_or_not() -> None:
    counter = counter_of(-1, 3)
    assert counter.typical_s is None
    for seconds in (9.0, *(0.1, 0.3) * 4):
        counter.note(seconds, GIVEN, scores((0, 1, 0)))
    assert counter.typical_s == pytest.approx(0.2)
    assert counter.healthy == 9
    assert counter.typical_s == pytest.approx(0.2)


def test_a_take_after_nothing_is_nothing() -> None:
    assert counter_of(-1, 3).take(1.0, **NAMES) is None


def test_a_clock_that_went_back_gives_no_negative_time() -> None:
    counter = counter_of(-1, 3, started=100.0)
    counter.note(0.1, GIVEN, scores((1, 0, 0)))
    usage = taken(counter, 50.0)
    assert (usage.start, usage.end) == (100.0, 100.0)


def test_more_answers_than_are_folded_at_once_are_all_counted() -> None:
    counter = counter_of(-1, 3)
    rows = [scores((1, 0, 0)), scores((0, 1, 0)), scores((0, 0, 1))]
    for at in range(5000):
        counter.note(0.001 * (1 + at % 7), GIVEN, rows[at % 3])
    usage = taken(counter)
    assert usage.latency.count == sum(usage.latency.buckets.values()) == 5000
    assert sum(usage.predictions.values()) == 5000


def test_folding_many_gives_the_histogram_of_recording_each() -> None:
    values = [*np.random.default_rng(3).lognormal(-8, 2, 2000).tolist(), 0.0]
    folded, recorded = Histogram(), Histogram()
    add_all(folded, values)
    for value in values:
        recorded.record(value)
    assert folded.buckets == recorded.buckets
    assert (folded.zeros, folded.count) == (1, 2001)
    assert (folded.minimum, folded.maximum) == (recorded.minimum, recorded.maximum)
    assert folded.total == pytest.approx(recorded.total)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_one_value_that_is_no_number_is_found(bad: float, dtype: str) -> None:
    array = np.ones((4, 5), dtype)
    assert all_finite({"y": array})
    array[2, 3] = bad
    assert not all_finite({"x": np.ones(3), "y": array})


def test_large_numbers_are_still_finite() -> None:
    assert all_finite({"y": np.full((100,), 3e38, np.float32), "z": np.full((2,), 60000, np.float16)})


def test_whole_numbers_and_texts_are_finite() -> None:
    assert all_finite({"y": np.arange(3), "z": np.array(["nan"], object), "e": np.zeros((0,), np.float32)})
