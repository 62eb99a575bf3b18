from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.releases import make_release, question
from tests.support.simulated_fleet import SimulatedDevice, SimulatedFleet


@pytest.fixture
def fleet(tmp_path: Path) -> SimulatedFleet:
    return SimulatedFleet(tmp_path)


@pytest.fixture
def device(fleet: SimulatedFleet) -> Iterator[SimulatedDevice]:
    made = fleet.device()
    made.start()
    yield made
    made.kill()


def install(fleet: SimulatedFleet, device: SimulatedDevice, version: str, **options: object) -> str:
    release = make_release(fleet.directory / "bundles", version, **options)  # type: ignore[arg-type]  # passed through
    fleet.publish(release)
    fleet.assign(device.name, release.assignment())
    return release.digest


def ask(device: SimulatedDevice, times: int) -> None:
    for _ in range(times):
        device.host.infer("digits", question())


def test_a_release_is_fetched_verified_tried_activated_and_committed_after_enough_good_answers(
    fleet: SimulatedFleet, device: SimulatedDevice
) -> None:
    digest = install(fleet, device, "1.0.0")
    device.run()
    assert device.state().phase == "probation"
    ask(device, 5)
    device.run(1)
    assert device.history == ["idle", "fetching", "verifying", "staged", "gating", "activating", "probation", "idle"][1:]
    reported = fleet.reported("kitchen").models[0]
    assert (reported.phase, reported.running and reported.running.manifest) == ("idle", digest)
    assert device.runs() == "1.0.0"
