"""Every MQTT topic, built and parsed here and nowhere else (DESIGN.md §3). At most 6 slashes; no wildcard for a device.

The same table gives the broker its access rules: `DEVICE_READS` and `DEVICE_WRITES` are written with `%u`, the identity that
the broker took from the device's certificate.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, get_args

from fleet_protocol.errors import InvalidName, InvalidTopic
from fleet_protocol.names import check_name

PREFIX: Final = "ew/1"

DeviceChannel = Literal["desired", "reported", "status", "get", "rx", "telemetry", "event", "ack"]
_CHANNELS: Final[frozenset[str]] = frozenset(get_args(DeviceChannel))

META_TIMESTAMP: Final = f"{PREFIX}/meta/timestamp"

DEVICE_READS: Final = (f"{PREFIX}/d/%u/desired", f"{PREFIX}/d/%u/rx", f"{PREFIX}/d/%u/ack")
DEVICE_WRITES: Final = (
    f"{PREFIX}/d/%u/reported",
    f"{PREFIX}/d/%u/status",
    f"{PREFIX}/d/%u/get",
    f"{PREFIX}/d/%u/telemetry",
    f"{PREFIX}/d/%u/event",
    f"{PREFIX}/w/+/%u",
)
EVERY_DEVICE_READS: Final = (META_TIMESTAMP,)
ALL: Final = f"{PREFIX}/#"
"""For the central side's own access rule only; nobody subscribes to it."""


class DeviceTopic(NamedTuple):
    """A topic of one device."""

    device: str
    channel: DeviceChannel


def device(name: str, channel: DeviceChannel) -> str:
    """`ew/1/d/{device}/{channel}`. Raises `InvalidName`."""
    return f"{PREFIX}/d/{check_name(name, 'device name')}/{channel}"


def every_device(channel: DeviceChannel) -> str:
    """The central side's subscription to one channel of all devices."""
    return f"{PREFIX}/d/+/{channel}"


def shared(group: str, topic_filter: str) -> str:
    """A shared subscription: each message reaches one member of the group."""
    return f"$share/{check_name(group, 'share group')}/{topic_filter}"


def worker(worker_name: str, device_name: str) -> str:
    """`ew/1/w/{worker}/{device}`: a device's way to the worker that answered first."""
    return f"{PREFIX}/w/{check_name(worker_name, 'worker name')}/{check_name(device_name, 'device name')}"


def worker_inbox(worker_name: str) -> str:
    """What a worker subscribes to."""
    return f"{PREFIX}/w/{check_name(worker_name, 'worker name')}/+"


def parse_device(topic: str) -> DeviceTopic:
    """The device and channel of `ew/1/d/…`. Raises `InvalidTopic`."""
    parts = topic.split("/")
    if len(parts) != 5 or parts[:3] != ["ew", "1", "d"] or parts[4] not in _CHANNELS:
        raise InvalidTopic(f"{topic!r} is not a device topic")
    return DeviceTopic(_name(parts[3], topic), parts[4])  # type: ignore[arg-type]  # membership was checked


def parse_worker(topic: str) -> tuple[str, str]:
    """The worker and device of `ew/1/w/…`. Raises `InvalidTopic`."""
    parts = topic.split("/")
    if len(parts) != 5 or parts[:3] != ["ew", "1", "w"]:
        raise InvalidTopic(f"{topic!r} is not a worker topic")
    return _name(parts[3], topic), _name(parts[4], topic)


def _name(part: str, topic: str) -> str:
    try:
        return check_name(part)
    except InvalidName as error:
        raise InvalidTopic(f"{topic!r}: {error}") from error
