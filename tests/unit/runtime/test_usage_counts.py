"""Counting: latency, classes, and values that are no numbers."""

from __future__ import annotations

import numpy as np
import pytest

from fleet_protocol.histogram import Histogram
from fleet_protocol.tensors import TensorSpec
from runtime.usage import UsageCounter, add_all, all_finite, looks_like_scores

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


def test_classes_without_a_label_are_counted_by_number() -> None:
    counter = UsageCounter((spec("FP32", -1, 3),), ("cat",), 0.0)
    classes = counter.classes_of({"y": np.array([[9, 0, 0], [0, 9, 0], [0, 9, 0]], np.float32)})
    counter.answered(0.1, classes)
    usage = counter.take(1.0, **NAMES)
    assert usage is not None
    assert usage.predictions == {"cat": 1, "1": 2}


def test_outputs_that_are_no_scores_have_no_classes() -> None:
    counter = UsageCounter((spec("FP32", -1),), (), 0.0)
    assert counter.classes_of({"y": np.zeros(3, np.float32)}) == []


def test_an_empty_batch_has_no_classes() -> None:
    counter = UsageCounter((spec("FP32", -1, 3),), (), 0.0)
    assert counter.classes_of({"y": np.zeros((0, 3), np.float32)}) == []


def test_a_take_after_nothing_is_nothing() -> None:
    assert UsageCounter((spec("FP32", -1, 3),), (), 0.0).take(1.0, **NAMES) is None


def test_a_clock_that_went_back_gives_no_negative_time() -> None:
    counter = UsageCounter((spec("FP32", -1, 3),), (), 100.0)
    counter.answered(0.1, [0])
    usage = counter.take(50.0, **NAMES)
    assert usage is not None
    assert (usage.start, usage.end) == (100.0, 100.0)


def test_more_answers_than_are_folded_at_once_are_all_counted() -> None:
    counter = UsageCounter((spec("FP32", -1, 3),), (), 0.0)
    for at in range(5000):
        counter.answered(0.001 * (1 + at % 7), [at % 3])
    usage = counter.take(1.0, **NAMES)
    assert usage is not None
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
