from __future__ import annotations

from dataclasses import replace as with_fields
from pathlib import Path

import pytest
from msgspec.structs import replace

from device_agent import diagram
from device_agent.errors import IllegalEvent
from device_agent.events import (
    Activate,
    Activated,
    Assigned,
    Cancel,
    DeleteUnused,
    Effect,
    EmitEvent,
    Event,
    Failed,
    Fetch,
    Fetched,
    GatePassed,
    GateRefused,
    Hung,
    Lost,
    Report,
    Restarted,
    RollBack,
    RolledBack,
    RunGate,
    SelfCheck,
    SelfCheckPassed,
    Staged,
    Stop,
    Tick,
    Verified,
)
from device_agent.guards import Rules
from device_agent.machine import PHASES, TABLE, step
from device_agent.model_state import ModelState
from fleet_protocol.states import Assignment, Phase, Refusal, Running

RULES = Rules(probation_s=10, probation_inferences=3, errors_allowed=0, restarts_allowed=2, first_retry_s=2, longest_retry_s=30)


def digest(number: int) -> str:
    return "sha256:" + f"{number:064x}"


def assignment(number: int, attempt: int = 0) -> Assignment:
    return Assignment(model="digits", version=f"{number}.0.0", manifest=digest(number), attempt=attempt)


def running(number: int, variant: str = "int8") -> Running:
    return Running(version=f"{number}.0.0", manifest=digest(number), variant=variant, file=digest(100 + number))


def happen(state: ModelState, event: Event, now: float = 0.0) -> tuple[ModelState, tuple[Effect, ...]]:
    return step(state, event, now, RULES)


def in_phase(phase: Phase, *, target: int = 2, old: int | None = 1) -> ModelState:
    """A device that runs `old` (None: nothing), on its way to `target`, with work number 5 under way."""
    before = None if old is None else running(old)
    state = ModelState(model="digits", phase=phase, wanted=assignment(target), running=before, work=5)
    if phase == "idle":
        return replace(state, wanted=assignment(old) if old is not None else None)
    state = replace(state, target=assignment(target))
    if phase in ("verifying", "staged", "gating", "preparing", "activating"):
        return replace(state, candidate=running(target))
    if phase == "probation":
        return replace(state, running=running(target), previous=before)
    if phase == "rolling_back":
        refused = Refusal(version="2.0.0", manifest=digest(target), attempt=0, phase="probation", reason="it broke")
        return replace(state, running=running(target), fallback=before, refused=(refused,))
    return state


def work_of(effects: tuple[Effect, ...], kind: type[Effect]) -> Effect | None:
    return next((effect for effect in effects if isinstance(effect, kind)), None)


def test_a_first_release_goes_the_whole_way_and_is_committed_after_enough_good_answers() -> None:
    state, effects = happen(ModelState(model="digits"), Assigned(assignment(1)))
    assert work_of(effects, Fetch) == Fetch(2, assignment(1), ())
    phases: list[Phase] = [state.phase]
    good: list[Event] = [Fetched(2, running(1)), Verified(3), Staged(4), GatePassed(5, "well"), Activated(6), Tick(3, 0)]
    for event in good:
        state, effects = happen(state, event)
        phases.append(state.phase)
    assert phases == ["fetching", "verifying", "staged", "gating", "activating", "probation", "idle"]
    assert state.running == running(1)
    assert state.previous is None
    assert EmitEvent("committed", "", assignment(1)) in effects
    assert Report() in effects


