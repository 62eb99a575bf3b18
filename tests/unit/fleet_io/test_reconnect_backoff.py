"""How long a client waits before it connects again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet_io.mqtt import FIRST_BACKOFF_S, LONGEST_BACKOFF_S, REFUSED_BACKOFF_S, backoff

chances = st.floats(0, 1, exclude_max=True)


@given(attempt=st.integers(1, 10_000), chance=chances)
def test_no_wait_is_negative_or_longer_than_the_longest(attempt: int, chance: float) -> None:
    assert 0 <= backoff(attempt, chance, refused=False) <= LONGEST_BACKOFF_S


@given(attempt=st.integers(1, 10_000), chance=chances)
def test_whoever_was_refused_waits_long_but_not_all_equally(attempt: int, chance: float) -> None:
    assert REFUSED_BACKOFF_S / 2 <= backoff(attempt, chance, refused=True) <= REFUSED_BACKOFF_S * 1.5


@pytest.mark.parametrize("attempt", range(1, 7))
def test_each_attempt_doubles_the_range_and_chance_fills_all_of_it(attempt: int) -> None:
    assert backoff(attempt, 0.0, refused=False) == 0.0
    assert backoff(attempt, 0.5, refused=False) == FIRST_BACKOFF_S * 2 ** (attempt - 1) / 2
