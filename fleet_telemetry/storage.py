"""Writing: one batch of arrivals in one transaction, each frame counted once however often it comes.

A frame is known by (device, boot, sequence). What the insert did not add was there before, so it is not counted again; all
else follows in the same transaction. Reading is in `reading`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import msgspec
from sqlalchemy import Connection, Engine, Table, bindparam, delete, func, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError

from fleet_protocol.states import DeviceEvent
from fleet_protocol.telemetry import ModelUsage
from fleet_telemetry.aggregate import HOUR_S, ReleaseKey, Tally, believed_moment, believed_period, hour_of, key_of, unpack
from fleet_telemetry.errors import ContentRefused, StoreUnavailable
from fleet_telemetry.schema import WHOLE_LIFE, counters, device_usage, events, fleet_usage, frames, rejections, releases

RELEASES_OF_A_DEVICE: Final = 256
"""Variants of releases that one device may speak of: a hostile one shall not fill the disk with invented names."""
EVENTS_KEPT: Final = 200_000
DAY_S: Final = 24 * HOUR_S
ROWS_IN_A_STATEMENT: Final = 1000
"""SQLite takes 32766 values in one statement, PostgreSQL 32767."""

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Retention:
    """How long things are kept, in seconds. Frames: a device that resends later than this is counted again."""

    frames_s: float = 30 * DAY_S
    hours_s: float = 90 * DAY_S
    devices_s: float = 180 * DAY_S
    events_s: float = 90 * DAY_S
    events: int = EVENTS_KEPT


@dataclass(frozen=True, slots=True)
class Arrival:
    """One frame of one device, read. `rejected` says why its body counts for nothing; `boot` is 32 hex digits."""

    device: str
    boot: str
    sequence: int
    usages: tuple[ModelUsage, ...] = ()
    event: DeviceEvent | None = None
    rejected: str = ""

    @property
    def identity(self) -> tuple[str, str, int]:
        """By what it is known when it comes again."""
        return self.device, self.boot, self.sequence


@dataclass(slots=True)
class Stored:
    """What became of a batch."""

    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0
    refusals: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Reasons by device."""

    def refuse(self, device: str, reason: str) -> None:
        """Count a rejection."""
        self.rejected += 1
        self.refusals[device].append(reason)


