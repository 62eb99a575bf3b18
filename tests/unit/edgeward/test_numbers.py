"""Numbers on the command line."""

from __future__ import annotations

import click
import pytest

from edgeward.numbers import Number


@pytest.mark.parametrize("said", ["nan", "inf", "-inf", "0", "3", "x"])
def test_what_is_no_number_within_the_range_is_refused(said: str) -> None:
    with pytest.raises(click.BadParameter):
        Number(0, 2, min_open=True).convert(said, None, None)


def test_infinity_is_refused_where_there_is_no_upper_end() -> None:
    with pytest.raises(click.BadParameter, match="no finite number"):
        Number(0).convert("inf", None, None)


def test_a_number_within_the_range_is_taken() -> None:
    assert Number(0, 2).convert("0.5", None, None) == 0.5
