"""What other processes take of the processor while a model is tuned."""

from __future__ import annotations

import pytest

from runtime.tuning import other_work
from runtime.tuning.other_work import Spent, others_share, warning

BEFORE = Spent(passed_s=100.0, busy_s=40.0, ours_s=5.0)


def after(busy_s: float, ours_s: float) -> Spent:
    """Twenty seconds later on two cores."""
    return Spent(passed_s=140.0, busy_s=40.0 + busy_s, ours_s=5.0 + ours_s)


def test_the_kernels_line_tells_time_and_work_steal_included() -> None:
    line = "cpu  500 100 200 1000 300 10 20 70 9999 9999"
    assert other_work.read(line, ticks_a_second=100, ours_s=3.0) == Spent(22.0, 9.0, 3.0)


def test_what_is_not_ours_is_others() -> None:
    assert others_share(BEFORE, after(busy_s=30.0, ours_s=20.0)) == pytest.approx(0.25)


def test_more_of_ours_than_ticks_tell_is_nothing_of_others() -> None:
    assert others_share(BEFORE, after(busy_s=19.9, ours_s=20.0)) == 0.0
    assert others_share(BEFORE, BEFORE) == 0.0


def test_a_device_that_others_kept_busy_is_named_and_a_quiet_one_is_not() -> None:
    assert "Other processes took 25% of the processor" in warning(BEFORE, after(busy_s=30.0, ours_s=20.0))
    assert warning(BEFORE, after(busy_s=23.0, ours_s=20.0)) == ""
    assert warning(None, BEFORE) == warning(BEFORE, None) == ""


def test_the_system_tells_more_and_more() -> None:
    first, second = other_work.spent(), other_work.spent()
    if first is not None and second is not None:
        assert second.passed_s >= first.passed_s
        assert second.ours_s >= first.ours_s > 0
