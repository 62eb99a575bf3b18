"""What a device should run, what it says it runs, and what happened on it: the messages of the control lane.

Desired state travels in a DSSE envelope signed by the director (DESIGN.md §4); this module holds its payload
and the envelope's type.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from fleet_protocol import codec, limits
from fleet_protocol.digests import Digest
from fleet_protocol.errors import LimitExceeded, MalformedMessage
from fleet_protocol.names import Name, Version

DESIRED_PAYLOAD_TYPE = "application/vnd.edgeward.desired.v1+json"
"""The DSSE payload type of a desired state; a signature over anything else is not one."""

_LARGEST: Final = 2**53 - 1
"""The largest integer that every JSON reader and database column holds exactly."""

Seconds = Annotated[int, msgspec.Meta(ge=0, le=_LARGEST)]
Count = Annotated[int, msgspec.Meta(ge=0, le=_LARGEST)]
Sequence = Annotated[int, msgspec.Meta(ge=1, le=_LARGEST)]
Reason = Annotated[str, msgspec.Meta(max_length=1000)]

_REASONS_CUT_TO: Final = (1000, 300, 100, 30)
"""Characters of each refusal's reason that a report tries to hold; of the last, any report does."""

Phase = Literal["idle", "fetching", "verifying", "staged", "gating", "preparing", "activating", "probation", "rolling_back"]
"""The states of the agent's machine for one model (DESIGN.md §5)."""


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """One model that the device should run: the manifest's digest is the identity, the rest is for people.

    A higher `attempt` is the operator's word that a refused digest may be tried once more.
    """

    model: Name
    version: Version
    manifest: Digest
    attempt: Count = 0


class DesiredState(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that one device should run. Epoch seconds; a higher `sequence` replaces a lower one."""

    device: Name
    sequence: Sequence
    issued: Seconds
    expires: Seconds
    assignments: Annotated[tuple[Assignment, ...], msgspec.Meta(max_length=limits.ASSIGNMENTS)]

    def assignment(self, model: str) -> Assignment | None:
        """The assignment of that model, or None."""
        return next((each for each in self.assignments if each.model == model), None)


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """What answers requests right now."""

    version: Version
    manifest: Digest
    variant: Name
    file: Digest


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """A release that failed on this device and will not be tried again by itself."""

    version: Version
    manifest: Digest
    attempt: Count
    phase: Phase
    reason: Reason


class ModelReport(msgspec.Struct, frozen=True, kw_only=True):
    """One model on one device. Committed means: `phase` is `idle` and `running.manifest` is the desired one."""

    model: Name
    phase: Phase
    running: Running | None = None
    target: Digest | None = None
    """The manifest that the device is working towards, None when idle."""
    refused: Annotated[tuple[Refusal, ...], msgspec.Meta(max_length=8)] = ()
    healthy: Count = 0
    """Inferences answered well by what runs, since it was activated."""
    progress: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] = 0.0
    """Share of bytes at hand while fetching."""


class ReportedState(msgspec.Struct, frozen=True, kw_only=True):
    """The device's own word. `sequence` rises with every report of a boot; `desired` is the sequence that it acts on."""

    device: Name
    boot: Annotated[str, msgspec.Meta(min_length=32, max_length=32, pattern=r"^[0-9a-f]{32}\Z")]
    sequence: Sequence
    desired: Count = 0
    agent: Annotated[str, msgspec.Meta(max_length=50)]
    hardware: dict[str, str] = {}
    models: Annotated[tuple[ModelReport, ...], msgspec.Meta(max_length=limits.ASSIGNMENTS)] = ()
    serving: Annotated[str, msgspec.Meta(max_length=200)] = ""
    """Where the device answers requests (a localhost URL), for people and demos."""


class DeviceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Birth message and last will. A will of an older session does not end a newer one."""

    online: bool
    session: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


EventKind = Literal["phase", "gate_passed", "gate_refused", "prepared", "rolled_back", "committed", "alert"]


class DeviceEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened to a model on a device, at `at` epoch seconds by the device's clock."""

    at: Seconds
    kind: EventKind
    model: Name
    manifest: Digest | None = None
    version: Version | None = None
    detail: Reason = ""


def encode_desired(state: DesiredState) -> bytes:
    """The payload that the director signs. Raises `LimitExceeded` when it would not fit its envelope."""
    payload = codec.encode(state)
    if len(payload) > limits.DESIRED_BYTES:
        raise LimitExceeded(f"desired state of {state.device} has {len(payload)} bytes; at most {limits.DESIRED_BYTES} fit")
    return payload


def decode_desired(payload: bytes) -> DesiredState:
    """The content of a verified envelope. Raises `ProtocolError`."""
    state = codec.decode(payload, DesiredState, limit=limits.DESIRED_BYTES, what="desired state")
    _check_distinct([each.model for each in state.assignments], "desired state assigns")
    return state


def encode_reported(state: ReportedState) -> bytes:
    """The device's report, which always fits: where it would not, its reasons are cut short, all alike."""
    for longest in _REASONS_CUT_TO:
        models = tuple(_cut_short(each, longest) for each in state.models)
        payload = codec.encode(msgspec.structs.replace(state, models=models))
        if len(payload) <= limits.REPORTED_BYTES:
            break
    return payload


def _cut_short(report: ModelReport, longest: int) -> ModelReport:
    refused = tuple(msgspec.structs.replace(each, reason=each.reason[:longest]) for each in report.refused)
    return msgspec.structs.replace(report, refused=refused)


def decode_reported(payload: bytes) -> ReportedState:
    """Raises `ProtocolError`."""
    state = codec.decode(payload, ReportedState, limit=limits.REPORTED_BYTES, what="reported state")
    _check_distinct([each.model for each in state.models], "reported state names")
    return state


def decode_status(payload: bytes) -> DeviceStatus:
    """Raises `ProtocolError`."""
    return codec.decode(payload, DeviceStatus, limit=limits.STATUS_BYTES, what="device status")


def decode_event(payload: bytes) -> DeviceEvent:
    """Raises `ProtocolError`."""
    return codec.decode(payload, DeviceEvent, limit=limits.EVENT_BYTES, what="device event")


def _check_distinct(models: list[str], what: str) -> None:
    if len(set(models)) != len(models):
        raise MalformedMessage(f"{what} a model twice")
