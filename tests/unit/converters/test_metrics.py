"""Intervals and noise against what is known of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.judging.metrics import (
    Interval,
    Outputs,
    all_finite,
    looks_like_probabilities,
    looks_like_scores,
    median_interval,
    paired_difference,
    wilson,
    worst_sqnr_db,
)


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"), [(10, 10, 0.7225, 1.0), (0, 10, 0.0, 0.2775), (81, 263, 0.2553, 0.3662)]
)
def test_wilson_gives_the_published_figures(successes: int, count: int, low: float, high: float) -> None:
    interval = wilson(successes, count)
    assert interval.low == pytest.approx(low, abs=5e-4)
    assert interval.high == pytest.approx(high, abs=5e-4)


@given(st.integers(0, 500), st.integers(1, 500))
def test_wilson_holds_the_share_and_stays_a_share(successes: int, more: int) -> None:
    interval = wilson(successes, successes + more)
    assert 0 <= interval.low <= successes / (successes + more) <= interval.high <= 1


def test_a_paired_difference_without_change_is_around_zero_and_not_certain() -> None:
    right = np.ones(100, bool)
    interval = paired_difference(right, right)
    assert interval.low < 0 < interval.high


def test_a_paired_difference_sees_a_loss() -> None:
    before, after = np.ones(400, bool), np.ones(400, bool)
    after[:40] = False
    interval = paired_difference(before, after)
    assert interval.low < -0.1 < interval.high < -0.05


def test_the_worst_output_counts() -> None:
    reference: Outputs = {"a": np.ones(10, np.float32), "b": np.ones(10, np.float32), "c": np.arange(10)}
    outputs: Outputs = {"a": np.ones(10, np.float32), "b": np.full(10, 1.1, np.float32), "c": np.zeros(10, np.int64)}
    assert worst_sqnr_db(reference, outputs) == pytest.approx(20.0, abs=0.01)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_one_bad_number_is_found(bad: float) -> None:
    assert all_finite({"a": np.zeros(3), "b": np.zeros(3, np.int64)})
    assert not all_finite({"a": np.zeros(3), "b": np.array([0.0, bad])})


def test_probabilities_are_told_from_logits_and_values() -> None:
    assert looks_like_probabilities(np.array([[0.25, 0.75], [1.0, 0.0]]))
    assert not looks_like_probabilities(np.array([[2.0, -1.0]]))
    assert not looks_like_probabilities(np.ones((5, 1)))
    assert not looks_like_probabilities(np.ones(5))


@pytest.mark.parametrize(
    ("columns", "told"), [(1, False), (2, True), (100, True), (101, False), (1000, True), (1001, True), (1002, False)]
)
def test_class_scores_have_few_columns_or_imagenets(columns: int, told: bool) -> None:
    assert looks_like_scores(np.full((4, columns), 2, np.float32)) is told


def test_vectors_of_length_one_whole_numbers_and_single_values_are_no_class_scores() -> None:
    assert not looks_like_scores(np.full((3, 4), 0.5, np.float32))
    assert looks_like_scores(np.array([[1, 0], [3, 4]], np.float32))
    assert not looks_like_scores(np.full((3, 4), 2))
    assert not looks_like_scores(np.full(3, 2.5))


def test_a_medians_interval_holds_it_as_often_as_it_says() -> None:
    chance = np.random.default_rng(0)
    for count in (7, 40, 300):
        drawn = chance.lognormal(size=(2000, count))
        held = [interval.low <= 1.0 <= interval.high for interval in map(median_interval, drawn)]
        assert 0.94 < np.mean(held) < 1.0


def test_a_medians_interval_takes_no_notice_of_how_far_off_outliers_are() -> None:
    values = np.linspace(0.9, 1.1, 41)
    wild = np.where(values > 1.09, 1e6, values)
    assert median_interval(values) == median_interval(wild)
    assert median_interval(values[:3]) == Interval(values[0], values[2])
