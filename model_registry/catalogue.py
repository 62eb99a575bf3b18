"""The registry's database: transactions, releases, TUF metadata, rollouts and the audit log.

A caller opens a transaction and gets `Records`; everything done with them is committed together or not at all. No rule is
decided here: what may be published, enrolled or rolled out is the business of `publication`, `enrolment` and `rollout`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Final

import msgspec
from sqlalchemy import Connection, Engine, Row, delete, func, insert, select, update
from sqlalchemy.exc import InterfaceError, OperationalError

from model_registry.errors import StoreFailed
from model_registry.fleet_records import FleetRecords
from model_registry.rollout import Release, Rollout
from model_registry.schema import assignments, audit, exposures, metadata, open_database, releases, rollouts
from model_registry.trust import TIMESTAMP_FILE

_NOTHING: Final = {"version": None, "manifest": None, "attempt": None}


@dataclass(frozen=True, slots=True)
class PublishedRelease:
    """One published version. `size` is the bytes of its files, `summary` JSON for people, `published` epoch seconds."""

    model: str
    version: str
    manifest: str
    size: int
    published: float
    summary: str


@dataclass(frozen=True, slots=True)
class RolloutRecord:
    """A rollout with its times, epoch seconds."""

    rollout: Rollout
    created: float
    updated: float


class Records:
    """Everything that one transaction may ask and change."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.fleet = FleetRecords(connection)

    def metadata(self, file: str) -> bytes | None:
        """The content of a TUF metadata file."""
        return self._connection.scalar(select(metadata.c.content).where(metadata.c.file == file))

    def keep_metadata(self, files: Mapping[str, bytes]) -> None:
        """Add metadata files; only the timestamp may replace an earlier one (the database refuses a second one else)."""
        for file, content in files.items():
            if file == TIMESTAMP_FILE:
                self._connection.execute(delete(metadata).where(metadata.c.file == file))
            self._connection.execute(insert(metadata).values(file=file, content=content))

    def release(self, model: str, version: str) -> PublishedRelease | None:
        """One published version."""
        query = select(releases).where(releases.c.model == model, releases.c.version == version)
        row = self._connection.execute(query).one_or_none()
        return None if row is None else PublishedRelease(*row)

    def releases(self, model: str | None = None) -> list[PublishedRelease]:
        """All published versions, of one model or of all, oldest first."""
        query = select(releases).order_by(releases.c.model, releases.c.published)
        if model is not None:
            query = query.where(releases.c.model == model)
        return [PublishedRelease(*row) for row in self._connection.execute(query)]

    def keep_release(self, release: PublishedRelease) -> None:
        """Add a published version."""
        self._connection.execute(insert(releases).values(**asdict(release)))

    def add_rollout(self, rollout: Rollout, now: float) -> Rollout:
        """Keep a new rollout; gives it with its number."""
        made = insert(rollouts).values(**_columns(rollout), created=now, updated=now)
        key = self._connection.execute(made).inserted_primary_key
        assert key is not None
        return replace(rollout, id=int(key[0]))

    def keep_rollout(self, rollout: Rollout, now: float) -> None:
        """Keep a rollout's next state and the devices that it has reached since."""
        changed = update(rollouts).where(rollouts.c.id == rollout.id)
        self._connection.execute(changed.values(**_columns(rollout), updated=now))
        known = set(self._connection.scalars(select(exposures.c.device).where(exposures.c.rollout == rollout.id)))
        rows = [
            {"rollout": rollout.id, "device": device, **(_NOTHING if before is None else asdict(before))}
            for device, before in rollout.reached.items()
            if device not in known
        ]
        if rows:
            self._connection.execute(insert(exposures), rows)

    def rollout(self, number: int) -> RolloutRecord | None:
        """One rollout."""
        row = self._connection.execute(select(rollouts).where(rollouts.c.id == number)).one_or_none()
        return None if row is None else self._rollout(row)

    def rollouts(self, *, state: str | None = None, model: str | None = None) -> list[RolloutRecord]:
        """RolloutControl in a state or of a model, oldest first."""
        query = select(rollouts).order_by(rollouts.c.id)
        if state is not None:
            query = query.where(rollouts.c.state == state)
        if model is not None:
            query = query.where(rollouts.c.model == model)
        return [self._rollout(row) for row in self._connection.execute(query).all()]

    def sent_back(self, model: str) -> set[str]:
        """The devices for which the last rollout of the model that reached them failed or was aborted."""
        last = (
            select(exposures.c.device, func.max(exposures.c.rollout).label("rollout"))
            .where(exposures.c.rollout.in_(select(rollouts.c.id).where(rollouts.c.model == model)))
            .group_by(exposures.c.device)
            .subquery()
        )
        ended = select(last.c.device).join(rollouts, rollouts.c.id == last.c.rollout)
        return set(self._connection.scalars(ended.where(rollouts.c.state.in_(("failed", "aborted")))))

    def last_attempt(self, manifest: str) -> int | None:
        """The highest attempt with which a release was ever rolled out or assigned; None: never."""
        rolled: int | None = self._connection.scalar(
            select(func.max(rollouts.c.attempt)).where(rollouts.c.manifest == manifest)
        )
        told: int | None = self._connection.scalar(
            select(func.max(assignments.c.attempt)).where(assignments.c.manifest == manifest)
        )
        return max((each for each in (rolled, told) if each is not None), default=None)

    def note(self, now: float, actor: str, action: str, subject: str, detail: str = "") -> None:
        """Write into the audit log."""
        self._connection.execute(insert(audit).values(at=now, actor=actor, action=action, subject=subject, detail=detail))

    def audit_log(self, limit: int) -> list[dict[str, object]]:
        """The newest entries of the audit log, newest first."""
        rows = self._connection.execute(select(audit).order_by(audit.c.id.desc()).limit(limit))
        return [dict(row) for row in rows.mappings()]

    def _rollout(self, row: Row[tuple[object, ...]]) -> RolloutRecord:
        reached = {
            each.device: None if each.version is None else Release(each.version, each.manifest, each.attempt)
            for each in self._connection.execute(select(exposures).where(exposures.c.rollout == row.id))
        }
        rollout = Rollout(
            id=row.id,
            model=row.model,
            release=Release(row.version, row.manifest, row.attempt),
            cohort=row.cohort,
            steps=msgspec.json.decode(row.steps, type=tuple[float, ...]),
            max_failures=row.max_failures,
            step=row.step,
            state=row.state,
            reason=row.reason,
            reached=reached,
        )
        return RolloutRecord(rollout, row.created, row.updated)


