from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_agent.outbox import AT_ONCE, RESEND_S, Outbox, Waiting, merged
from fleet_protocol import otlp
from fleet_protocol.histogram import Histogram
from fleet_protocol.states import DeviceEvent, decode_event
from fleet_protocol.telemetry import Acknowledged, Lane, ModelUsage, decode_frame

BOOT = bytes(range(16))
MANIFEST = "sha256:" + "a" * 64


def usage(start: float, *, count: int = 3, version: str = "1.0.0", classes: int = 10) -> ModelUsage:
    latency = Histogram()
    for at in range(count):
        latency.record(0.001 * (1 + at % 7))
    predictions = {f"class-{at}-{secrets.token_hex(8)}": 1 for at in range(classes - 1)} | {"seven": count}
    return ModelUsage(
        model="digits",
        version=version,
        manifest=MANIFEST,
        variant="int8",
        start=start,
        end=start + 30,
        latency=latency,
        predictions=predictions,
        errors={"failed": 1},
    )


def event(at: int, detail: str = "") -> DeviceEvent:
    return DeviceEvent(at=at, kind="phase", model="digits", detail=detail)


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    made = Outbox(tmp_path / "outbox.sqlite", boot=BOOT, cap_bytes=1 << 20)
    yield made
    made.close()


def acknowledgement(*waiting: Waiting) -> Acknowledged:
    frames = [decode_frame(each.payload) for each in waiting]
    return Acknowledged(boot=frames[0].boot.hex(), sequences=tuple(frame.sequence for frame in frames))


def counted(outbox: Outbox) -> int:
    """Inferences in all metrics that wait."""
    outbox.forget_sent()
    total = 0
    while frames := [each for each in outbox.due(0.0) if each.lane is Lane.METRICS]:
        for each in frames:
            total += sum(one.latency.count for one in otlp.decode_usage(decode_frame(each.payload).body))
        outbox.acknowledge(acknowledgement(*frames))
    return total


def test_events_go_first_and_each_report_is_sent_once_while_its_answer_may_still_come(outbox: Outbox) -> None:
    outbox.add_usage([usage(0)], now=30)
    outbox.add_event(event(31))
    waiting = outbox.due(0.0)
    assert [each.lane for each in waiting] == [Lane.EVENTS, Lane.METRICS]
    assert decode_event(decode_frame(waiting[0].payload).body) == event(31)
    for each in waiting:
        outbox.sent(each, now=0.0)
    assert outbox.due(RESEND_S - 1) == []
    assert outbox.due(RESEND_S) == waiting


def test_only_what_the_backend_names_is_deleted(outbox: Outbox) -> None:
    for at in range(3):
        outbox.add_event(event(at))
    first, second, third = outbox.due(0.0)
    outbox.acknowledge(acknowledgement(first, third))
    assert outbox.due(0.0) == [second]
    other_boot = Acknowledged(boot="f" * 32, sequences=(decode_frame(second.payload).sequence,))
    outbox.acknowledge(other_boot)
    assert outbox.count(Lane.EVENTS) == 1


def test_what_the_disk_does_not_let_go_of_is_not_sent_again_at_once(outbox: Outbox, tmp_path: Path) -> None:
    """Else the backend answers it, which deletes nothing, and it is sent anew: a hundred times a second."""
    for at in range(2):
        outbox.add_event(event(at))
    waiting = outbox.due(0.0)
    for each in waiting:
        outbox.sent(each, now=0.0)
    with closing(sqlite3.connect(tmp_path / "outbox.sqlite")) as other:
        last = f"WHEN OLD.id = {waiting[-1].number} BEGIN SELECT RAISE(ABORT, 'no room'); END"
        other.execute(f"CREATE TRIGGER full BEFORE DELETE ON reports {last}")
        outbox.acknowledge(acknowledgement(*waiting))
        assert outbox.due(1.0) == []
        assert outbox.due(RESEND_S) == waiting
        other.execute("DROP TRIGGER full")
    outbox.acknowledge(acknowledgement(*waiting))
    assert outbox.count(Lane.EVENTS) == 0


