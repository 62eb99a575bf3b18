"""What a device sends to telemetry, and a clock that a test turns."""

from __future__ import annotations

from fleet_io.transport import Message
from fleet_protocol import codec, otlp, topics
from fleet_protocol.histogram import Histogram
from fleet_protocol.states import DeviceEvent, EventKind
from fleet_protocol.telemetry import Frame, Lane, ModelUsage, encode_frame

NOW = 1_800_000_000.0
BOOT = bytes(15) + b"\x01"
MANIFEST = "sha256:" + "a" * 64


class TurnedClock:
    """A clock that stands still until it is turned."""

    def __init__(self, now: float = NOW) -> None:
        self.time = now

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time


def a_usage(
    seconds: tuple[float, ...] = (0.01, 0.02),
    *,
    model: str = "digits",
    version: str = "1.0.0",
    manifest: str = MANIFEST,
    variant: str = "int8",
    end: float = NOW - 10,
    predictions: dict[str, int] | None = None,
    errors: dict[str, int] | None = None,
) -> ModelUsage:
    """What one version did in the ten seconds before `end`."""
    latency = Histogram()
    for value in seconds:
        latency.record(value)
    return ModelUsage(
        model=model,
        version=version,
        manifest=manifest,
        variant=variant,
        start=end - 10,
        end=end,
        latency=latency,
        predictions={"7": len(seconds)} if predictions is None else predictions,
        errors=errors or {},
    )


def a_report(*usages: ModelUsage, device: str = "cam-1", boot: bytes = BOOT, sequence: int = 0) -> Message:
    """A metrics frame as it arrives."""
    body = otlp.encode_usage(list(usages) or [a_usage()])
    frame = Frame(lane=Lane.METRICS, boot=boot, sequence=sequence, body=body)
    return Message(topics.device(device, "telemetry"), encode_frame(frame))


def an_event(
    *,
    device: str = "cam-1",
    boot: bytes = BOOT,
    sequence: int = 0,
    kind: EventKind = "committed",
    at: float = NOW,
    detail: str = "",
) -> Message:
    """An event frame as it arrives."""
    event = DeviceEvent(at=int(at), kind=kind, model="digits", version="1.0.0", manifest=MANIFEST, detail=detail)
    frame = Frame(lane=Lane.EVENTS, boot=boot, sequence=sequence, body=codec.encode(event))
    return Message(topics.device(device, "event"), encode_frame(frame))


def raw(body: bytes, *, lane: Lane = Lane.METRICS, device: str = "cam-1", boot: bytes = BOOT, sequence: int = 0) -> Message:
    """A frame with a name and a body that may be anything."""
    return Message(topics.device(device, "telemetry"), encode_frame(Frame(lane=lane, boot=boot, sequence=sequence, body=body)))
