"""The token bucket: never more than its rate, and a wait that is long enough."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_registry.pacing import TokenBucket


def test_it_starts_full_and_fills_again() -> None:
    bucket = TokenBucket(rate=10, burst=20)
    assert bucket.take(20, now=0) == 0
    assert bucket.take(5, now=0) == pytest.approx(0.5)
    assert bucket.take(5, now=0.5) == 0


def test_asking_takes_nothing() -> None:
    bucket = TokenBucket(rate=1, burst=1)
    assert [bucket.wait(1, now=0) for _ in range(3)] == [0, 0, 0]
    assert bucket.take(1, now=0) == 0


def test_more_than_the_burst_is_let_through_once_full_and_paid_off_after() -> None:
    bucket = TokenBucket(rate=10, burst=10)
    assert bucket.take(30, now=0) == 0
    assert bucket.take(1, now=0) == pytest.approx(2.1)


def test_a_clock_that_stands_or_goes_back_gives_nothing() -> None:
    bucket = TokenBucket(rate=10, burst=10)
    bucket.take(10, now=100)
    assert bucket.take(1, now=50) > 0


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0.01, 20)), max_size=50))
def test_over_any_time_no_more_is_taken_than_burst_and_rate_allow(steps: list[tuple[float, float]]) -> None:
    bucket, now, taken = TokenBucket(rate=7, burst=20), 0.0, 0.0
    for pause, amount in steps:
        now += pause
        if bucket.take(amount, now) == 0:
            taken += amount
    assert taken <= 20 + 7 * now + 1e-6


@given(st.floats(0.01, 30), st.floats(0.01, 30))
def test_after_the_wait_it_is_there(first: float, second: float) -> None:
    bucket = TokenBucket(rate=3, burst=10)
    bucket.take(first, now=0)
    seconds = bucket.take(second, now=0)
    assert bucket.take(second, now=seconds + 1e-6) == 0 or seconds == 0