def test_a_new_connection_sends_everything_without_an_answer_again(outbox: Outbox) -> None:
    outbox.add_event(event(1))
    (waiting,) = outbox.due(0.0)
    outbox.sent(waiting, now=0.0)
    outbox.forget_sent()
    assert outbox.due(1.0) == [waiting]


def test_reports_of_an_earlier_boot_keep_their_name(tmp_path: Path) -> None:
    before = Outbox(tmp_path / "outbox.sqlite", boot=BOOT, cap_bytes=1 << 20)
    before.add_event(event(1))
    (waiting,) = before.due(0.0)
    before.close()
    after = Outbox(tmp_path / "outbox.sqlite", boot=bytes(16), cap_bytes=1 << 20)
    after.add_event(event(2))
    assert [decode_frame(each.payload).boot for each in after.due(0.0)] == [BOOT, bytes(16)]
    after.acknowledge(acknowledgement(waiting))
    assert after.count(Lane.EVENTS) == 1
    after.close()


def test_not_more_than_a_handful_is_under_way(outbox: Outbox) -> None:
    for at in range(AT_ONCE + 5):
        outbox.add_event(event(at))
    waiting = outbox.due(0.0)
    assert len(waiting) == AT_ONCE
    for each in waiting:
        outbox.sent(each, now=0.0)
    assert outbox.due(1.0) == []
    outbox.acknowledge(acknowledgement(*waiting[:2]))
    assert len(outbox.due(1.0)) == 2


def test_a_report_that_is_too_large_for_a_message_goes_in_several(outbox: Outbox) -> None:
    usages = [usage(0.0, version=f"1.{at}.0", classes=1500) for at in range(12)]
    outbox.add_usage(usages, now=30.0)
    assert outbox.count(Lane.METRICS) > 1
    assert counted(outbox) == sum(each.latency.count for each in usages)


