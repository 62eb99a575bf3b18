"""Steps of a simulated device's life that several tests take: publish, install, ask."""

from __future__ import annotations

from fleet_protocol.states import decode_event
from fleet_protocol.telemetry import Lane, decode_frame
from tests.support.releases import Release, make_release, question
from tests.support.simulated_fleet import SimulatedDevice, SimulatedFleet


def publish(
    fleet: SimulatedFleet,
    version: str,
    *,
    seed: int = 0,
    damages: tuple[float, ...] = (0.0,),
    model: str = "digits",
    pictured: bool = False,
) -> Release:
    bundles = fleet.directory / f"bundles-{model}"
    release = make_release(bundles, version, seed=seed, damages=damages, model=model, pictured=pictured)
    fleet.publish(release)
    return release


def install(fleet: SimulatedFleet, device: SimulatedDevice, version: str, *, seed: int = 0) -> Release:
    """Publish a good release, assign it, and let it prove itself by its self-check."""
    release = publish(fleet, version, seed=seed)
    fleet.assign(device.name, release.assignment())
    device.run(12)
    assert (device.state().phase, device.runs()) == ("idle", version)
    return release


def ask(device: SimulatedDevice, times: int) -> None:
    for _ in range(times):
        device.host.infer("digits", question())


def events_of(device: SimulatedDevice) -> list[str]:
    """The kinds of all events that wait in the outbox, oldest first."""
    frames = [decode_frame(each.payload) for each in device.outbox.due(1e9) if each.lane is Lane.EVENTS]
    return [decode_event(frame.body).kind for frame in frames]
