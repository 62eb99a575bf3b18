"""Reports that wait until the backend says that it has them: SQLite, two lanes, a cap in bytes.

A report is deleted only when the backend names it (`fleet_protocol.telemetry.Acknowledged`). When the cap is reached, metrics
that were never sent are merged, in periods of 15 minutes, an hour, six hours; only then are the oldest dropped.
Events have a lane of their own, which metrics cannot push out. What was sent is never merged: the backend may have
counted it already. One thread uses an outbox.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from fleet_protocol import codec, otlp
from fleet_protocol.errors import LimitExceeded, ProtocolError
from fleet_protocol.histogram import Histogram
from fleet_protocol.states import DeviceEvent
from fleet_protocol.telemetry import Acknowledged, Frame, Lane, ModelUsage, decode_frame, encode_frame

log = logging.getLogger(__name__)

PERIODS_S: Final = (900.0, 3600.0, 21600.0)
EVENT_SHARE: Final = 0.25
"""Of the cap, for events."""
RESEND_S: Final = 60.0
AT_ONCE: Final = 20
"""Frames sent before the backend is waited for."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS reports (
    id INTEGER PRIMARY KEY AUTOINCREMENT, lane INTEGER NOT NULL, boot BLOB NOT NULL, sequence INTEGER NOT NULL,
    at REAL NOT NULL, payload BLOB NOT NULL, sent INTEGER NOT NULL DEFAULT 0,
    UNIQUE (boot, sequence)
)
"""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A frame to send: `payload` goes to the device's `telemetry` or `event` topic."""

    number: int
    lane: Lane
    payload: bytes


