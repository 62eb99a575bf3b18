"""What a state directory says of its device, for people; read beside a running agent, which it does not disturb."""

from __future__ import annotations

import msgspec

from device_agent import identity, streams
from device_agent.config import AgentConfig
from device_agent.errors import NotEnrolled
from device_agent.journal import Journal
from device_agent.model_state import ModelState
from device_agent.streams import StreamStatus


class DeviceSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One device. `desired` is the sequence of the last desired state that it followed; `bytes` its model files."""

    device: str
    enrolled: bool
    server: str
    desired: int
    bytes: int
    models: tuple[ModelState, ...]
    streams: tuple[StreamStatus, ...] = ()
    """As they were when that was last written down, a few seconds ago; or when the agent ended."""


def summary(config: AgentConfig) -> DeviceSummary:
    """Raises `NotEnrolled` when nothing was ever kept there, `EnrolmentFailed` when it is another device's directory."""
    directory = config.directory
    if not directory.is_dir():
        raise NotEnrolled(f"{directory} does not exist. Name the state directory of this device's agent with --state-dir.")
    enrolled = identity.load(directory / identity.DIRECTORY, config.device)
    entry = Journal(directory).peek()
    blobs = directory / "blobs"
    return DeviceSummary(
        device=config.device,
        enrolled=enrolled is not None,
        server=enrolled.server if enrolled else config.server,
        desired=entry.desired if entry else 0,
        bytes=sum(path.stat().st_size for path in blobs.iterdir()) if blobs.is_dir() else 0,
        models=entry.models if entry else (),
        streams=streams.read(directory),
    )
