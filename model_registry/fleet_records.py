"""What the database knows of devices: enrolment claims, certificates, what each said last, and what each was told."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Delete,
    Insert,
    Row,
    and_,
    bindparam,
    delete,
    func,
    insert,
    select,
    true,
    update,
)

from fleet_protocol.errors import ProtocolError
from fleet_protocol.states import ReportedState, decode_reported
from model_registry.authority import Issued
from model_registry.rollout import Release
from model_registry.schema import assignments, certificates, changed_devices, claims, desired, devices

NAMES_AT_ONCE: Final = 500


@dataclass(frozen=True, slots=True)
class Device:
    """One enrolled device. Times are epoch seconds; `session` is that of its newest birth message."""

    name: str
    enrolled: float
    public_key: str
    claim: int
    online: bool
    session: str
    seen: float | None
    reported: ReportedState | None


@dataclass(frozen=True, slots=True)
class Claim:
    """A right to enrol. `device` is the only name that it is good for, None for any."""

    id: int
    device: str | None
    uses_left: int
    replace: bool
    expires: float


@dataclass(frozen=True, slots=True)
class Desired:
    """The newest signed word to a device."""

    device: str
    sequence: int
    expires: float
    envelope: bytes


class FleetRecords:
    """Queries of one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def devices(self) -> list[Device]:
        """All devices, by name."""
        return [_device(row) for row in self._connection.execute(select(devices).order_by(devices.c.name))]

    def device(self, name: str) -> Device | None:
        """One device."""
        row = self._connection.execute(select(devices).where(devices.c.name == name)).one_or_none()
        return None if row is None else _device(row)

    def enrol(self, name: str, public_key: str, claim: int, now: float) -> None:
        """Add a device, or give an existing name to a new key."""
        if self.device(name) is None:
            made = insert(devices).values(name=name, enrolled=now, public_key=public_key, claim=claim, online=False, session="")
            self._connection.execute(made)
        else:
            changed = update(devices).where(devices.c.name == name)
            self._connection.execute(changed.values(enrolled=now, public_key=public_key, claim=claim))

    def report(self, name: str, content: bytes, now: float) -> None:
        """Keep what a device said, as it came."""
        self._connection.execute(update(devices).where(devices.c.name == name).values(reported=content, seen=now))

    def presence(self, name: str, *, online: bool, session: str, now: float) -> None:
        """Keep whether a device is connected."""
        changed = update(devices).where(devices.c.name == name).values(online=online, session=session, seen=now)
        self._connection.execute(changed)

    def add_claim(self, secret: str, *, device: str | None, uses: int, replace: bool, now: float, expires: float) -> int:
        """Keep a claim by the hash of its secret; gives its number."""
        made = insert(claims).values(
            secret=secret, device=device, uses_left=uses, replace=replace, created=now, expires=expires
        )
        key = self._connection.execute(made).inserted_primary_key
        assert key is not None
        return int(key[0])

    def claim(self, secret: str) -> Claim | None:
        """The claim whose secret has this hash."""
        row = self._connection.execute(select(claims).where(claims.c.secret == secret)).one_or_none()
        if row is None or not secrets.compare_digest(str(row.secret), secret):
            return None
        return Claim(row.id, row.device, row.uses_left, row.replace, row.expires)

    def use_claim(self, claim: int) -> None:
        """Count one use."""
        self._connection.execute(update(claims).where(claims.c.id == claim).values(uses_left=claims.c.uses_left - 1))

    def add_certificate(self, device: str, issued: Issued, now: float) -> None:
        """Remember what was issued, for revocation and audits."""
        self._connection.execute(
            insert(certificates).values(
                serial=issued.serial, device=device, public_key=issued.public_key, issued=now, expires=issued.expires
            )
        )

    def certificate_ends(self) -> dict[str, float]:
        """When the newest certificate of each device expires."""
        rows = self._connection.execute(select(certificates.c.device, func.max(certificates.c.expires)).group_by("device"))
        return {row[0]: row[1] for row in rows}

    def assignments(self, device: str) -> dict[str, tuple[Release, int]]:
        """What a device was told to run, by model, with the rollout that decided it."""
        rows = self._connection.execute(select(assignments).where(assignments.c.device == device))
        return {row.model: (Release(row.version, row.manifest, row.attempt), row.rollout) for row in rows}

    def all_assignments(self, names: Sequence[str] | None = None) -> dict[str, dict[str, tuple[Release, int]]]:
        """What these devices (None: all) were told, each as `assignments` gives it."""
        told: dict[str, dict[str, tuple[Release, int]]] = {}
        for chosen in _parts(assignments.c.device, names):
            for row in self._connection.execute(select(assignments).where(chosen)):
                told.setdefault(row.device, {})[row.model] = (Release(row.version, row.manifest, row.attempt), row.rollout)
        return told

    def assigned(self, model: str) -> dict[str, Release]:
        """What each device was told to run of one model."""
        rows = self._connection.execute(select(assignments).where(assignments.c.model == model))
        return {row.device: Release(row.version, row.manifest, row.attempt) for row in rows}

    def assign(self, model: str, changes: Mapping[str, Release | None], rollout: int) -> None:
        """Change what devices should run of one model; None takes it away."""
        chosen = and_(assignments.c.device == bindparam("name"), assignments.c.model == model)
        self._many(delete(assignments).where(chosen), [{"name": device} for device in changes])
        self._many(
            insert(assignments),
            [
                {"device": device, "model": model, "rollout": rollout, **asdict(release)}
                for device, release in changes.items()
                if release is not None
            ],
        )
        self._many(delete(changed_devices).where(changed_devices.c.device == bindparam("name")), [{"name": d} for d in changes])
        self._many(insert(changed_devices), [{"device": device} for device in changes])

    def desired(self, device: str) -> Desired | None:
        """The newest signed word to a device."""
        row = self._connection.execute(select(desired).where(desired.c.device == device)).one_or_none()
        return None if row is None else Desired(row.device, row.sequence, row.expires, row.envelope)

    def out_of_date(self) -> set[str]:
        """Devices whose assignments changed since they were told last."""
        return set(self._connection.scalars(select(changed_devices.c.device)))

    def desired_devices(self, *, expiring_before: float | None = None) -> list[str]:
        """Devices that were told something, or only those whose word expires before then."""
        query = select(desired.c.device).order_by(desired.c.device)
        if expiring_before is not None:
            query = query.where(desired.c.expires < expiring_before)
        return list(self._connection.scalars(query))

    def sequences(self, names: Sequence[str]) -> dict[str, int]:
        """The sequence of the newest word to each of these devices; without those that were never told anything."""
        found: dict[str, int] = {}
        for chosen in _parts(desired.c.device, names):
            rows = self._connection.execute(select(desired.c.device, desired.c.sequence).where(chosen))
            found |= {row.device: row.sequence for row in rows}
        return found

    def keep_desired(self, words: Sequence[Desired]) -> None:
        """Replace the words to devices; they say what the devices are assigned now."""
        names = [{"name": word.device} for word in words]
        self._many(delete(changed_devices).where(changed_devices.c.device == bindparam("name")), names)
        self._many(delete(desired).where(desired.c.device == bindparam("name")), names)
        self._many(insert(desired), [asdict(word) for word in words])

    def _many(self, statement: Delete | Insert, rows: Sequence[Mapping[str, object]]) -> None:
        if rows:
            self._connection.execute(statement, rows)


def _parts(column: Column[str], names: Sequence[str] | None) -> Iterator[ColumnElement[bool]]:
    """Conditions that together choose the rows of `names`, few enough at a time for any database; None: all rows."""
    if names is None:
        yield true()
        return
    for start in range(0, len(names), NAMES_AT_ONCE):
        yield column.in_(names[start : start + NAMES_AT_ONCE])


def _device(row: Row[tuple[object, ...]]) -> Device:
    return Device(row.name, row.enrolled, row.public_key, row.claim, row.online, row.session, row.seen, _reported(row.reported))


def _reported(content: bytes | None) -> ReportedState | None:
    """What was kept by an earlier version of this program may no longer be read; the device will say it again."""
    try:
        return None if content is None else decode_reported(content)
    except ProtocolError:
        return None