class Outbox:
    """The reports of one device. `boot` is this process's 16 random bytes."""

    def __init__(self, path: Path, *, boot: bytes, cap_bytes: int) -> None:
        self._boot = boot
        self._cap = cap_bytes
        self._sequence = 0
        self._sent_at: dict[int, float] = {}
        self._failing = False
        self._database = _open(path)

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def add_usage(self, usages: Sequence[ModelUsage], *, now: float) -> None:
        """Keep a report of metrics (`now`: epoch seconds); nothing when there was no usage."""
        if usages:
            with self._writing():
                self._insert_usages(usages, now)
            self._keep_within_cap(Lane.METRICS)

    def add_event(self, event: DeviceEvent) -> None:
        """Keep an event."""
        with self._writing():
            self._insert(Lane.EVENTS, codec.encode(event), float(event.at))
        self._keep_within_cap(Lane.EVENTS)

    def due(self, now: float) -> list[Waiting]:
        """What to send now, events first: what was never sent, and what got no answer (`now`: monotonic seconds)."""
        patience = [number for number, sent in self._sent_at.items() if now - sent < RESEND_S]
        room = AT_ONCE - len(patience)
        if room <= 0:
            return []
        holes = ",".join("?" * len(patience))
        rows = self._rows(
            f"SELECT id, lane, payload FROM reports WHERE id NOT IN ({holes}) ORDER BY lane DESC, id LIMIT ?",  # noqa: S608
            *patience,
            room,
        )
        return [Waiting(number, Lane(lane), payload) for number, lane, payload in rows]

    def sent(self, waiting: Waiting, *, now: float) -> None:
        """The frame is on its way: from now on it is never merged, and repeated when no answer comes."""
        self._sent_at[waiting.number] = now
        with self._writing():
            self._database.execute("UPDATE reports SET sent = 1 WHERE id = ? AND sent = 0", (waiting.number,))

    def forget_sent(self) -> None:
        """The connection is new: what got no answer is sent again at once."""
        self._sent_at.clear()

    def acknowledge(self, answer: Acknowledged) -> None:
        """The backend has these."""
        boot = bytes.fromhex(answer.boot)
        holes = ",".join("?" * len(answer.sequences))
        with self._writing() as deleted:
            rows = self._database.execute(
                f"SELECT id FROM reports WHERE boot = ? AND sequence IN ({holes})",  # noqa: S608
                (boot, *answer.sequences),
            ).fetchall()
            deleted.extend(self._delete(number for (number,) in rows))

    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not self._rows("SELECT 1 FROM reports LIMIT 1")

    def count(self, lane: Lane) -> int:
        """Reports that wait."""
        return sum(number for (number,) in self._rows("SELECT count(*) FROM reports WHERE lane = ?", lane))

    def size(self, lane: Lane) -> int:
        """Bytes that wait."""
        return sum(size for (size,) in self._rows("SELECT length(payload) FROM reports WHERE lane = ?", lane))

    def _rows(self, query: str, *values: object) -> list[Any]:
        """What is found; nothing where the disk fails, which costs reports, and never the agent."""
        try:
            return self._database.execute(query, values).fetchall()
        except sqlite3.Error as error:
            log.warning("the outbox cannot be read: %s", error)
            return []

    @contextmanager
    def _writing(self) -> Iterator[list[int]]:
        """One transaction; the list takes the numbers of what is deleted. A full disk costs this report, and never the agent.

        What could not be deleted is not due again before its time: each answer would have it sent anew.
        """
        deleted: list[int] = []
        try:
            with self._database:
                yield deleted
        except sqlite3.Error as error:
            if not self._failing:
                log.warning("the outbox cannot be written: %s", error)
            self._failing = True
            return
        self._failing = False
        for number in deleted:
            self._sent_at.pop(number, None)

    def _keep_within_cap(self, lane: Lane) -> None:
        limit = self._cap * (EVENT_SHARE if lane is Lane.EVENTS else 1 - EVENT_SHARE)
        if self.size(lane) <= limit:
            return
        if lane is Lane.METRICS:
            for period in PERIODS_S:
                self._merge(period)
                if self.size(lane) <= limit:
                    return
        self._drop_oldest(lane, limit)

    def _insert_usages(self, usages: Sequence[ModelUsage], at: float) -> None:
        """As one report, or several where it is too large for a message; what is so alone counts its rare classes together."""
        try:
            self._insert(Lane.METRICS, otlp.encode_usage(list(usages)), at)
        except LimitExceeded:
            middle = len(usages) // 2
            parts = (usages[:middle], usages[middle:]) if middle else ([_coarser(usages[0])],)
            for part in parts:
                self._insert_usages(part, at)

    def _insert(self, lane: Lane, body: bytes, at: float) -> None:
        payload = encode_frame(Frame(lane=lane, boot=self._boot, sequence=self._sequence, body=body))
        self._database.execute(
            "INSERT INTO reports (lane, boot, sequence, at, payload) VALUES (?, ?, ?, ?, ?)",
            (lane, self._boot, self._sequence, at, payload),
        )
        self._sequence += 1

    def _merge(self, period: float) -> None:
        """Make one report of all that were never sent and end in the same period."""
        rows = self._rows("SELECT id, at, payload FROM reports WHERE lane = ? AND sent = 0 ORDER BY at", Lane.METRICS)
        for group in _groups(rows, period):
            usages = merged(usage for _, _, payload in group for usage in _usages(payload))
            with self._writing() as deleted:
                deleted.extend(self._delete(number for number, _, _ in group))
                if usages:
                    self._insert_usages(usages, group[-1][1])

    def _drop_oldest(self, lane: Lane, limit: float) -> None:
        excess = self.size(lane) - limit
        dropped: list[int] = []
        for number, length in self._rows("SELECT id, length(payload) FROM reports WHERE lane = ? ORDER BY id", lane):
            if excess <= 0:
                break
            dropped.append(number)
            excess -= length
        log.warning("the outbox is full: %d old reports (%s) were dropped", len(dropped), lane.name.lower())
        with self._writing() as deleted:
            deleted.extend(self._delete(dropped))

    def _delete(self, numbers: Iterable[int]) -> list[int]:
        """Within the caller's transaction; gives the numbers."""
        gone = list(numbers)
        self._database.executemany("DELETE FROM reports WHERE id = ?", [(number,) for number in gone])
        return gone


