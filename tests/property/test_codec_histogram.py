"""The histogram: quantiles within their bound against numpy, and a merge that is the same as counting everything at once."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fleet_protocol import limits
from fleet_protocol.histogram import (
    HIGHEST_BUCKET,
    LARGEST,
    LOWEST_BUCKET,
    SMALLEST,
    Histogram,
    bucket_of,
    midpoint,
    upper_bound,
)
from tests.support import strategies as ours

BOUND = 0.0109
values = st.lists(ours.latencies | st.just(0.0), min_size=1, max_size=200)
inside = st.floats(SMALLEST, LARGEST, exclude_min=True)


def histogram_of(recorded: list[float]) -> Histogram:
    histogram = Histogram()
    for value in recorded:
        histogram.record(value)
    return histogram


@given(value=inside)
@example(value=LARGEST)
@example(value=math.nextafter(SMALLEST, 1))
@example(value=math.nextafter(LARGEST, 0))
@example(value=math.nextafter(2.0, 0))
@example(value=math.nextafter(2.0, 3))
def test_a_value_lies_in_its_bucket(value: float) -> None:
    index = bucket_of(value)
    assert LOWEST_BUCKET <= index <= HIGHEST_BUCKET
    slack = 1 + 1e-12
    assert upper_bound(index - 1) / slack <= value <= upper_bound(index) * slack
    assert abs(midpoint(index) - value) <= BOUND * value


def test_all_buckets_together_fit_the_limit_of_the_wire() -> None:
    assert HIGHEST_BUCKET - LOWEST_BUCKET + 1 <= limits.HISTOGRAM_BUCKETS
    assert upper_bound(HIGHEST_BUCKET) == LARGEST
    assert upper_bound(LOWEST_BUCKET - 1) == SMALLEST


@given(recorded=values, q=st.sampled_from([0.0, 0.5, 0.9, 0.95, 0.99, 0.999, 1.0]))
def test_a_quantile_is_within_its_bound_of_numpys(recorded: list[float], q: float) -> None:
    got = histogram_of(recorded).quantile(q)
    want = float(np.quantile(recorded, q, method="inverted_cdf"))
    assert got is not None
    assert abs(got - want) <= BOUND * want


@pytest.mark.parametrize("seed", range(3))
def test_a_quantile_of_many_values_is_within_its_bound_of_numpys(seed: int) -> None:
    recorded = np.random.default_rng(seed).lognormal(-6, 1.5, 20_000)
    histogram = histogram_of(recorded.tolist())
    for q in (0.01, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999):
        want = float(np.quantile(recorded, q, method="inverted_cdf"))
        assert abs((histogram.quantile(q) or 0) - want) <= BOUND * want


@given(groups=st.lists(values, min_size=2, max_size=3))
def test_a_merge_in_any_order_is_the_same_as_counting_everything_at_once(groups: list[list[float]]) -> None:
    everything = histogram_of([value for group in groups for value in group])
    for order in permutations(groups):
        merged = Histogram()
        for group in order:
            merged.merge(histogram_of(group))
        assert ours.contents(merged) == ours.contents(everything)
        assert math.isclose(merged.total, everything.total, rel_tol=1e-12, abs_tol=1e-300)


@given(left=values, middle=values, right=values)
def test_a_merge_is_associative(left: list[float], middle: list[float], right: list[float]) -> None:
    one, other, inner = histogram_of(left), histogram_of(left), histogram_of(middle)
    one.merge(histogram_of(middle))
    one.merge(histogram_of(right))
    inner.merge(histogram_of(right))
    other.merge(inner)
    assert ours.contents(one) == ours.contents(other)


@given(recorded=st.lists(st.floats(), max_size=30))
def test_whatever_is_recorded_the_histogram_stays_sound(recorded: list[float]) -> None:
    histogram = histogram_of(recorded)
    assert histogram.count == sum(1 for value in recorded if math.isfinite(value))
    assert histogram.count == histogram.zeros + sum(histogram.buckets.values())
    assert math.isfinite(histogram.total)
    assert all(LOWEST_BUCKET <= index <= HIGHEST_BUCKET for index in histogram.buckets)
    quantiles = [histogram.quantile(q) for q in (0.0, 0.5, 0.99, 1.0)]
    assert (quantiles[0] is None) == (histogram.count == 0)
    if histogram.count:
        assert quantiles == sorted(quantiles)  # type: ignore[type-var]  # none of them is None when something was counted


def test_buckets_without_known_extremes_still_have_quantiles() -> None:
    histogram = Histogram()
    histogram.add_buckets({bucket_of(0.01): 3}, zeros=1, total=0.03)
    assert histogram.quantile(0.0) == 0.0
    assert histogram.quantile(0.9) == pytest.approx(0.01, rel=BOUND)
