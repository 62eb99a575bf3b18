"""A candidate that passed the gate is prepared before it is activated, by real child processes; whatever fails, it runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from device_agent.events import Activate, Prepare, Result, Work
from device_agent.journal import Entry, Journal
from runtime.tuning.readiness import Effort
from tests.support.device_life import events_of, publish
from tests.support.releases import picture, question
from tests.support.simulated_fleet import SimulatedDevice, SimulatedFleet

WAY = ["fetching", "verifying", "staged", "gating", "preparing", "activating", "probation", "idle"]
PREPARING = Effort(tune_s=0.0, smallest_bytes=0)


@pytest.fixture
def device(tmp_path: Path) -> SimulatedDevice:
    device = SimulatedFleet(tmp_path).device()
    device.effort = PREPARING
    device.start()
    return device


def roll_out(device: SimulatedDevice, version: str = "1.0.0", *, seed: int = 0, pictured: bool = False) -> None:
    release = publish(device.fleet, version, seed=seed, pictured=pictured)
    device.history.clear()
    device.fleet.assign(device.name, release.assignment())
    device.run(12)


def forms(device: SimulatedDevice) -> list[Path]:
    """The prepared forms that are kept."""
    return sorted((device.directory / "prepared" / "prepared").glob("*"))


def answers(device: SimulatedDevice, version: str = "1.0.0") -> bool:
    state = device.state()
    runs = (state.phase, device.runs(), state.refused) == ("idle", version, ())
    return runs and device.host.infer("digits", question()).identity.version == version


def restart(device: SimulatedDevice) -> None:
    device.stop()
    device.start()
    device.run(1)


def once(phase: str) -> Callable[[Entry], bool]:
    """Die when the journal first says this."""
    left = [1]

    def dies(entry: Entry) -> bool:
        if not left[0] or all(each.phase != phase for each in entry.models):
            return False
        left[0] -= 1
        return True

    return dies


def once_after(kind: type[Work]) -> Callable[[Work, Result], bool]:
    """Die when this was first done, before anybody hears."""
    left = [1]

    def dies(work: Work, _result: Result) -> bool:
        if not left[0] or not isinstance(work, kind):
            return False
        left[0] -= 1
        return True

    return dies


def test_the_prepared_form_is_made_before_the_switch_and_found_again_at_the_next_start(device: SimulatedDevice) -> None:
    roll_out(device)
    assert device.history == WAY
    assert answers(device)
    assert "prepared" in events_of(device)
    made = forms(device)
    assert len(made) == 1
    restart(device)
    assert answers(device)
    assert forms(device) == made
    device.kill()


@pytest.mark.parametrize("dies_after_it_is_done", [False, True])
def test_killed_while_preparing_the_model_runs_as_it_is(device: SimulatedDevice, *, dies_after_it_is_done: bool) -> None:
    if dies_after_it_is_done:
        device.dies_after_work = once_after(Prepare)
    else:
        device.dies_after_save = once("preparing")
    roll_out(device)
    assert device.deaths == 1
    assert device.history == WAY
    assert answers(device)
    assert "prepared" not in events_of(device)
    assert "alert" in events_of(device)
    assert forms(device) == []
    device.kill()


def test_stopped_while_preparing_it_is_done_again(device: SimulatedDevice) -> None:
    dies = once("preparing")

    def stopped(entry: Entry) -> bool:
        ends = dies(entry)
        if ends:
            Journal(device.directory).save(replace(entry, clean=True))
        return ends

    device.dies_after_save = stopped
    roll_out(device)
    assert device.deaths == 1
    assert answers(device)
    assert "prepared" in events_of(device)
    assert len(forms(device)) == 1
    device.kill()


def test_what_cannot_be_prepared_runs_as_it_is(device: SimulatedDevice) -> None:
    (device.directory / "prepared").mkdir(exist_ok=True)
    (device.directory / "prepared" / "prepared").write_bytes(b"no directory")
    roll_out(device)
    assert device.history == WAY
    assert answers(device)
    assert "alert" in events_of(device)
    device.kill()


def test_killed_by_the_switch_the_prepared_form_is_not_tried_again(device: SimulatedDevice) -> None:
    device.dies_after_work = once_after(Activate)
    roll_out(device)
    assert device.deaths == 1
    assert answers(device)
    assert forms(device) == []
    device.kill()


def test_a_prepared_form_that_does_not_load_any_more_takes_nothing_away(device: SimulatedDevice) -> None:
    roll_out(device)
    graph = next(forms(device)[0].glob("*.onnx"))
    graph.write_bytes(bytes(graph.stat().st_size))
    restart(device)
    assert answers(device)
    device.kill()


def test_after_a_start_that_did_not_last_what_runs_is_loaded_as_it_is(device: SimulatedDevice) -> None:
    roll_out(device)
    device.run(100)
    device.kill()
    device.start()
    device.run(1)
    assert (answers(device), len(forms(device))) == (True, 1)
    device.kill()
    device.start()
    device.run(1)
    assert (answers(device), len(forms(device))) == (True, 0)
    device.kill()


def test_only_what_a_slot_names_keeps_its_prepared_form(device: SimulatedDevice) -> None:
    for seed, version in enumerate(("1.0.0", "1.1.0", "1.2.0")):
        roll_out(device, version, seed=seed)
        assert answers(device, version)
    assert len(forms(device)) == 2
    device.fleet.assign(device.name)
    device.run(2)
    assert forms(device) == []
    device.kill()


@pytest.mark.parametrize("effort", [None, PREPARING])
def test_a_release_that_takes_pictures_takes_them_on_the_device_and_after_a_restart(
    tmp_path: Path, effort: Effort | None
) -> None:
    device = SimulatedFleet(tmp_path).device()
    device.effort = effort
    device.start()
    roll_out(device, pictured=True)
    encoded, pixels = picture()
    for _ in range(2):
        assert answers(device)
        assert len(forms(device)) == (effort is not None)
        seen = device.host.infer("digits", {"pixels": np.array([encoded], object)}).outputs["scores"]
        np.testing.assert_array_equal(seen, device.host.infer("digits", {"pixels": pixels}).outputs["scores"])
        restart(device)
    device.kill()


def test_without_effort_there_is_no_such_phase(tmp_path: Path) -> None:
    device = SimulatedFleet(tmp_path).device()
    device.start()
    roll_out(device)
    assert "preparing" not in device.history
    assert answers(device)
    device.kill()