@pytest.mark.parametrize("phase", ["fetching", "verifying", "staged", "gating"])
class TestBeforeTheSwitch:
    """Nothing that runs has been touched, so every wish is followed at once."""

    def test_the_same_wish_again_changes_nothing(self, phase: Phase) -> None:
        state = in_phase(phase)
        assert happen(state, Assigned(assignment(2))) == (state, ())

    def test_a_newer_release_replaces_the_target(self, phase: Phase) -> None:
        state, effects = happen(in_phase(phase), Assigned(assignment(3)))
        assert (state.phase, state.target, state.candidate) == ("fetching", assignment(3), None)
        assert effects[0] == Cancel(5)
        assert isinstance(effects[1], Fetch)
        assert state.running == running(1)

    def test_the_way_back_to_what_runs_ends_the_work(self, phase: Phase) -> None:
        state, effects = happen(in_phase(phase), Assigned(assignment(1)))
        assert (state.phase, state.running, state.target) == ("idle", running(1), None)
        assert Cancel(5) in effects
        assert not any(isinstance(effect, Stop) for effect in effects)

    def test_removal_stops_what_runs(self, phase: Phase) -> None:
        state, effects = happen(in_phase(phase), Assigned(None))
        assert (state.phase, state.running) == ("idle", None)
        assert Stop() in effects

    def test_a_release_that_was_refused_here_is_not_begun(self, phase: Phase) -> None:
        refused = Refusal(version="3.0.0", manifest=digest(3), attempt=0, phase="gating", reason="wrong")
        state, _ = happen(replace(in_phase(phase), refused=(refused,)), Assigned(assignment(3)))
        assert (state.phase, state.running) == ("idle", running(1))

    def test_a_lasting_failure_refuses_the_target_and_what_runs_goes_on(self, phase: Phase) -> None:
        state, effects = happen(in_phase(phase), Failed(5, "no variant fits", lasting=True))
        assert (state.phase, state.running) == ("idle", running(1))
        assert [(each.manifest, each.phase, each.reason) for each in state.refused] == [(digest(2), phase, "no variant fits")]
        assert DeleteUnused() in effects

    def test_a_failure_for_now_waits_and_fetches_again_longer_each_time(self, phase: Phase) -> None:
        state, effects = happen(in_phase(phase), Failed(5, "no room", jitter=0.5), now=100.0)
        assert (state.phase, state.waiting, state.at) == ("fetching", True, 102.0)
        assert EmitEvent("alert", "no room", assignment(2)) in effects
        state, _ = happen(state, Tick(), now=101.9)
        assert state.waiting
        state, effects = happen(state, Tick(), now=102.0)
        assert work_of(effects, Fetch) == Fetch(6, assignment(2), ())
        state, effects = happen(state, Failed(6, "no room", jitter=0.5), now=102.0)
        assert state.at == 106.0
        assert not any(isinstance(effect, EmitEvent) for effect in effects)

    def test_when_what_runs_is_lost_the_previous_one_answers_first(self, phase: Phase) -> None:
        state, _effects = happen(replace(in_phase(phase), previous=running(0)), Lost("damaged"))
        assert (state.phase, state.fallback) == ("rolling_back", running(0))
        state, _effects = happen(state, RolledBack(state.work))
        assert (state.phase, state.running, state.target) == ("fetching", running(0), assignment(2))


@pytest.mark.parametrize("phase", PHASES)
class TestInEveryPhase:
    def test_the_result_of_older_work_changes_nothing(self, phase: Phase) -> None:
        state = in_phase(phase)
        for stale in (Fetched(4, running(2)), Activated(4), RolledBack(4), Failed(4, "late", lasting=True)):
            assert happen(state, stale) == (state, ())

    def test_time_alone_changes_nothing_at_first(self, phase: Phase) -> None:
        state = in_phase(phase)
        assert happen(state, Tick(0, 0), now=1.0) == (state, ())

    def test_a_wish_is_remembered(self, phase: Phase) -> None:
        state, _ = happen(in_phase(phase), Assigned(assignment(7)))
        assert state.wanted == assignment(7)

    def test_a_clean_restart_is_never_held_against_the_target(self, phase: Phase) -> None:
        state = in_phase(phase)
        for _ in range(10):
            state, _effects = happen(state, Restarted(crashed=False))
        assert state.phase == phase
        assert (state.restarts, state.refused) == (0, in_phase(phase).refused)

    def test_a_result_that_does_not_belong_to_the_phase_is_an_error_of_its_own_type(self, phase: Phase) -> None:
        wrong = Staged(5) if phase != "staged" else RolledBack(5)
        with pytest.raises(IllegalEvent, match=phase):
            happen(in_phase(phase), wrong)


