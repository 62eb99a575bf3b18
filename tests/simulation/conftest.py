"""A simulated fleet with one device that runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

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
