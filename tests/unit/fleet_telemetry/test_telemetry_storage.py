"""The database: each frame counted once, all of a batch or nothing of it, bounded in every direction."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, Table, event, func, select, update

from fleet_protocol.states import DeviceEvent
from fleet_protocol.telemetry import ModelUsage
from fleet_telemetry import schema
from fleet_telemetry.aggregate import HOUR_S
from fleet_telemetry.errors import StoreUnavailable
from fleet_telemetry.reading import Reader
from fleet_telemetry.storage import DAY_S, RELEASES_OF_A_DEVICE, Arrival, Retention, Storage
from tests.support.reports import BOOT, NOW, a_usage

BOOT_TEXT = BOOT.hex()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = schema.open_database(tmp_path / "telemetry.sqlite")
    yield made
    made.dispose()


@pytest.fixture
def storage(engine: Engine) -> Storage:
    return Storage(engine, Retention())


@pytest.fixture
def reader(engine: Engine) -> Reader:
    return Reader(engine)


def arrival(sequence: int, *usages: ModelUsage, device: str = "cam-1", boot: str = BOOT_TEXT) -> Arrival:
    return Arrival(device, boot, sequence, usages=usages or (a_usage(),))


def happening(sequence: int, *, at: float = NOW, detail: str = "", device: str = "cam-1") -> Arrival:
    return Arrival(device, BOOT_TEXT, sequence, event=DeviceEvent(at=int(at), kind="alert", model="digits", detail=detail))


def count(engine: Engine, table: Table) -> int:
    with engine.begin() as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()


def test_a_frame_counts_once_however_often_it_comes(storage: Storage, reader: Reader) -> None:
    for batch in ([arrival(1), arrival(1)], [arrival(1)], [arrival(2), arrival(1)]):
        storage.store(batch, NOW)
    totals = reader.totals()
    assert (totals.accepted, totals.duplicates) == (2, 3)
    assert totals.usage.inferences == 4
    assert [tally.latency.count for _, tally in reader.device("cam-1")] == [4]


def test_the_same_sequence_of_another_boot_or_device_is_another_frame(storage: Storage, reader: Reader) -> None:
    storage.store([arrival(1), arrival(1, boot="f" * 32), arrival(1, device="cam-2")], NOW)
    assert reader.totals().accepted == 3


def test_usages_are_kept_by_release_by_hour_and_by_device(storage: Storage, reader: Reader) -> None:
    storage.store(
        [
            arrival(1, a_usage((0.01,), end=NOW - 2 * HOUR_S), a_usage((0.02,), variant="float32")),
            arrival(2, a_usage((0.03, 0.04), version="1.1.0", manifest="sha256:" + "b" * 64), device="cam-2"),
        ],
        NOW,
    )
    whole = {(key.version, key.variant): tally.latency.count for key, tally in reader.whole_life()}
    assert whole == {("1.0.0", "int8"): 1, ("1.0.0", "float32"): 1, ("1.1.0", "int8"): 2}
    assert len(reader.by_hour("digits", "1.0.0", NOW - 3 * HOUR_S)) == 2
    assert len(reader.by_hour("digits", None, NOW - HOUR_S)) == 2
    assert {name: len(usages) for name, usages in reader.devices("", 10).items()} == {"cam-1": 2, "cam-2": 1}
    assert list(reader.devices("cam-1", 10)) == ["cam-2"]
    assert list(reader.devices("", 1)) == ["cam-1"]
    assert reader.whole_life("other") == []


def test_events_are_kept_once_newest_first(storage: Storage, reader: Reader) -> None:
    storage.store([happening(1, detail="first"), happening(2, detail="nul \x00 byte"), happening(1, detail="first")], NOW)
    storage.store([happening(3, at=5, device="cam-2")], NOW)
    assert [(each.device, each.detail) for each in reader.events(10)] == [
        ("cam-2", ""),
        ("cam-1", "nul \ufffd byte"),
        ("cam-1", "first"),
    ]
    assert reader.events(10)[0].at == NOW, "a clock that stands at 1970 is not believed"
    assert len(reader.events(10, device="cam-1")) == 2
    assert reader.events(10, model="other") == []
    assert len(reader.events(1)) == 1


def test_a_rejected_frame_counts_for_nothing_but_is_remembered_once(storage: Storage, reader: Reader) -> None:
    broken = Arrival("cam-1", BOOT_TEXT, 1, rejected="its body is broken")
    storage.store([broken], NOW)
    storage.store([broken], NOW, unreadable=[("cam-1", "no header")])
    totals = reader.totals()
    assert (totals.accepted, totals.duplicates, totals.rejected) == (0, 1, 2)
    rejection = reader.rejection("cam-1")
    assert rejection is not None
    assert (rejection.count, rejection.reason) == (2, "no header")
    assert reader.rejection("cam-2") is None


def test_a_device_that_invents_releases_is_stopped_and_the_others_are_not(
    storage: Storage, reader: Reader, engine: Engine
) -> None:
    invented = [a_usage(model=f"model-{number}") for number in range(RELEASES_OF_A_DEVICE + 1)]
    storage.store([arrival(number, usage) for number, usage in enumerate(invented)], NOW)
    storage.store([arrival(9999, a_usage(model="one-more")), arrival(1, device="cam-2"), arrival(10000, invented[0])], NOW)
    assert reader.totals().rejected == 2
    assert len(reader.device("cam-1")) == RELEASES_OF_A_DEVICE
    assert len(reader.device("cam-2")) == 1
    assert count(engine, schema.releases) == RELEASES_OF_A_DEVICE + 1
    assert next(tally.latency.count for key, tally in reader.device("cam-1") if key.model == "model-0") == 4


def test_a_batch_of_any_size_fits(storage: Storage, reader: Reader) -> None:
    batch = [
        arrival(number, *(a_usage(model=f"m-{model}") for model in range(60)), device=f"cam-{number % 40}")
        for number in range(120)
    ]
    storage.store(batch, NOW)
    assert reader.totals().usage.inferences == 120 * 60 * 2
    assert storage.store([], NOW).accepted == 0


def test_what_is_old_is_deleted_and_the_whole_life_of_a_release_stays(storage: Storage, reader: Reader, engine: Engine) -> None:
    storage.store([arrival(1), happening(2)], NOW)
    storage.retain(NOW + 1)
    assert count(engine, schema.frames) == 2
    storage.retain(NOW + 31 * DAY_S)
    assert count(engine, schema.frames) == 0
    assert count(engine, schema.events) == 1
    assert count(engine, schema.fleet_usage) == 2
    storage.retain(NOW + 200 * DAY_S)
    assert count(engine, schema.events) == 0
    assert count(engine, schema.device_usage) == 0
    assert [tally.latency.count for _, tally in reader.whole_life()] == [2]
    assert reader.by_hour("digits", None, 0) == []


def test_only_so_many_events_are_kept(engine: Engine, reader: Reader) -> None:
    storage = Storage(engine, Retention(events=3))
    storage.store([happening(number, detail=str(number)) for number in range(5)], NOW)
    storage.retain(NOW)
    assert [each.detail for each in reader.events(10)] == ["4", "3", "2"]


def test_two_writers_at_once_lose_nothing_and_count_nothing_twice(tmp_path: Path, engine: Engine, reader: Reader) -> None:
    def write(offset: int) -> None:
        own = schema.open_database(tmp_path / "telemetry.sqlite")
        for number in range(offset, offset + 30):
            Storage(own, Retention()).store([arrival(number), arrival(number + 1)], NOW)
        own.dispose()

    threads = [threading.Thread(target=write, args=(offset,)) for offset in (0, 10, 1000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    distinct = 41 + 31
    assert reader.totals().accepted == distinct
    assert reader.totals().usage.inferences == 2 * distinct


def test_a_full_disk_stores_nothing_of_a_batch_and_is_no_fault_of_its_content(tmp_path: Path) -> None:
    engine = schema.open_database(tmp_path / "small.sqlite")
    storage, reader = Storage(engine, Retention()), Reader(engine)
    storage.store([arrival(1)], NOW)
    pages = {"most": 0}

    def limit_pages(connection: Connection) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages['most'] or 1_000_000}")

    event.listen(engine, "begin", limit_pages)
    pages["most"] = 1
    batch = [happening(number, detail="x" * 900) for number in range(2, 200)]
    with pytest.raises(StoreUnavailable, match="full"):
        storage.store(batch, NOW)
    pages["most"] = 0
    assert reader.totals().accepted == 1
    assert storage.store(batch, NOW).accepted == 198, "with room again, all of it is new"
    engine.dispose()


def test_a_damaged_row_stops_and_is_not_counted_over(storage: Storage, engine: Engine) -> None:
    storage.store([arrival(1)], NOW)
    with engine.begin() as connection:
        connection.execute(update(schema.fleet_usage).values(tally=b"\xc1damaged"))
    with pytest.raises(StoreUnavailable, match="damaged"):
        storage.store([arrival(2)], NOW)


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(StoreUnavailable, match=r"x\.sqlite cannot be used"):
        schema.open_database(tmp_path / "x.sqlite")


def test_a_reader_beside_a_writer_sees_whole_batches_only(tmp_path: Path, storage: Storage, engine: Engine) -> None:
    done = threading.Event()

    def write() -> None:
        for number in range(15):
            storage.store([arrival(2 * number), arrival(2 * number + 1)], NOW)
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    reader = Reader(engine)
    while not done.is_set():
        counts = [tally.latency.count for _, tally in reader.whole_life()]
        assert all(count % 4 == 0 for count in counts)
    thread.join()
