"""Adding up and summing up, without any IO."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet_protocol import limits
from fleet_protocol.otlp import OTHER
from fleet_protocol.telemetry import ModelUsage
from fleet_telemetry.aggregate import OLDEST_S, Tally, believed_period, hour_of, shares, unpack
from tests.support import strategies as ours
from tests.support.reports import NOW, a_usage


def tally_of(*usages: ModelUsage) -> Tally:
    tally = Tally()
    for usage in usages:
        tally.add(usage, start=usage.start, end=usage.end)
    return tally


def exact(tally: Tally) -> tuple[object, ...]:
    return (*ours.contents(tally.latency), tally.predictions, tally.errors, tally.first, tally.last)


def test_a_summary_says_what_happened() -> None:
    tally = tally_of(
        a_usage((0.01, 0.02, 0.03), predictions={"7": 2, "1": 1}, errors={"failed": 1}, end=NOW - 100),
        a_usage((0.04,), predictions={"7": 1}, end=NOW),
    )
    summary = tally.summary()
    assert (summary.inferences, summary.failed, summary.errors) == (4, 1, {"failed": 1})
    assert summary.error_share == pytest.approx(1 / 5)
    assert summary.predictions == {"1": 1, "7": 3}
    assert summary.shares == {"1": 0.25, "7": 0.75}
    assert (summary.first, summary.last) == (NOW - 110, NOW)
    assert summary.latency.mean == pytest.approx(0.025)
    assert summary.latency.p50 == pytest.approx(0.02, rel=0.011)
    assert summary.latency.p99 == pytest.approx(0.04, rel=0.011)
    assert (summary.latency.minimum, summary.latency.maximum) == (0.01, 0.04)


def test_the_summary_of_nothing_has_no_times_and_divides_nothing_by_zero() -> None:
    summary = Tally().summary()
    assert (summary.inferences, summary.error_share, summary.shares, summary.first, summary.last) == (0, 0.0, {}, None, None)
    assert summary.latency.p50 is None


def test_a_release_that_only_fails_has_an_error_share_of_one() -> None:
    assert tally_of(a_usage((), errors={"failed": 3})).summary().error_share == 1.0


@settings(max_examples=40)
@given(usages=st.lists(ours.usages(), max_size=5), data=st.data())
def test_the_order_and_grouping_of_reports_does_not_matter(usages: list[ModelUsage], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(usages))
    cut = data.draw(st.integers(0, len(usages)))
    grouped = tally_of(*shuffled[:cut])
    grouped.merge(tally_of(*shuffled[cut:]))
    everything = tally_of(*usages)
    assert exact(grouped) == exact(everything)
    assert math.isclose(grouped.latency.total, everything.latency.total, rel_tol=1e-12, abs_tol=1e-300)


@settings(max_examples=40)
@given(usages=st.lists(ours.usages(), max_size=3))
def test_a_tally_survives_the_database(usages: list[ModelUsage]) -> None:
    tally = tally_of(*usages)
    again = unpack(tally.pack())
    assert exact(again) == exact(tally)
    assert again.latency.total == tally.latency.total
    assert exact(unpack(b"")) == exact(Tally())


def test_classes_beyond_the_limit_are_counted_together_and_none_is_lost() -> None:
    tally = Tally()
    for start in range(0, 3 * limits.CLASSES, limits.CLASSES):
        usage = a_usage(predictions={f"class {number}": 2 for number in range(start, start + limits.CLASSES)})
        tally.add(usage, start=0, end=1)
    assert len(tally.predictions) == limits.CLASSES
    assert sum(tally.predictions.values()) == 6 * limits.CLASSES
    assert tally.predictions[OTHER] == 2 * (2 * limits.CLASSES + 1)


@pytest.mark.parametrize(
    ("start", "end", "believed"),
    [
        (NOW - 20, NOW - 10, (NOW - 20, NOW - 10)),
        (NOW + 10, NOW + 20, (NOW, NOW)),
        (NOW - 10, NOW + 20, (NOW - 10, NOW)),
        (0.0, 10.0, (NOW, NOW)),
        (NOW - 2 * OLDEST_S, NOW, (NOW, NOW)),
        (NOW, NOW - 10, (NOW - 10, NOW - 10)),
        (1e10, 1.8e10, (NOW, NOW)),
    ],
)
def test_a_period_that_cannot_be_is_put_where_it_was_heard_of(start: float, end: float, believed: tuple[float, float]) -> None:
    assert believed_period(msgspec.structs.replace(a_usage(), start=start, end=end), NOW) == believed


def test_an_hour_is_known_by_its_start() -> None:
    assert hour_of(7199.9) == 3600
    assert hour_of(7200.0) == 7200


@given(counts=st.dictionaries(ours.words, st.integers(0, 10**12)))
def test_shares_add_up_to_one_or_are_none(counts: dict[str, int]) -> None:
    total = sum(shares(counts).values())
    assert math.isclose(total, 1.0) if sum(counts.values()) else total == 0