def test_the_gate_refuses_the_last_variant_and_the_release_with_all_reasons() -> None:
    state, effects = happen(in_phase("gating"), GateRefused(5, "saturated", another=True))
    assert (state.phase, state.passed_over) == ("fetching", ("int8",))
    assert work_of(effects, Fetch) == Fetch(6, assignment(2), ("int8",))
    state, _ = happen(state, Fetched(6, running(2, "float32")))
    state, _ = happen(state, Verified(7))
    state, effects = happen(state, Staged(8))
    assert work_of(effects, RunGate) == RunGate(9, running(2, "float32"), running(1), ("int8",))
    state, effects = happen(state, GateRefused(9, "wrong"))
    assert (state.phase, state.running) == ("idle", running(1))
    assert state.refused[0].reason == "int8: saturated; float32: wrong"
    assert any(isinstance(effect, EmitEvent) and effect.kind == "gate_refused" for effect in effects)


def test_variants_that_failed_for_the_same_reason_are_named_together() -> None:
    state, _ = happen(in_phase("gating"), GateRefused(5, "Accuracy 0.031: too low", another=True))
    for event in (Fetched(6, running(2, "float32")), Verified(7), Staged(8), GateRefused(9, "Accuracy 0.031: too low")):
        state, _ = happen(state, event)
    assert state.refused[0].reason == "int8, float32: Accuracy 0.031: too low"


def test_a_refused_digest_is_tried_again_only_at_a_higher_attempt() -> None:
    state, _ = happen(in_phase("gating"), GateRefused(5, "wrong"))
    state, effects = happen(state, Assigned(assignment(2)))
    assert (state.phase, effects) == ("idle", ())
    state, effects = happen(state, Assigned(assignment(2, attempt=1)))
    assert state.phase == "fetching"


def test_a_committed_release_is_no_longer_refused() -> None:
    refused = Refusal(version="2.0.0", manifest=digest(2), attempt=0, phase="gating", reason="wrong")
    state = replace(in_phase("probation"), refused=(refused,), target=assignment(2, 1), wanted=assignment(2, 1))
    state, _ = happen(state, Tick(3, 0))
    assert (state.phase, state.refused) == ("idle", ())


def test_only_the_newest_eight_refusals_are_kept() -> None:
    state = in_phase("idle")
    for number in range(10, 20):
        state, _ = happen(state, Assigned(assignment(number)))
        state, _ = happen(state, Failed(state.work, "no", lasting=True))
    assert [each.manifest for each in state.refused] == [digest(number) for number in range(12, 20)]


class TestActivating:
    def test_a_switch_that_fails_goes_back_to_what_runs_and_refuses_the_target(self) -> None:
        state, effects = happen(in_phase("activating"), Failed(5, "cannot be opened", lasting=True))
        assert work_of(effects, RollBack) == RollBack(6, running(1), None)
        assert state.refused[0].phase == "activating"
        state, _ = happen(state, RolledBack(6))
        assert (state.phase, state.running) == ("idle", running(1))

    def test_a_first_install_that_fails_leaves_nothing_running(self) -> None:
        state, _ = happen(in_phase("activating", old=None), Failed(5, "cannot be opened", lasting=True))
        state, _ = happen(state, RolledBack(state.work))
        assert (state.phase, state.running) == ("idle", None)

    def test_a_wish_during_the_switch_waits_for_its_end(self) -> None:
        state, effects = happen(in_phase("activating"), Assigned(assignment(3)))
        assert (state.phase, state.target, effects) == ("activating", assignment(2), ())
        state, _ = happen(state, Activated(5))
        assert state.phase == "probation"
        state, effects = happen(state, Tick(3, 0))
        assert (state.phase, state.target, state.running) == ("fetching", assignment(3), running(2))
        assert any(isinstance(effect, EmitEvent) and effect.kind == "committed" for effect in effects)

    def test_the_way_back_during_the_switch_goes_back_as_soon_as_it_is_done(self) -> None:
        state, _ = happen(in_phase("activating"), Assigned(assignment(1)))
        state, effects = happen(state, Activated(5))
        assert work_of(effects, RollBack) == RollBack(6, running(1), None)
        assert state.refused == ()

    def test_removal_during_the_switch_stops_the_model_as_soon_as_it_is_done(self) -> None:
        state, _ = happen(in_phase("activating"), Assigned(None))
        state, effects = happen(state, Activated(5))
        assert (state.phase, state.running) == ("idle", None)
        assert Stop() in effects


