"""The agent dies in every state: right after the journal named it, and right after its work was done.

Each death has an outcome. The device runs 1.0.0 and is on its way to 1.1.0. What dies is the process (in simulation): it loses
its memory, its connection and whatever it had not written; the next one begins with the journal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from device_agent.events import Activate, Fetch, Result, RollBack, RunGate, SelfCheck, Stage, Verify, Work
from device_agent.journal import Entry
from runtime.gate import GateRequest, GateVerdict
from tests.support.releases import make_release, question
from tests.support.simulated_fleet import SimulatedDevice, SimulatedFleet

OLD, NEW = "1.0.0", "1.1.0"
GOOD_WAY = ["fetching", "verifying", "staged", "gating", "activating", "probation", "idle"]


def lenient_gate(_request: GateRequest) -> GateVerdict:
    """Lets everything pass, so that a bad model reaches probation."""
    return GateVerdict(passed=True, reason="not looked at")


@dataclass(frozen=True)
class Case:
    """One way to die, and what must come of it."""

    name: str
    in_phase: str | None = None
    """Dies after the journal said this."""
    after: type[Work] | None = None
    """Dies after this was done, before anybody heard."""
    times: int = 1
    bad: bool = False
    """1.1.0 passes the gate and then answers nonsense, so that it is rolled back."""
    first: bool = False
    """Nothing ran before."""
    runs: str | None = NEW
    phases: tuple[str, ...] = tuple(GOOD_WAY)
    refused_in: str | None = None


FOR_EVER = 1000
ROLLED_BACK = (*GOOD_WAY[:-1], "rolling_back", "idle")

CASES = (
    *(Case(f"killed_in_{phase}", in_phase=phase) for phase in GOOD_WAY),
    *(Case(f"killed_twice_in_{phase}", in_phase=phase, times=2) for phase in GOOD_WAY),
    *(Case(f"killed_after_{kind.__name__}", after=kind) for kind in (Fetch, Verify, Stage, RunGate, Activate, SelfCheck)),
    *(Case(f"killed_in_{phase}_of_a_first_install", in_phase=phase, first=True) for phase in GOOD_WAY),
    Case("killed_in_rolling_back", in_phase="rolling_back", bad=True, runs=OLD, phases=ROLLED_BACK, refused_in="probation"),
    Case("killed_after_RollBack", after=RollBack, bad=True, runs=OLD, phases=ROLLED_BACK, refused_in="probation"),
    Case(
        "killed_in_rolling_back_of_a_first_install",
        in_phase="rolling_back",
        bad=True,
        first=True,
        runs=None,
        phases=ROLLED_BACK,
        refused_in="probation",
    ),
    Case(
        "the_gate_kills_the_process_each_time",
        in_phase="gating",
        times=FOR_EVER,
        runs=OLD,
        phases=(*GOOD_WAY[:4], "idle"),
        refused_in="gating",
    ),
    Case(
        "the_switch_kills_the_process_each_time",
        after=Activate,
        times=FOR_EVER,
        runs=OLD,
        phases=(*GOOD_WAY[:5], "rolling_back", "idle"),
        refused_in="activating",
    ),
    Case(
        "the_self_check_kills_the_process_each_time",
        after=SelfCheck,
        times=FOR_EVER,
        runs=OLD,
        phases=ROLLED_BACK,
        refused_in="probation",
    ),
    Case(
        "the_switch_of_a_first_install_kills_the_process_each_time",
        after=Activate,
        times=FOR_EVER,
        first=True,
        runs=None,
        phases=(*GOOD_WAY[:5], "rolling_back", "idle"),
        refused_in="activating",
    ),
    Case(
        "even_the_roll_back_kills_the_process_each_time",
        after=RollBack,
        times=FOR_EVER,
        bad=True,
        runs=None,
        phases=ROLLED_BACK,
        refused_in="probation",
    ),
)


def dying_in(phase: str, times: int) -> Callable[[Entry], bool]:
    left = [times]

    def dies(entry: Entry) -> bool:
        if not any(each.phase == phase for each in entry.models) or not left[0]:
            return False
        left[0] -= 1
        return True

    return dies


def dying_after(kind: type[Work], times: int) -> Callable[[Work, Result], bool]:
    left = [times]

    def dies(work: Work, _result: Result) -> bool:
        if not isinstance(work, kind) or not left[0]:
            return False
        left[0] -= 1
        return True

    return dies


def prepared(tmp_path: Path, case: Case) -> tuple[SimulatedFleet, SimulatedDevice]:
    """A device that runs 1.0.0 (or nothing) and has not heard of 1.1.0."""
    fleet = SimulatedFleet(tmp_path)
    device = fleet.device()
    device.start()
    if not case.first:
        old = make_release(tmp_path / "bundles", OLD)
        fleet.publish(old)
        fleet.assign(device.name, old.assignment())
        device.run(12)
        assert (device.state().phase, device.runs()) == ("idle", OLD)
    device.history.clear()
    device.gate = lenient_gate if case.bad else device.gate
    fleet.publish(make_release(tmp_path / "bundles", NEW, seed=1, answers_nan=case.bad))
    return fleet, device


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_killed(tmp_path: Path, case: Case) -> None:
    fleet, device = prepared(tmp_path, case)
    device.kill()
    device.start()
    if case.in_phase:
        device.dies_after_save = dying_in(case.in_phase, case.times)
    if case.after:
        device.dies_after_work = dying_after(case.after, case.times)
    device.history.clear()
    fleet.assign(device.name, make_release(tmp_path / "bundles", NEW, seed=1, answers_nan=case.bad).assignment())
    for _ in range(60):
        device.run(1)
        if case.bad and device.state().phase == "probation":
            device.host.infer("digits", question())
    assert device.deaths >= 1
    assert device.runs() == case.runs
    state = device.state()
    assert (state.phase, state.running.version if state.running else None) == ("idle", case.runs)
    assert [each.phase for each in state.refused] == ([case.refused_in] if case.refused_in else [])
    assert tuple(device.history) == case.phases
    reported = fleet.reported(device.name).models[0]
    assert (reported.running.version if reported.running else None) == case.runs
    assert device.slots.read("digits", "active") == state.running
    assert device.slots.read("digits", "previous") == state.previous
    assert device.slots.read("digits", "staged") is None
    if case.runs:
        assert device.host.infer("digits", question()).identity.version == case.runs
    device.kill()


def test_killed_between_the_word_that_removes_a_model_and_the_deed_it_is_gone_after_the_restart(tmp_path: Path) -> None:
    fleet, device = prepared(tmp_path, CASES[0])
    device.dies_after_save = lambda entry: device.deaths == 0 and any(each.removed for each in entry.models)
    fleet.assign(device.name)
    device.run(2)
    assert device.deaths == 1
    assert device.runs() is None
    assert [path.name for path in (device.directory / "models" / "digits").iterdir()] == []
    assert list((device.directory / "blobs").iterdir()) == []
    device.kill()
