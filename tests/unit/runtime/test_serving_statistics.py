"""The local server's totals: what is added up, and that they stay small."""

from __future__ import annotations

import threading

import pytest

from runtime.local_server.serving_statistics import BOUNDS_S, KEPT, ServingStatistics, Spent

MS = 1_000_000


def test_answers_add_up_and_other_ends_are_kept_apart() -> None:
    statistics = ServingStatistics()
    for _ in range(2):
        statistics.answered("m", "1", Spent(1 * MS, 2 * MS, 3 * MS, 4 * MS), samples=5, now=7.0)
    statistics.failed("m", "1", "invalid", Spent(decode=20 * MS))
    totals = statistics.of("m", "1")
    assert dict(totals.outcomes) == {"answered": 2, "invalid": 1}
    assert (totals.samples, totals.spent, totals.failed_ns, totals.last) == (
        10,
        Spent(2 * MS, 4 * MS, 6 * MS, 8 * MS),
        20 * MS,
        7.0,
    )
    assert abs(totals.total_s - 0.04) < 1e-9
    assert {bound: count for bound, count in zip((*BOUNDS_S, None), totals.buckets, strict=True) if count} == {
        0.01: 2,
        0.025: 1,
    }


def test_what_is_read_does_not_change_any_more() -> None:
    statistics = ServingStatistics()
    statistics.answered("m", "1", Spent(infer=1), samples=1, now=1.0)
    before, everything = statistics.of("m", "1"), statistics.all()
    statistics.answered("m", "1", Spent(infer=1), samples=1, now=1.0)
    assert before.outcomes["answered"] == everything["m", "1"].outcomes["answered"] == 1
    assert sum(before.buckets) == 1
    assert statistics.of("m", "2").samples == 0


@pytest.mark.usefixtures("restless_threads")
def test_nothing_is_lost_or_counted_twice_when_many_threads_count_and_somebody_reads() -> None:
    statistics, together, asked = ServingStatistics(), threading.Barrier(5), threading.Event()

    def ask() -> None:
        together.wait(20)
        for _ in range(2000):
            statistics.answered("m", "1", Spent(MS, 2, 3, 4), samples=5, now=1.0)
            statistics.failed("m", "1", "invalid", Spent(decode=MS))

    def read() -> None:
        together.wait(20)
        while not asked.is_set():
            statistics.all()

    askers, reader = [threading.Thread(target=ask) for _ in range(4)], threading.Thread(target=read)
    for each in (*askers, reader):
        each.start()
    for each in askers:
        each.join()
    asked.set()
    reader.join()
    totals = statistics.of("m", "1")
    assert dict(totals.outcomes) == {"answered": 8000, "invalid": 8000}
    assert (totals.samples, totals.spent, totals.failed_ns) == (40_000, Spent(8000 * MS, 16_000, 24_000, 32_000), 8000 * MS)
    assert sum(totals.buckets) == 16_000


def test_only_the_last_versions_are_kept() -> None:
    statistics = ServingStatistics()
    for number in range(KEPT + 3):
        statistics.answered("m", str(number), Spent(), samples=1, now=1.0)
    kept = statistics.all()
    assert len(kept) == KEPT
    assert ("m", "2") not in kept
    assert ("m", str(KEPT + 2)) in kept