class TestProbation:
    def test_an_error_rolls_back_and_refuses(self) -> None:
        state, effects = happen(in_phase("probation"), Tick(2, 1))
        assert work_of(effects, RollBack) == RollBack(6, running(1), None)
        assert state.refused[0].reason == "1 of 3 inferences failed during probation"
        state, effects = happen(state, RolledBack(6))
        assert (state.phase, state.running, state.previous) == ("idle", running(1), None)
        assert EmitEvent("rolled_back", "1.0.0 runs again", assignment(2)) in effects

    def test_errors_that_the_rules_allow_are_borne(self) -> None:
        lenient = with_fields(RULES, errors_allowed=1)
        state, _ = step(in_phase("probation"), Tick(2, 1), 0.0, lenient)
        assert state.phase == "probation"

    def test_without_traffic_the_self_check_at_the_end_of_the_window_commits(self) -> None:
        state, effects = happen(in_phase("probation"), Tick(0, 0), now=10.0)
        assert effects == (SelfCheck(6, running(2)),)
        assert happen(state, Tick(0, 0), now=11.0) == (state, ())
        state, effects = happen(state, SelfCheckPassed(6))
        assert (state.phase, state.running, state.previous) == ("idle", running(2), running(1))

    def test_a_self_check_that_fails_rolls_back(self) -> None:
        state, _ = happen(in_phase("probation"), Tick(0, 0), now=10.0)
        state, _ = happen(state, Failed(6, "wrong answers", lasting=True))
        assert (state.phase, state.fallback, state.refused[0].reason) == ("rolling_back", running(1), "wrong answers")

    def test_a_self_check_that_could_not_be_done_opens_a_new_window(self) -> None:
        state, _ = happen(in_phase("probation"), Tick(0, 0), now=10.0)
        state, _ = happen(state, Failed(6, "disk"), now=12.0)
        assert (state.phase, state.at, state.checking) == ("probation", 12.0, False)

    def test_the_self_check_that_ends_after_the_commit_is_stale(self) -> None:
        state, _ = happen(in_phase("probation"), Tick(0, 0), now=10.0)
        state, _ = happen(state, Tick(3, 0), now=11.0)
        assert state.phase == "idle"
        assert happen(state, SelfCheckPassed(6)) == (state, ())

    def test_the_operator_goes_back_and_nobody_is_refused(self) -> None:
        state, effects = happen(in_phase("probation"), Assigned(assignment(1)))
        assert work_of(effects, RollBack) == RollBack(6, running(1), None)
        assert state.refused == ()

    def test_a_newer_release_waits_until_this_one_is_proven(self) -> None:
        state, effects = happen(in_phase("probation"), Assigned(assignment(3)))
        assert (state.phase, effects) == ("probation", ())
        state, effects = happen(state, Tick(3, 0))
        assert (state.phase, state.running, state.previous) == ("fetching", running(2), running(1))

    def test_a_newer_release_begins_after_the_roll_back_of_this_one(self) -> None:
        state, _ = happen(in_phase("probation"), Assigned(assignment(3)))
        state, _ = happen(state, Tick(0, 1))
        state, _effects = happen(state, RolledBack(state.work))
        assert (state.phase, state.running, state.target) == ("fetching", running(1), assignment(3))

    def test_removal_stops_it(self) -> None:
        state, effects = happen(in_phase("probation"), Assigned(None))
        assert (state.phase, state.running, state.previous) == ("idle", None, None)
        assert Stop() in effects

    def test_a_loss_rolls_back(self) -> None:
        state, _ = happen(in_phase("probation"), Lost("damaged"))
        assert (state.phase, state.fallback) == ("rolling_back", running(1))


