"""The rollout planner, case by case: pure values in, pure values out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fleet_protocol.digests import digest_of
from fleet_protocol.errors import InvalidName
from fleet_protocol.states import ModelReport, Phase, Refusal, Running
from model_registry import rollout as planner
from model_registry.errors import InvalidRequest
from model_registry.rollout import DeviceView, Release, Rollout

OLD = Release("1.0.0", digest_of(b"old"))
NEW = Release("1.1.0", digest_of(b"new"))


def a_rollout(**changes: object) -> Rollout:
    made = Rollout(id=1, model="digits", release=NEW, cohort="all", steps=(1.0,), max_failures=0)
    return replace(made, **changes)  # type: ignore[arg-type]  # a test names the fields that it means


def running(release: Release, phase: Phase = "idle", refused: tuple[Refusal, ...] = ()) -> ModelReport:
    runs = Running(version=release.version, manifest=release.manifest, variant="float32", file=digest_of(b"f"))
    return ModelReport(model="digits", phase=phase, running=runs, refused=refused)


def refusal(release: Release) -> Refusal:
    return Refusal(
        version=release.version, manifest=release.manifest, attempt=release.attempt, phase="gating", reason="too wrong"
    )


def device(name: str, report: ModelReport | None = None, *, assigned: Release | None = OLD, online: bool = True) -> DeviceView:
    return DeviceView(name, online, assigned, report)


def fleet(count: int, report: ModelReport | None = None) -> list[DeviceView]:
    return [device(f"d{at}", report if report is not None else running(OLD)) for at in range(count)]


def carry_out(devices: list[DeviceView], decided: planner.Plan) -> list[DeviceView]:
    """The devices, told."""
    return [replace(each, assigned=decided.assign[each.name]) if each.name in decided.assign else each for each in devices]


def test_a_rollout_in_one_step_tells_everybody_at_once() -> None:
    decided = planner.plan(a_rollout(), fleet(3))
    assert decided.assign == {"d0": NEW, "d1": NEW, "d2": NEW}
    assert decided.rollout.state == "running"
    assert decided.rollout.reached == {"d0": OLD, "d1": OLD, "d2": OLD}


def test_the_first_step_reaches_its_share_and_no_more() -> None:
    decided = planner.plan(a_rollout(steps=(0.25, 1.0)), fleet(8))
    assert len(decided.assign) == 2
    assert decided.rollout.step == 0


def test_the_next_step_waits_for_every_device_of_the_first() -> None:
    first = planner.plan(a_rollout(steps=(0.5, 1.0)), fleet(4))
    told = carry_out(fleet(4), first)
    early, late = sorted(first.rollout.reached)
    one_done = [replace(each, report=running(NEW)) if each.name == early else each for each in told]
    assert planner.plan(first.rollout, one_done) == planner.Plan(first.rollout, {})
    both_done = [replace(each, report=running(NEW)) if each.name in (early, late) else each for each in told]
    second = planner.plan(first.rollout, both_done)
    assert second.rollout.step == 1
    assert len(second.assign) == 2
    assert set(second.assign).isdisjoint({early, late})


def test_it_succeeds_when_every_device_runs_the_release() -> None:
    begun = planner.plan(a_rollout(), fleet(2)).rollout
    decided = planner.plan(begun, [device(f"d{at}", running(NEW), assigned=NEW) for at in range(2)])
    assert decided.rollout.state == "succeeded"
    assert decided.assign == {}
    assert decided.rollout.reason == "2 of 2 devices run it"


@pytest.mark.parametrize("phase", ["fetching", "verifying", "staged", "gating", "activating", "probation"])
def test_a_device_that_is_still_at_work_is_no_success_even_when_it_runs_the_release(phase: Phase) -> None:
    begun = planner.plan(a_rollout(), fleet(1)).rollout
    decided = planner.plan(begun, [device("d0", running(NEW, phase), assigned=NEW)])
    assert decided.rollout.state == "running"


def test_a_device_that_runs_something_else_is_no_success() -> None:
    begun = planner.plan(a_rollout(), fleet(1)).rollout
    decided = planner.plan(begun, [device("d0", running(OLD), assigned=NEW)])
    assert decided.rollout.state == "running"
    assert planner.verdict(decided.rollout, device("d0", running(OLD), assigned=NEW)) == "pending"


def test_an_offline_device_is_waited_for() -> None:
    begun = planner.plan(a_rollout(), fleet(2)).rollout
    away = device("d1", running(OLD), assigned=NEW, online=False)
    decided = planner.plan(begun, [device("d0", running(NEW), assigned=NEW), away])
    assert decided.rollout.state == "running"
    assert planner.verdict(begun, away) == "offline"


def test_a_device_that_committed_and_then_went_offline_has_committed() -> None:
    begun = planner.plan(a_rollout(), fleet(1)).rollout
    decided = planner.plan(begun, [device("d0", running(NEW), assigned=NEW, online=False)])
    assert decided.rollout.state == "succeeded"


def test_one_failure_too_many_takes_everybody_back() -> None:
    begun = planner.plan(a_rollout(), fleet(3)).rollout
    devices = [
        device("d0", running(NEW), assigned=NEW),
        device("d1", running(OLD, refused=(refusal(NEW),)), assigned=NEW),
        device("d2", running(OLD, "fetching"), assigned=NEW, online=False),
    ]
    decided = planner.plan(begun, devices)
    assert decided.rollout.state == "failed"
    assert decided.assign == {"d0": OLD, "d1": OLD, "d2": OLD}
    assert "d1 in phase gating: too wrong" in decided.rollout.reason


def test_a_device_that_rolls_back_what_it_refused_has_failed() -> None:
    begun = planner.plan(a_rollout(), fleet(2)).rollout
    back = running(NEW, "rolling_back", refused=(refusal(NEW),))
    decided = planner.plan(begun, [device("d0", back, assigned=NEW), device("d1", assigned=NEW)])
    assert decided.rollout.state == "failed"


def test_a_device_that_rolls_back_to_the_release_as_it_was_told_has_not_failed() -> None:
    """An operator goes back to the former release while the newer one is on probation."""
    newer = [device("d0", running(NEW, "probation"), assigned=NEW)]
    begun = planner.plan(a_rollout(release=OLD), newer).rollout
    back = device("d0", running(NEW, "rolling_back"), assigned=OLD)
    assert planner.verdict(begun, back) == "pending"
    assert planner.plan(begun, [back]).rollout.state == "running"
    assert planner.plan(begun, [device("d0", running(OLD), assigned=OLD)]).rollout.state == "succeeded"


def test_allowed_failures_do_not_stop_the_rest() -> None:
    begun = planner.plan(a_rollout(max_failures=1), fleet(3)).rollout
    devices = [
        device("d0", running(NEW), assigned=NEW),
        device("d1", running(OLD, refused=(refusal(NEW),)), assigned=NEW),
        device("d2", running(NEW), assigned=NEW),
    ]
    decided = planner.plan(begun, devices)
    assert decided.rollout.state == "succeeded"
    assert decided.rollout.reason == "2 of 3 devices run it"


def test_when_every_device_failed_it_is_no_success_however_many_failures_are_allowed() -> None:
    begun = planner.plan(a_rollout(max_failures=10), fleet(2)).rollout
    devices = [device(f"d{at}", running(OLD, refused=(refusal(NEW),)), assigned=NEW) for at in range(2)]
    assert planner.plan(begun, devices).rollout.state == "failed"


def test_each_device_goes_back_to_what_itself_ran_before() -> None:
    older = Release("0.9.0", digest_of(b"older"))
    devices = [device("d0", running(older), assigned=older), device("d1", running(OLD)), device("d2", None, assigned=None)]
    begun = planner.plan(a_rollout(), devices).rollout
    ended = planner.go_back(begun, carry_out(devices, planner.plan(a_rollout(), devices)), "aborted", "by hand")
    assert ended.assign == {"d0": older, "d1": OLD, "d2": None}


def test_a_device_goes_back_to_what_it_ran_and_not_to_what_it_had_refused() -> None:
    """It was told 1.0.0, refused it, and kept 0.9.0: asking for 1.0.0 again would leave it on the bad release."""
    older = Release("0.9.0", digest_of(b"older"))
    begun = planner.plan(a_rollout(), [device("d0", running(older, refused=(refusal(OLD),)), assigned=OLD)]).rollout
    assert begun.reached == {"d0": older}


def test_a_refusal_of_an_earlier_attempt_is_forgotten() -> None:
    again = replace(NEW, attempt=1)
    begun = planner.plan(a_rollout(release=again), fleet(1)).rollout
    decided = planner.plan(begun, [device("d0", running(OLD, refused=(refusal(NEW),)), assigned=again)])
    assert decided.rollout.state == "running"


def test_an_operators_retry_makes_a_failed_device_pending_again() -> None:
    begun = planner.plan(a_rollout(max_failures=1), fleet(2)).rollout
    retried = device("d0", running(OLD, refused=(refusal(NEW),)), assigned=replace(NEW, attempt=1))
    assert planner.verdict(begun, retried) == "pending"
    decided = planner.plan(begun, [retried, device("d1", running(NEW), assigned=NEW)])
    assert decided.rollout.state == "running"
    assert decided.assign == {}


def test_an_empty_cohort_waits_for_devices() -> None:
    decided = planner.plan(a_rollout(), [])
    assert decided == planner.Plan(a_rollout(), {})
    joined = planner.plan(decided.rollout, fleet(1))
    assert joined.assign == {"d0": NEW}


def test_a_device_that_joins_while_it_runs_is_reached_too() -> None:
    begun = planner.plan(a_rollout(), fleet(1)).rollout
    joined = planner.plan(begun, [device("d0", running(NEW), assigned=NEW), device("new", None, assigned=None)])
    assert joined.assign == {"new": NEW}
    assert joined.rollout.state == "running"


def test_a_cohort_of_names_leaves_others_alone() -> None:
    decided = planner.plan(a_rollout(cohort="d0,d2"), fleet(4))
    assert set(decided.assign) == {"d0", "d2"}


def test_devices_that_are_online_go_first() -> None:
    devices = [replace(each, online=at % 2 == 0) for at, each in enumerate(fleet(10))]
    decided = planner.plan(a_rollout(steps=(0.5, 1.0)), devices)
    assert set(decided.assign) == {"d0", "d2", "d4", "d6", "d8"}


def test_not_always_the_same_devices_go_first() -> None:
    first = {next(iter(planner.plan(a_rollout(id=number, steps=(0.01, 1.0)), fleet(20)).assign)) for number in range(1, 20)}
    assert len(first) > 5


@pytest.mark.parametrize("state", ["succeeded", "failed", "aborted", "superseded"])
def test_a_rollout_that_has_ended_says_nothing_more(state: planner.State) -> None:
    ended = a_rollout(state=state, reached={"d0": OLD})
    assert planner.plan(ended, fleet(3)) == planner.Plan(ended, {})


def test_the_baseline_is_the_newest_success_for_the_cohort() -> None:
    succeeded = [
        a_rollout(id=1, release=OLD, state="succeeded"),
        a_rollout(id=2, release=NEW, state="succeeded", cohort="d1"),
        a_rollout(id=3, state="failed"),
    ]
    assert planner.baseline(succeeded, "d0") == succeeded[0]
    assert planner.baseline(succeeded, "d1") == succeeded[1]
    assert planner.baseline([succeeded[2]], "d0") is None


@pytest.mark.parametrize("steps", [(), (0.5,), (0.5, 0.5, 1.0), (0.0, 1.0), (-1.0, 1.0), (1.0, 0.5), (0.5, 2.0), (0.5,) * 30])
def test_steps_that_make_no_sense_are_refused(steps: tuple[float, ...]) -> None:
    with pytest.raises(InvalidRequest, match="rising shares"):
        planner.check_steps(steps)


@pytest.mark.parametrize("cohort", ["", "All", "a,,b", "a b", "../x", "x" * 64])
def test_cohorts_that_name_nobody_are_refused(cohort: str) -> None:
    with pytest.raises(InvalidName):
        planner.check_cohort(cohort)


@pytest.mark.parametrize("cohort", ["all,shelf-1", "shelf-1,all"])
def test_a_cohort_is_everyone_or_names_and_not_both(cohort: str) -> None:
    with pytest.raises(InvalidRequest, match="names 'all' beside devices"):
        planner.check_cohort(cohort)


def test_a_cohort_may_name_only_so_many() -> None:
    with pytest.raises(InvalidRequest, match="at most 1000"):
        planner.check_cohort(",".join(f"d{at}" for at in range(1001)))


@pytest.mark.parametrize(
    ("share", "count", "wanted"), [(0.1, 10, 1), (0.3, 10, 3), (0.01, 10, 1), (1.0, 7, 7), (0.5, 0, 0), (0.34, 3, 2)]
)
def test_a_share_is_rounded_up_and_exact_where_it_can_be(share: float, count: int, wanted: int) -> None:
    assert planner.quota(share, count) == wanted