def test_one_model_with_too_many_long_class_names_counts_the_rarest_together(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.sqlite", boot=BOOT, cap_bytes=1 << 20)
    rare = {secrets.token_hex(90): 1 for _ in range(3000)}
    outbox.add_usage([msgspec.structs.replace(usage(0.0), predictions={"seven": 5, **rare})], now=30.0)
    (frame,) = outbox.due(0.0)
    (told,) = otlp.decode_usage(decode_frame(frame.payload).body)
    assert sum(told.predictions.values()) == 3005
    assert told.predictions["seven"] == 5
    assert told.predictions[otlp.OTHER] > 1000
    outbox.close()


class TestWhenItIsFull:
    def test_old_metrics_are_merged_and_no_inference_is_lost(self, tmp_path: Path) -> None:
        outbox = Outbox(tmp_path / "outbox.sqlite", boot=BOOT, cap_bytes=8_000)
        for at in range(200):
            outbox.add_usage([usage(at * 30.0, classes=1)], now=at * 30.0 + 30)
        assert outbox.size(Lane.METRICS) <= 6_000
        assert outbox.count(Lane.METRICS) < 60
        assert counted(outbox) == 600
        outbox.close()

    def test_what_was_sent_is_never_merged(self, tmp_path: Path) -> None:
        outbox = Outbox(tmp_path / "outbox.sqlite", boot=BOOT, cap_bytes=8_000)
        outbox.add_usage([usage(0, classes=1)], now=30)
        (sent,) = outbox.due(0.0)
        outbox.sent(sent, now=0.0)
        for at in range(1, 100):
            outbox.add_usage([usage(at * 30.0, classes=1)], now=at * 30.0 + 30)
        outbox.forget_sent()
        assert sent in outbox.due(1.0)
        outbox.acknowledge(acknowledgement(sent))
        assert counted(outbox) == 297
        outbox.close()

    def test_the_oldest_metrics_are_dropped_when_merging_is_not_enough_and_events_stay(self, tmp_path: Path) -> None:
        outbox = Outbox(tmp_path / "outbox.sqlite", boot=BOOT, cap_bytes=20_000)
        outbox.add_event(event(1, "kept"))
        for day in range(30):
            outbox.add_usage([usage(day * 86400.0, classes=50)], now=day * 86400.0)
        assert outbox.size(Lane.METRICS) <= 15_000
        assert outbox.count(Lane.EVENTS) == 1
        newest = [each for each in outbox.due(0.0) if each.lane is Lane.METRICS][-1]
        assert otlp.decode_usage(decode_frame(newest.payload).body)[0].start == 29 * 86400.0
        outbox.close()

    def test_too_many_events_drop_the_oldest_events_only(self, tmp_path: Path) -> None:
        outbox = Outbox(tmp_path / "outbox.sqlite", boot=BOOT, cap_bytes=20_000)
        outbox.add_usage([usage(0)], now=30)
        for at in range(400):
            outbox.add_event(event(at, secrets.token_hex(100)))
        assert outbox.size(Lane.EVENTS) <= 5_000
        assert outbox.count(Lane.METRICS) == 1
        outbox.close()


def test_a_damaged_outbox_is_set_aside_and_a_new_one_begins(tmp_path: Path) -> None:
    path = tmp_path / "outbox.sqlite"
    path.write_bytes(b"this is no database, and it is long enough to be taken for one" * 100)
    outbox = Outbox(path, boot=BOOT, cap_bytes=1 << 20)
    outbox.add_event(event(1))
    assert outbox.count(Lane.EVENTS) == 1
    assert (tmp_path / "outbox.sqlite.damaged").exists()
    outbox.close()


def test_a_database_that_fails_while_it_is_used_costs_reports_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "outbox.sqlite"
    outbox = Outbox(path, boot=BOOT, cap_bytes=1 << 20)
    outbox.add_event(event(1))
    (waiting,) = outbox.due(0.0)
    with closing(sqlite3.connect(path)) as other:
        other.execute("DROP TABLE reports")
    outbox.add_event(event(2))
    outbox.add_usage([usage(0.0)], now=1.0)
    outbox.sent(waiting, now=0.0)
    outbox.acknowledge(acknowledgement(waiting))
    assert outbox.due(100.0) == []
    assert outbox.is_empty()
    outbox.close()


def test_where_the_disk_takes_no_outbox_reports_wait_in_memory(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "missing" / "outbox.sqlite", boot=BOOT, cap_bytes=1 << 20)
    outbox.add_event(event(1))
    assert outbox.count(Lane.EVENTS) == 1
    outbox.close()


usages = st.builds(
    usage,
    st.floats(0, 1e6),
    count=st.integers(0, 20),
    version=st.sampled_from(["1.0.0", "1.1.0"]),
    classes=st.integers(1, 4),
)


@given(st.lists(usages, max_size=8), st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_merging_adds_exactly_and_does_not_depend_on_order(reports: list[ModelUsage], chance: object) -> None:
    shuffled = sorted(reports, key=lambda _each: chance.random())  # type: ignore[attr-defined]  # random.Random
    for version in ("1.0.0", "1.1.0"):
        one = [each for each in merged(reports) if each.version == version]
        other = [each for each in merged(shuffled) if each.version == version]
        mine = [each for each in reports if each.version == version]
        assert len(one) == len(other) == (1 if mine else 0)
        if mine:
            assert one[0].latency.count == sum(each.latency.count for each in mine)
            assert one[0].latency.buckets == other[0].latency.buckets
            assert one[0].predictions == other[0].predictions
            assert one[0].errors == {"failed": len(mine)}
            assert (one[0].start, one[0].end) == (min(each.start for each in mine), max(each.end for each in mine))