class TestRollingBack:
    def test_it_is_tried_until_it_succeeds(self) -> None:
        state = in_phase("rolling_back")
        for _ in range(20):
            state, _ = happen(state, Failed(state.work, "disk", lasting=True), now=0.0)
            assert (state.phase, state.waiting) == ("rolling_back", True)
            state, effects = happen(state, Tick(), now=1000.0)
            assert work_of(effects, RollBack) == RollBack(state.work, running(1), None)
        state, _ = happen(state, RolledBack(state.work))
        assert (state.phase, state.running) == ("idle", running(1))

    def test_when_even_the_fallback_kills_the_process_nothing_runs_and_the_device_stays_reachable(self) -> None:
        state = in_phase("rolling_back")
        for _ in range(2):
            state, effects = happen(state, Restarted())
            assert isinstance(effects[0], RollBack)
        state, effects = happen(state, Restarted())
        assert (state.phase, state.running, state.fallback) == ("idle", None, None)
        assert Stop() in effects

    def test_removal_meanwhile_is_followed_at_its_end(self) -> None:
        state, _ = happen(in_phase("rolling_back"), Assigned(None))
        state, effects = happen(state, RolledBack(5))
        assert (state.phase, state.running) == ("idle", None)
        assert Stop() in effects


class TestCrashes:
    """Crashes are counted from the gate on, over all phases of one target: two are borne here, the third ends it."""

    def test_at_the_gate_the_target_is_refused(self) -> None:
        state = in_phase("gating")
        for _ in range(2):
            state, effects = happen(state, Restarted())
            assert isinstance(effects[0], RunGate)
        state, _ = happen(state, Restarted())
        assert (state.phase, state.running) == ("idle", running(1))
        assert state.refused[0].reason == "the agent's process died 3 times while gating"

    def test_while_activating_what_ran_comes_back(self) -> None:
        state = in_phase("activating")
        for _ in range(2):
            state, effects = happen(state, Restarted())
            assert isinstance(effects[0], Activate)
        state, effects = happen(state, Restarted())
        assert effects[0] == RollBack(state.work, running(1), None)
        assert state.refused[0].phase == "activating"

    def test_on_probation_what_ran_comes_back(self) -> None:
        state = in_phase("probation")
        for _ in range(2):
            state, _ = happen(state, Restarted(), now=50.0)
            assert (state.phase, state.at) == ("probation", 50.0)
        state, effects = happen(state, Restarted())
        assert effects[0] == RollBack(state.work, running(1), None)

    def test_they_add_up_over_phases(self) -> None:
        state, _ = happen(in_phase("gating"), Restarted())
        state, _ = happen(state, GatePassed(state.work))
        state, _ = happen(state, Restarted())
        state, _ = happen(state, Activated(state.work))
        state, _ = happen(state, Restarted())
        assert state.phase == "rolling_back"

    @pytest.mark.parametrize("phase", ["fetching", "verifying", "staged"])
    def test_before_the_gate_a_flapping_power_supply_refuses_nothing(self, phase: Phase) -> None:
        state = in_phase(phase)
        for _ in range(20):
            state, _ = happen(state, Restarted())
        assert (state.phase, state.refused) == (phase, ())

    def test_a_new_target_begins_with_no_crashes(self) -> None:
        state, _ = happen(in_phase("gating"), Restarted())
        state, _ = happen(state, Assigned(assignment(3)))
        assert state.restarts == 0