def merged(usages: Iterable[ModelUsage]) -> list[ModelUsage]:
    """One usage for each model version, from the earliest start to the latest end; counts and histograms are added exactly."""
    sums: dict[tuple[str, str, str, str], ModelUsage] = {}
    for usage in usages:
        key = (usage.model, usage.version, usage.manifest, usage.variant)
        sums[key] = _sum(sums[key], usage) if key in sums else usage
    return [sums[key] for key in sorted(sums)]


def _coarser(usage: ModelUsage) -> ModelUsage:
    """The same with half as many classes and error types by name."""
    counts = {"predictions": _frequent(usage.predictions), "errors": _frequent(usage.errors)}
    return msgspec.structs.replace(usage, **counts)


def _frequent(counts: dict[str, int]) -> dict[str, int]:
    """The more frequent half, and all others as one."""
    ranked = sorted(counts, key=lambda name: (-counts[name], name))
    kept = {name: counts[name] for name in ranked[: len(ranked) // 2]}
    rest = sum(counts[name] for name in ranked[len(ranked) // 2 :])
    return _added(kept, {otlp.OTHER: rest}) if counts else {}


def _sum(one: ModelUsage, other: ModelUsage) -> ModelUsage:
    latency = Histogram()
    latency.merge(one.latency)
    latency.merge(other.latency)
    return ModelUsage(
        model=one.model,
        version=one.version,
        manifest=one.manifest,
        variant=one.variant,
        start=min(one.start, other.start),
        end=max(one.end, other.end),
        latency=latency,
        predictions=_added(one.predictions, other.predictions),
        errors=_added(one.errors, other.errors),
    )


def _added(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    return {key: one.get(key, 0) + other.get(key, 0) for key in (one | other)}


def _usages(payload: bytes) -> list[ModelUsage]:
    try:
        return otlp.decode_usage(decode_frame(payload).body)
    except ProtocolError as error:
        log.warning("a waiting report cannot be read any more and is dropped: %s", error)
        return []


def _groups(rows: list[tuple[int, float, bytes]], period: float) -> Iterator[list[tuple[int, float, bytes]]]:
    """Rows whose times fall in the same period, where there is more than one."""
    by_period: dict[int, list[tuple[int, float, bytes]]] = {}
    for row in rows:
        by_period.setdefault(int(row[1] // period), []).append(row)
    return (group for group in by_period.values() if len(group) > 1)


def _open(path: Path) -> sqlite3.Connection:
    """The database. A damaged one is set aside; where the disk takes none, memory must do: the device is worth more."""
    try:
        return _prepared(str(path))
    except sqlite3.OperationalError as error:
        return _in_memory(path, error)
    except sqlite3.DatabaseError as error:
        log.warning("%s is damaged (%s); it is kept as %s.damaged, and a new one begins", path, error, path.name)
        return _set_aside(path)


def _set_aside(path: Path) -> sqlite3.Connection:
    try:
        for suffix in ("", "-wal", "-shm"):
            old = path.with_name(path.name + suffix)
            if old.exists():
                old.replace(path.with_name(f"{path.name}.damaged{suffix}"))
        return _prepared(str(path))
    except (OSError, sqlite3.Error) as error:
        return _in_memory(path, error)


def _in_memory(path: Path, error: Exception) -> sqlite3.Connection:
    log.warning("%s cannot be used (%s); until the next start, reports are kept in memory only", path, error)
    return _prepared(":memory:")


def _prepared(path: str) -> sqlite3.Connection:
    database = sqlite3.connect(path)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute("PRAGMA busy_timeout = 5000")
        database.execute(_SCHEMA)
        with closing(database.execute("PRAGMA quick_check")) as check:
            if check.fetchone()[0] != "ok":
                raise sqlite3.DatabaseError("quick_check failed")
    except BaseException:
        database.close()
        raise
    return database