class Storage:
    """The write side of one database."""

    def __init__(self, engine: Engine, retention: Retention) -> None:
        self._engine = engine
        self._retention = retention
        self._insert: Any = postgresql.insert if engine.dialect.name == "postgresql" else sqlite.insert

    def store(self, arrivals: Sequence[Arrival], received: float, *, unreadable: Sequence[tuple[str, str]] = ()) -> Stored:
        """Count a batch once and commit it. `unreadable` are (device, reason) of messages without a frame's name.

        Raises `StoreUnavailable` or `ContentRefused`; then nothing of it was stored.
        """
        stored = Stored()
        for device, reason in unreadable:
            stored.refuse(device, reason)
        with self._transaction() as connection:
            fresh = self._insert_new(connection, arrivals, received)
            stored.duplicates = len(arrivals) - len(fresh)
            counted = self._within_limits(connection, fresh, stored)
            self._add_usages(connection, counted, received)
            self._add_events(connection, fresh, received)
            self._add_rejections(connection, stored, received)
            self._count(connection, stored)
        return stored

    def retain(self, now: float) -> None:
        """Delete what is older than the retention says. Raises `StoreUnavailable`."""
        kept = self._retention
        with self._transaction() as connection:
            connection.execute(delete(frames).where(frames.c.received < now - kept.frames_s))
            hours = fleet_usage.c.hour
            connection.execute(delete(fleet_usage).where(hours != WHOLE_LIFE, hours < now - kept.hours_s))
            connection.execute(delete(device_usage).where(device_usage.c.updated < now - kept.devices_s))
            connection.execute(delete(events).where(events.c.received < now - kept.events_s))
            newest = connection.execute(select(func.max(events.c.id))).scalar()
            if newest is not None:
                connection.execute(delete(events).where(events.c.id <= newest - kept.events))

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except (OperationalError, InterfaceError) as error:
            raise StoreUnavailable(f"Telemetry's database refused: {error.orig}.", "Is its disk full?") from error
        except msgspec.MsgspecError as error:
            raise StoreUnavailable(
                f"Telemetry's database holds a damaged row: {error}.", "Restore it from its copy."
            ) from error
        except (SQLAlchemyError, OverflowError, ValueError) as error:
            if isinstance(error, DBAPIError) and error.connection_invalidated:
                raise StoreUnavailable(f"Telemetry's database is gone: {error.orig}.") from error
            raise ContentRefused(f"Telemetry's database does not take this: {error}.") from error

    def _insert_new(self, connection: Connection, arrivals: Sequence[Arrival], received: float) -> list[Arrival]:
        """The arrivals that were not there before, one for each frame."""
        if not arrivals:
            return []
        rows = [
            {"device": each.device, "boot": each.boot, "sequence": each.sequence, "received": received} for each in arrivals
        ]
        added = self._insert_missing(connection, frames, rows)
        by_identity = {each.identity: each for each in reversed(arrivals)}
        return [by_identity[row[0], row[1], row[2]] for row in added]

    def _insert_missing(self, connection: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> list[tuple[Any, ...]]:
        """Insert the rows whose key is new, and return the keys of those."""
        added: list[tuple[Any, ...]] = []
        for piece in _in_pieces(rows):
            statement = self._insert(table).values(piece).on_conflict_do_nothing().returning(*table.primary_key.columns)
            added += [tuple(row) for row in connection.execute(statement)]
        return added

    def _within_limits(self, connection: Connection, fresh: Sequence[Arrival], stored: Stored) -> list[Arrival]:
        """The arrivals whose usages may be counted; the others are refused."""
        known = _releases_of(connection, {each.device for each in fresh if each.usages})
        counted = []
        for arrival in fresh:
            spoken_of = known[arrival.device] | {key_of(usage) for usage in arrival.usages}
            if arrival.rejected:
                stored.refuse(arrival.device, arrival.rejected)
            elif len(spoken_of) > RELEASES_OF_A_DEVICE:
                stored.refuse(arrival.device, f"the device speaks of more than {RELEASES_OF_A_DEVICE} variants of releases")
            else:
                known[arrival.device] = spoken_of
                counted.append(arrival)
        stored.accepted = len(counted)
        return counted

    def _add_usages(self, connection: Connection, arrivals: Sequence[Arrival], received: float) -> None:
        by_hour: dict[tuple[ReleaseKey, int], Tally] = defaultdict(Tally)
        by_device: dict[tuple[str, ReleaseKey], Tally] = defaultdict(Tally)
        for arrival in arrivals:
            for usage in arrival.usages:
                start, end = believed_period(usage, received)
                key = key_of(usage)
                for tally in (by_hour[key, hour_of(end)], by_hour[key, WHOLE_LIFE], by_device[arrival.device, key]):
                    tally.add(usage, start=start, end=end)
        if not by_hour:
            return
        ids = self._release_ids(connection, {key for key, _ in by_hour})
        self._merge(connection, fleet_usage, {(ids[key], hour): tally for (key, hour), tally in by_hour.items()})
        self._merge(
            connection,
            device_usage,
            {(device, ids[key]): tally for (device, key), tally in by_device.items()},
            updated=received,
        )

    def _release_ids(self, connection: Connection, keys: Iterable[ReleaseKey]) -> dict[ReleaseKey, int]:
        wanted = sorted(keys)
        self._insert_missing(connection, releases, [key._asdict() for key in wanted])
        columns = (releases.c.model, releases.c.version, releases.c.manifest, releases.c.variant)
        ids: dict[ReleaseKey, int] = {}
        for piece in _in_pieces(wanted):
            for row in connection.execute(select(*columns, releases.c.id).where(tuple_(*columns).in_(piece))):
                ids[ReleaseKey(*row[:4])] = row[4]
        return ids

    def _merge(self, connection: Connection, table: Table, tallies: dict[tuple[Any, Any], Tally], **more: float) -> None:
        """Add tallies to their rows, made where missing. Rows are locked in one order, so that two writers cannot deadlock."""
        columns = list(table.primary_key.columns)
        keys = sorted(tallies)
        blank = [{column.name: part for column, part in zip(columns, key, strict=True)} | {"tally": b""} | more for key in keys]
        self._insert_missing(connection, table, blank)
        changed = update(table).where(columns[0] == bindparam("first"), columns[1] == bindparam("second"))
        for piece in _in_pieces(keys):
            locked = select(*columns, table.c.tally).where(tuple_(*columns).in_(piece)).order_by(*columns).with_for_update()
            rows = [(row[0], row[1], unpack(row[2])) for row in connection.execute(locked)]
            for first, second, total in rows:
                total.merge(tallies[first, second])
            changes = [{"first": first, "second": second, "tally": total.pack()} | more for first, second, total in rows]
            connection.execute(changed, changes)

    def _add_events(self, connection: Connection, arrivals: Sequence[Arrival], received: float) -> None:
        rows = [
            {
                "device": each.device,
                "at": believed_moment(each.event.at, received),
                "received": received,
                "kind": each.event.kind,
                "model": each.event.model,
                "version": each.event.version,
                "manifest": each.event.manifest,
                "detail": each.event.detail.replace("\x00", "\ufffd"),  # PostgreSQL's text cannot hold it
            }
            for each in arrivals
            if each.event is not None and not each.rejected
        ]
        if rows:
            connection.execute(events.insert(), rows)

    def _add_rejections(self, connection: Connection, stored: Stored, received: float) -> None:
        for device, reasons in sorted(stored.refusals.items()):
            values = {"device": device, "count": len(reasons), "last": received, "reason": reasons[-1][:500]}
            statement = self._insert(rejections).values(values)
            added = {**values, "count": rejections.c.count + len(reasons)}
            connection.execute(statement.on_conflict_do_update(index_elements=["device"], set_=added))

    def _count(self, connection: Connection, stored: Stored) -> None:
        for name in ("accepted", "duplicates", "rejected"):
            more = getattr(stored, name)
            if more:
                statement = self._insert(counters).values(name=name, value=more)
                connection.execute(
                    statement.on_conflict_do_update(index_elements=["name"], set_={"value": counters.c.value + more})
                )


def _releases_of(connection: Connection, devices: set[str]) -> dict[str, set[ReleaseKey]]:
    """What each of these devices has spoken of before."""
    known: dict[str, set[ReleaseKey]] = defaultdict(set)
    columns = (releases.c.model, releases.c.version, releases.c.manifest, releases.c.variant)
    query = select(device_usage.c.device, *columns).join(releases).where(device_usage.c.device.in_(sorted(devices)))
    for row in connection.execute(query):
        known[row[0]].add(ReleaseKey(*row[1:]))
    return known


def _in_pieces(rows: Sequence[R]) -> Iterator[list[R]]:
    """As many rows at a time as a statement has room for."""
    for start in range(0, len(rows), ROWS_IN_A_STATEMENT):
        yield list(rows[start : start + ROWS_IN_A_STATEMENT])
