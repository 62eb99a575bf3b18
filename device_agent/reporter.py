"""The device's own word on the wire: reported state and status, retained; a new one replaces the old."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from importlib import metadata

from device_agent.model_state import ModelState
from fleet_io.transport import Transport, Will
from fleet_protocol import codec, limits, topics
from fleet_protocol.states import DeviceStatus, ModelReport, ReportedState, encode_reported


def hardware() -> dict[str, str]:
    """What this machine is, for people and for cohorts."""
    return {"machine": platform.machine(), "system": platform.system(), "python": platform.python_version()}


def will_of(device: str, session: str) -> Will:
    """What the broker says when this device vanishes."""
    return Will(topics.device(device, "status"), codec.encode(DeviceStatus(online=False, session=session)))


class Reporter:
    """Publishes what one boot of one device has to say of itself. `boot` is 32 hex digits, and names the session too."""

    def __init__(self, transport: Transport, device: str, boot: str) -> None:
        self._transport = transport
        self._device = device
        self._boot = boot
        self._sequence = 0
        self._agent = metadata.version("edgeward")
        self._hardware = hardware()

    def be_born(self) -> bool:
        """Say that this device is online; whether that went out."""
        return self._status(online=True)

    def say_farewell(self) -> bool:
        """Say that this device goes offline by its own will."""
        return self._status(online=False)

    def report(
        self,
        states: Iterable[ModelState],
        *,
        desired: int,
        healthy: Mapping[str, int],
        progress: Mapping[str, float],
        serving: str,
    ) -> bool:
        """Publish the reported state; whether it went out."""
        self._sequence += 1
        reported = ReportedState(
            device=self._device,
            boot=self._boot,
            sequence=self._sequence,
            desired=desired,
            agent=self._agent,
            hardware=self._hardware,
            models=tuple(_model_report(each, healthy, progress) for each in states)[: limits.ASSIGNMENTS],
            serving=serving,
        )
        return self._transport.publish(topics.device(self._device, "reported"), encode_reported(reported), qos=1, retain=True)

    def _status(self, *, online: bool) -> bool:
        status = DeviceStatus(online=online, session=self._boot)
        return self._transport.publish(topics.device(self._device, "status"), codec.encode(status), qos=1, retain=True)


def _model_report(state: ModelState, healthy: Mapping[str, int], progress: Mapping[str, float]) -> ModelReport:
    return ModelReport(
        model=state.model,
        phase=state.phase,
        running=state.running,
        target=state.target.manifest if state.target else None,
        refused=state.refused,
        healthy=healthy.get(state.model, 0),
        progress=progress.get(state.model, 0.0) if state.phase == "fetching" else 0.0,
    )