class Catalogue:
    """The database. Safe to use from several threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @contextmanager
    def changing(self) -> Iterator[Records]:
        """A transaction that may write: all or nothing, one at a time. Raises `StoreFailed`."""
        with _usable(), self._engine.begin() as connection:
            yield Records(connection)

    @contextmanager
    def reading(self) -> Iterator[Records]:
        """One moment of the database, which no writer holds up. Raises `StoreFailed`."""
        with _usable(), self._engine.connect().execution_options(reading=True) as connection, connection.begin():
            yield Records(connection)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()


def open_catalogue(url: str) -> Catalogue:
    """Open a database by SQLAlchemy URL. Raises `Damaged`."""
    return Catalogue(open_database(url))


@contextmanager
def _usable() -> Iterator[None]:
    """A full disk, or a database that is gone, is said in words."""
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        raise StoreFailed(f"The registry's database refused: {error.orig}.", "Is its disk full?") from error


def _columns(rollout: Rollout) -> dict[str, object]:
    return {
        "model": rollout.model,
        "version": rollout.release.version,
        "manifest": rollout.release.manifest,
        "attempt": rollout.release.attempt,
        "cohort": rollout.cohort,
        "steps": msgspec.json.encode(rollout.steps).decode(),
        "step": rollout.step,
        "max_failures": rollout.max_failures,
        "state": rollout.state,
        "reason": rollout.reason[:2000],
    }
