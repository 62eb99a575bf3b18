"""Reading: what the API and the metrics ask of the database. Each question is one read transaction of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import msgspec
from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.exc import DBAPIError

from fleet_telemetry.aggregate import ReleaseKey, Summary, Tally, unpack
from fleet_telemetry.errors import StoreUnavailable
from fleet_telemetry.schema import WHOLE_LIFE, counters, device_usage, events, fleet_usage, rejections, releases

_KEY: Final = (releases.c.model, releases.c.version, releases.c.manifest, releases.c.variant)


class EventRow(msgspec.Struct, frozen=True, kw_only=True):
    """One event of one device; `at` and `received` are epoch seconds."""

    id: int
    device: str
    at: float
    received: float
    kind: str
    model: str
    version: str | None
    manifest: str | None
    detail: str


class RejectionRow(msgspec.Struct, frozen=True, kw_only=True):
    """How many messages of a device counted for nothing, and why the last one."""

    count: int
    last: float
    reason: str


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """The fleet in numbers. Frames are counted by what became of them, since the database was made."""

    accepted: int
    duplicates: int
    rejected: int
    devices: int
    events: int
    usage: Summary


class Reader:
    """The read side of one database. Every method raises `StoreUnavailable` when it cannot be read."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine.execution_options(reading=True)

    def whole_life(self, model: str | None = None, version: str | None = None) -> list[tuple[ReleaseKey, Tally]]:
        """All that each variant of each release did, of one model or version where given."""
        query = select(*_KEY, fleet_usage.c.tally).join(fleet_usage).where(fleet_usage.c.hour == WHOLE_LIFE)
        if model is not None:
            query = query.where(releases.c.model == model)
        if version is not None:
            query = query.where(releases.c.version == version)
        with self._reading() as connection:
            return [(ReleaseKey(*row[:4]), unpack(row[4])) for row in connection.execute(query.order_by(*_KEY))]

    def by_hour(self, model: str, version: str | None, since: float) -> list[tuple[int, ReleaseKey, Tally]]:
        """What each variant did in each hour that began at `since` or later, oldest first."""
        hour = fleet_usage.c.hour
        query = select(hour, *_KEY, fleet_usage.c.tally).join(fleet_usage).where(releases.c.model == model, hour >= since)
        query = query.where(hour != WHOLE_LIFE).order_by(hour, *_KEY)
        if version is not None:
            query = query.where(releases.c.version == version)
        with self._reading() as connection:
            return [(row[0], ReleaseKey(*row[1:5]), unpack(row[5])) for row in connection.execute(query)]

    def devices(self, after: str, limit: int) -> dict[str, list[tuple[ReleaseKey, Tally]]]:
        """What up to `limit` devices did, whose names come after `after`."""
        names = (
            select(device_usage.c.device)
            .where(device_usage.c.device > after)
            .distinct()
            .order_by(device_usage.c.device)
            .limit(limit)
        )
        query = select(device_usage.c.device, *_KEY, device_usage.c.tally).join(releases)
        query = query.where(device_usage.c.device.in_(names)).order_by(device_usage.c.device, *_KEY)
        found: dict[str, list[tuple[ReleaseKey, Tally]]] = {}
        with self._reading() as connection:
            for row in connection.execute(query):
                found.setdefault(row[0], []).append((ReleaseKey(*row[1:5]), unpack(row[5])))
        return found

    def device(self, name: str) -> list[tuple[ReleaseKey, Tally]]:
        """What one device did."""
        query = select(*_KEY, device_usage.c.tally).join(device_usage).where(device_usage.c.device == name).order_by(*_KEY)
        with self._reading() as connection:
            return [(ReleaseKey(*row[:4]), unpack(row[4])) for row in connection.execute(query)]

    def rejection(self, device: str) -> RejectionRow | None:
        """What of that device counted for nothing."""
        query = select(rejections.c.count, rejections.c.last, rejections.c.reason).where(rejections.c.device == device)
        with self._reading() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else RejectionRow(count=row[0], last=row[1], reason=row[2])

    def events(self, limit: int, *, device: str | None = None, model: str | None = None) -> list[EventRow]:
        """The newest events, newest first."""
        query = select(events).order_by(events.c.id.desc()).limit(limit)
        if device is not None:
            query = query.where(events.c.device == device)
        if model is not None:
            query = query.where(events.c.model == model)
        with self._reading() as connection:
            return [EventRow(**row) for row in connection.execute(query).mappings()]

    def totals(self) -> Totals:
        """The fleet in numbers."""
        everything = Tally()
        for _, tally in self.whole_life():
            everything.merge(tally)
        with self._reading() as connection:
            counted: dict[str, int] = {row[0]: row[1] for row in connection.execute(select(counters.c.name, counters.c.value))}
            devices = connection.execute(select(func.count(device_usage.c.device.distinct()))).scalar_one()
            known_events = connection.execute(select(func.count(events.c.id))).scalar_one()
        return Totals(
            accepted=counted.get("accepted", 0),
            duplicates=counted.get("duplicates", 0),
            rejected=counted.get("rejected", 0),
            devices=devices,
            events=known_events,
            usage=everything.summary(),
        )

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except DBAPIError as error:
            raise StoreUnavailable(f"Telemetry's database cannot be read: {error.orig}.") from error
