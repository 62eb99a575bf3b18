"""The actions that the machine's table names: each a few lines from one `Case` to the next state and its effects. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from device_agent.events import (
    Activate,
    Activated,
    Cancel,
    DeleteUnused,
    Effect,
    EmitEvent,
    Failed,
    Fetch,
    Fetched,
    GateRefused,
    Lost,
    Prepare,
    Prepared,
    RollBack,
    RunGate,
    SelfCheck,
    Stage,
    Stop,
    Tick,
    Verify,
)
from device_agent.guards import Case, crashed
from device_agent.model_state import ModelState, with_refusal, without_refusal
from fleet_protocol.states import Phase

MOST_DOUBLINGS: Final = 16

Move = tuple[ModelState, tuple[Effect, ...]]
Action = Callable[[Case], Move]


# Actions for the operator's wish


def nothing(case: Case) -> Move:
    """Stay as it is."""
    return case.state, ()


note = nothing
"""The wish itself was remembered by `step`."""


def begin(case: Case) -> Move:
    """Work towards what is wanted."""
    return _fetch(_rest(case.state))


def begin_instead(case: Case) -> Move:
    """Drop the work for the old target, and begin with the new one."""
    state, effects = begin(case)
    return state, (Cancel(case.state.work), *effects)


def follow(case: Case) -> Move:
    """The same release, perhaps with a higher attempt."""
    return replace(case.state, target=case.state.wanted), ()


def follow_now(case: Case) -> Move:
    """The wish was heard again (a connection is there, or an operator is): do not wait any longer."""
    return _fetch(case.state)


def drop(case: Case) -> Move:
    """Stop working on the target; what runs is what is wanted, or what is wanted was refused here."""
    return _rest(case.state), (Cancel(case.state.work), DeleteUnused())


def stop(case: Case) -> Move:
    """Take the model off this device."""
    state = replace(_rest(case.state), running=None, previous=None, fallback=None)
    return state, (Cancel(case.state.work), Stop(), DeleteUnused())


# Actions for the good way


def verify(case: Case) -> Move:
    """All files are here: check signatures and digests once more."""
    return _work(replace(case.state, candidate=case.got(Fetched).candidate), "verifying")


def stage(case: Case) -> Move:
    """All files are what was signed: name them in the staged slot."""
    return _work(case.state, "staged")


def run_gate(case: Case) -> Move:
    """The staged slot is written: try the candidate on its golden inputs."""
    return _work(case.state, "gating")


def prepare(case: Case) -> Move:
    """The gate was passed: find the best way to run the candidate here."""
    return _passed(case, "preparing")


def activate(case: Case) -> Move:
    """The gate was passed: let the candidate answer."""
    return _passed(case, "activating")


def activate_prepared(case: Case) -> Move:
    """The candidate is prepared: let it answer."""
    state, effects = _work(case.state, "activating")
    return state, (*effects, EmitEvent("prepared", case.got(Prepared).detail, case.target))


def switch(case: Case) -> Move:
    """The candidate answers now: watch it."""
    fault = case.got(Activated).fault
    return _switched(case), (EmitEvent("alert", fault, case.target),) if fault else ()


def commit(case: Case) -> Move:
    """The running model has proven itself: older refusals of it are forgotten."""
    return _rest(without_refusal(case.state)), (EmitEvent("committed", "", case.target), DeleteUnused())


def commit_and_begin(case: Case) -> Move:
    """Proven; then the newer wish."""
    committed, effects = commit(case)
    state, more = _fetch(committed)
    return state, (*effects, *more)


def self_check(case: Case) -> Move:
    """Nobody asks this model anything: ask it ourselves."""
    state = replace(case.state, checking=True, work=case.state.work + 1)
    assert state.running is not None
    return state, (SelfCheck(state.work, state.running),)


# Actions for failures


def next_variant(case: Case) -> Move:
    """Fetch the next variant of the release."""
    state, event = case.state, case.got(GateRefused)
    state = replace(
        state,
        passed_over=(*state.passed_over, case.candidate.variant),
        reasons=(*state.reasons, _gate_reason(case)),
        candidate=None,
        retries=0,
    )
    moved, effects = _work(state, "fetching")
    return moved, (*effects, EmitEvent("gate_refused", f"{case.candidate.variant}: {event.reason}", case.target))


def refuse_at_gate(case: Case) -> Move:
    """No variant did what was promised: remember the refusal; what runs goes on."""
    return _refuse(case, _together((*case.state.reasons, _gate_reason(case))), "gate_refused")


def refuse(case: Case) -> Move:
    """The release cannot run here: remember the refusal; what runs goes on."""
    return _refuse(case, _reason(case), "alert")


def refuse_crash_loop(case: Case) -> Move:
    """Each try of the candidate killed the process: remember the refusal; what runs goes on."""
    return _refuse(case, _loop_reason(case), "alert")


def wait(case: Case) -> Move:
    """Try again later, each time a little more so."""
    event, state = case.got(Failed), case.state
    delay = min(case.rules.longest_retry_s, case.rules.first_retry_s * 2.0 ** min(state.retries, MOST_DOUBLINGS))
    state = replace(state, waiting=True, retries=state.retries + 1, at=case.now + delay * (0.5 + event.jitter))
    first = (EmitEvent("alert", event.reason, case.state.target),) if state.retries == 1 else ()
    return state, first


def activate_as_it_is(case: Case) -> Move:
    """Preparing failed, which says nothing against the candidate: let it answer as it is."""
    return _as_it_is(case, _reason(case))


def activate_after_death(case: Case) -> Move:
    """The process died while it prepared: do not try that again, and let the candidate answer as it is."""
    return _as_it_is(case, "the agent's process died while it prepared the model")


def give_up(case: Case) -> Move:
    """The model on probation failed: never again, and back to what ran before."""
    return _roll_back(case, _reason(case))


def give_up_for_errors(case: Case) -> Move:
    """Inferences failed during probation."""
    tick = case.got(Tick)
    failed = tick.errors + tick.hung
    hung = f", {tick.hung} of them by never ending" if tick.hung else ""
    return _roll_back(case, f"{failed} of {failed + tick.healthy} inferences failed during probation{hung}")


def complain(case: Case) -> Move:
    """What is committed hangs: tell the fleet. The process ends, and what runs begins anew with it."""
    return case.state, (EmitEvent("alert", _reason(case)),)


def give_up_crash_loop(case: Case) -> Move:
    """The process died again and again since the switch."""
    return _roll_back(case, _loop_reason(case))


def give_up_activation(case: Case) -> Move:
    """The switch failed half-way: what ran shall run again."""
    return _undo_activation(case, _reason(case))


def give_up_activation_loop(case: Case) -> Move:
    """The process died at each try to switch."""
    return _undo_activation(case, _loop_reason(case))


def go_back(case: Case) -> Move:
    """The operator wants what ran before; nobody is to blame."""
    return _roll_back(case, None)


def switch_and_go_back(case: Case) -> Move:
    """The switch is done, but what ran before is wanted again."""
    return _roll_back(Case(_switched(case), case.event, case.now, case.rules), None)


def settle_back(case: Case) -> Move:
    """The fallback answers."""
    state = _rest(replace(case.state, running=case.state.fallback, fallback=None))
    runs = state.running.version if state.running else "nothing"
    return state, (EmitEvent("rolled_back", f"{runs} runs again", case.state.target), DeleteUnused())


def settle_back_and_begin(case: Case) -> Move:
    """The fallback answers; something else is wanted by now."""
    settled, effects = settle_back(case)
    state, more = _fetch(settled)
    return state, (*effects, *more)


def watch_again(case: Case) -> Move:
    """The self-check could not be done: a new window."""
    return replace(case.state, checking=False, at=case.now), ()


# Actions after loss and restart


def fall_back(case: Case) -> Move:
    """What ran is gone; what ran before it shall answer meanwhile."""
    state = replace(_rest(case.state), fallback=case.state.previous, previous=None, running=None)
    moved, effects = _work(state, "rolling_back")
    return moved, (Cancel(case.state.work), *effects, EmitEvent("alert", case.got(Lost).reason))


def lose(case: Case) -> Move:
    """What ran is gone, and nothing is there to fall back to."""
    return replace(case.state, running=None), (EmitEvent("alert", case.got(Lost).reason),)


def lose_and_begin(case: Case) -> Move:
    """What ran is gone: fetch what is wanted again."""
    lost, effects = lose(case)
    state, more = _fetch(lost)
    return state, (*effects, *more)


def redo(case: Case) -> Move:
    """Begin the work of this phase again; it is idempotent."""
    return _work(case.state, case.state.phase)


def redo_counted(case: Case) -> Move:
    """Begin the work of this risky phase again, and remember that it killed the process."""
    return _work(_counted(case), case.state.phase)


def redo_as_it_is(case: Case) -> Move:
    """Begin the work of this risky phase again, remember that it killed the process, and load nothing prepared this time."""
    return _work(replace(_counted(case), plain=True), case.state.phase)


def watch_again_counted(case: Case) -> Move:
    """A new window for the model on probation; remember that the process died."""
    return replace(_counted(case), checking=False, at=case.now), ()


def abandon(case: Case) -> Move:
    """Even the fallback kills the process: run nothing, and stay reachable."""
    state = replace(_rest(case.state), running=None, fallback=None, previous=None)
    return state, (Stop(), EmitEvent("alert", f"{_loop_reason(case)}; nothing runs now", case.state.target))


# Steps that several actions share


def _rest(state: ModelState) -> ModelState:
    """Idle, with what runs; the result of whatever is still under way is stale from now on."""
    return replace(
        state,
        target=None,
        candidate=None,
        passed_over=(),
        reasons=(),
        plain=False,
        restarts=0,
        retries=0,
        waiting=False,
        checking=False,
        work=state.work + 1,
    )


def _fetch(state: ModelState) -> Move:
    return _work(replace(state, target=state.wanted), "fetching")


def _work(state: ModelState, phase: Phase) -> Move:
    """Number and order the work that belongs to a phase."""
    state = replace(state, work=state.work + 1, waiting=False)
    return state, (_effect_of(state, phase),)


def _effect_of(state: ModelState, phase: Phase) -> Effect:
    target, candidate, work = state.target, state.candidate, state.work
    if phase == "rolling_back":
        return RollBack(work, state.fallback, state.previous, plain=state.plain)
    assert target is not None
    if phase == "fetching":
        return Fetch(work, target, state.passed_over)
    assert candidate is not None
    effects: dict[Phase, Effect] = {
        "verifying": Verify(work, target, candidate),
        "staged": Stage(work, candidate),
        "gating": RunGate(work, candidate, state.running, state.passed_over),
        "preparing": Prepare(work, candidate),
        "activating": Activate(work, candidate, state.running, plain=state.plain),
    }
    return effects[phase]


def _passed(case: Case, to: Phase) -> Move:
    state, effects = _work(case.state, to)
    return state, (*effects, EmitEvent("gate_passed", getattr(case.event, "detail", ""), case.target))


def _as_it_is(case: Case, reason: str) -> Move:
    state, effects = _work(replace(case.state, plain=True), "activating")
    return state, (*effects, EmitEvent("alert", f"{reason}; the model is loaded as it is", case.target))


def _switched(case: Case) -> ModelState:
    state = case.state
    return replace(
        state,
        running=case.candidate,
        previous=state.running,
        candidate=None,
        plain=False,
        at=case.now,
        retries=0,
        checking=False,
    )


def _roll_back(case: Case, reason: str | None) -> Move:
    """From probation to what ran before; with a `reason`, the target is refused from now on."""
    state = case.state if reason is None else with_refusal(case.state, reason)
    state = replace(state, fallback=state.previous, previous=None, plain=False, restarts=0, retries=0, checking=False)
    moved, effects = _work(state, "rolling_back")
    return moved, (*effects, EmitEvent("alert", reason, case.target)) if reason else effects


def _undo_activation(case: Case, reason: str) -> Move:
    state = with_refusal(case.state, reason)
    state = replace(state, fallback=state.running, candidate=None, plain=False, restarts=0, retries=0)
    moved, effects = _work(state, "rolling_back")
    return moved, (*effects, EmitEvent("alert", reason, case.target))


def _refuse(case: Case, reason: str, kind: str) -> Move:
    state = _rest(with_refusal(case.state, reason))
    news = EmitEvent("gate_refused" if kind == "gate_refused" else "alert", reason, case.target)
    return state, (news, DeleteUnused())


def _counted(case: Case) -> ModelState:
    return replace(case.state, restarts=case.state.restarts + crashed(case))


def _reason(case: Case) -> str:
    return str(getattr(case.event, "reason", "it failed"))


def _together(reasons: tuple[str, ...]) -> str:
    """`variant: reason` of every variant, with those that failed for the same reason named together."""
    variants: dict[str, list[str]] = {}
    for variant, _, reason in (each.partition(": ") for each in reasons):
        variants.setdefault(reason, []).append(variant)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in variants.items())


def _gate_reason(case: Case) -> str:
    return f"{case.candidate.variant}: {case.got(GateRefused).reason.rstrip('.')}"


def _loop_reason(case: Case) -> str:
    return f"the agent's process died {case.state.restarts + crashed(case)} times while {case.state.phase}"
