"""What a shadow compares, how it sums up, and how it keeps its CPU time below its share."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import parity
from runtime.engine import Array
from runtime.shadowing.shadow_record import Comparison, CpuAccount, Tally, compare


def scores(*rows: tuple[float, ...]) -> dict[str, Array]:
    return {"scores": np.array(rows, np.float32)}


def test_classes_are_compared_sample_by_sample() -> None:
    found = compare(scores((1, 2), (4, 3)), scores((1, 2), (3, 4)), seconds=0.5)
    assert (found.outcome, found.samples, found.agreed, found.seconds) == ("compared", 2, 1, 0.5)


def test_where_there_are_no_classes_the_difference_counts() -> None:
    live, got = {"y": np.array([[[3.0, 4.0]]], np.float32)}, {"y": np.array([[[3.0, 4.5]]], np.float32)}
    found = compare(live, got, seconds=0.0)
    assert (found.samples, found.signal, found.noise, found.max_difference) == (0, 25.0, 0.25, 0.5)


def test_texts_are_classes() -> None:
    live, got = {"label": np.array(["cat", "dog"], object)}, {"label": np.array(["cat", "cow"], object)}
    found = compare(live, got, seconds=0.0)
    assert (found.samples, found.agreed) == (2, 1)


def test_not_a_number_is_counted_and_not_compared() -> None:
    assert compare(scores((1, 2)), scores((1, float("nan"))), seconds=0.0).outcome == "non_finite"


@pytest.mark.parametrize("got", [{"other": np.zeros((1, 2), np.float32)}, scores((1, 2, 3))])
def test_other_names_or_shapes_cannot_be_compared_and_say_why(got: dict[str, Array]) -> None:
    found = compare(scores((1, 2)), got, seconds=0.0)
    assert found.outcome == "incomparable"
    assert "scores [1, 2]" in found.why


def test_a_tally_sums_over_all_samples() -> None:
    tally = Tally()
    tally.add(Comparison(outcome="compared", samples=1, agreed=0, signal=50.0, noise=1.0, seconds=0.2), live_s=0.1)
    tally.add(Comparison(outcome="compared", samples=3, agreed=3, signal=50.0, noise=0.0, max_difference=1.0), live_s=0.1)
    tally.add(Comparison(outcome="failed", why="no"), live_s=9.0)
    found = tally.findings()
    assert (found["agreement"], found["classes_compared"], found["max_difference"]) == (0.75, 4, 1.0)
    assert found["sqnr_db"] == pytest.approx(20.0)
    assert found["live_p95_s"] == pytest.approx(0.1, rel=0.02)
    assert (tally.requests, tally.why) == ({"compared": 2, "failed": 1}, "no")


def test_an_empty_tally_claims_nothing() -> None:
    assert set(Tally().findings().values()) == {None, 0}


def test_equal_answers_have_the_best_ratio() -> None:
    tally = Tally()
    tally.add(compare(scores((1, 2)), scores((1, 2)), seconds=0.0), live_s=0.0)
    assert tally.findings()["sqnr_db"] == parity.SQNR_LIMIT_DB


@given(share=st.floats(0.01, 1.0), work=st.lists(st.tuples(st.floats(0.0, 0.5), st.floats(0.0, 2.0)), min_size=1))
def test_whoever_waits_as_told_stays_within_the_share(share: float, work: list[tuple[float, float]]) -> None:
    now, account, spent = 0.0, CpuAccount(share, now=0.0), 0.0
    for cpu_s, idle_s in work:
        now += account.wait_s(now) + idle_s
        assert spent <= share * now + 1e-6
        began, now, spent = now, now + cpu_s, spent + cpu_s
        account.spend(cpu_s, began=began)
    now += account.wait_s(now)
    assert account.share(now) <= share + 1e-6 or spent == 0


def test_what_was_not_earned_yet_adds_up() -> None:
    account = CpuAccount(0.5, now=0.0)
    account.spend(1.0, began=0.0)
    account.spend(1.0, began=0.5)
    assert account.wait_s(0.5) == pytest.approx(3.5)


def test_idle_time_saves_nothing_for_later() -> None:
    account = CpuAccount(0.5, now=0.0)
    account.spend(1.0, began=100.0)
    assert account.wait_s(100.0) == pytest.approx(2.0)