class TestHangs:
    def test_an_inference_that_hangs_during_probation_counts_as_failed(self) -> None:
        state, effects = happen(in_phase("probation"), Tick(2, 0, hung=1))
        assert (state.phase, state.fallback) == ("rolling_back", running(1))
        assert state.refused[-1].reason == "1 of 3 inferences failed during probation, 1 of them by never ending"
        assert work_of(effects, RollBack) is not None
        lenient = with_fields(RULES, errors_allowed=1)
        assert step(in_phase("probation"), Tick(2, 0, hung=1), 0.0, lenient)[0].phase == "probation"

    def test_probation_does_not_end_well_while_an_inference_may_hang(self) -> None:
        state = in_phase("probation")
        assert happen(state, Tick(100, 0, overdue=True), now=99.0) == (state, ())
        assert happen(state, Tick(100, 0), now=99.0)[0].phase == "idle"

    def test_a_model_on_probation_that_holds_up_the_server_is_refused_at_once(self) -> None:
        state, effects = happen(in_phase("probation"), Hung("digits hangs"))
        assert (state.phase, state.fallback, state.refused[-1].reason) == ("rolling_back", running(1), "digits hangs")
        assert EmitEvent("alert", "digits hangs", assignment(2)) in effects
        again, effects = happen(state, Restarted())
        assert (again.phase, work_of(effects, RollBack)) == ("rolling_back", RollBack(again.work, running(1), None, plain=True))

    @pytest.mark.parametrize("phase", [phase for phase in PHASES if phase != "probation"])
    def test_what_is_committed_stays_and_the_fleet_hears_of_it(self, phase: Phase) -> None:
        state = in_phase(phase)
        assert happen(state, Hung("digits hangs")) == (state, (EmitEvent("alert", "digits hangs"),))


class TestLoss:
    def test_what_runs_is_fetched_again_where_nothing_is_there_to_fall_back_to(self) -> None:
        state, _effects = happen(in_phase("idle"), Lost("damaged"))
        assert (state.phase, state.running, state.target) == ("fetching", None, assignment(1))

    def test_a_previous_one_that_was_refused_since_does_not_come_back(self) -> None:
        refused = Refusal(version="0.0.0", manifest=digest(0), attempt=0, phase="gating", reason="wrong")
        state = replace(in_phase("idle"), previous=running(0), refused=(refused,))
        state, _ = happen(state, Lost("damaged"))
        assert (state.phase, state.fallback) == ("fetching", None)

    def test_nothing_is_stopped_when_the_journal_was_lost_and_no_wish_is_known(self) -> None:
        state = ModelState(model="digits", running=running(1), previous=running(0))
        state, effects = happen(state, Restarted())
        assert (state.phase, state.running, effects) == ("idle", running(1), ())


def test_a_wish_that_is_heard_again_ends_the_wait_of_a_failed_fetch() -> None:
    state, _ = happen(in_phase("fetching"), Failed(5, "no connection"), now=0.0)
    state, effects = happen(state, Assigned(assignment(2)), now=0.1)
    assert isinstance(effects[0], Fetch)
    assert not state.waiting


def test_every_row_of_the_table_can_be_reached() -> None:
    """A row behind another that always fits would be dead."""
    for at, row in enumerate(TABLE):
        for phase in row.phases:
            earlier = [
                each
                for each in TABLE[:at]
                if phase in each.phases and each.event is row.event and each.guard.__name__ == "always"
            ]
            assert not earlier, f"{phase}: {row.event.__name__} is always taken by an earlier row"


def test_the_page_of_the_machine_is_drawn_from_the_table() -> None:
    written = Path(__file__).parents[3] / "docs" / "agent-machine.md"
    assert written.read_text() == diagram.page(), "run: python -m device_agent.diagram > docs/agent-machine.md"
