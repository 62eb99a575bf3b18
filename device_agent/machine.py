"""The life of one model on a device as one transition table, and `step`, which walks it. Pure: no IO, no clock, no chance.

`step(state, event, now) -> (state, effects)`. The caller saves the state, and then performs the effects: so whatever kills
the process, the journal names what was under way, and `Restarted` names its recovery. Rows are tried from top to bottom;
the first whose phase, event and guard fit is taken. A result of older work is stale and changes nothing; an event
without a row is `IllegalEvent`. `docs/agent-machine.md` is drawn from `TABLE`; guards stand in `guards.py`, actions in
`moves.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, get_args

import msgspec

from device_agent import guards, moves
from device_agent.errors import IllegalEvent
from device_agent.events import (
    Activated,
    Assigned,
    Effect,
    EmitEvent,
    Event,
    Failed,
    Fetched,
    GatePassed,
    GateRefused,
    Hung,
    Lost,
    Prepared,
    Report,
    Restarted,
    Result,
    RolledBack,
    SelfCheckPassed,
    Staged,
    Tick,
    Verified,
)
from device_agent.guards import DEFAULT_RULES, Case, Rules
from device_agent.model_state import ModelState
from fleet_protocol.states import Phase

SAME: Final = "same"
PHASES: Final[tuple[Phase, ...]] = get_args(Phase)
UNPROVEN: Final[tuple[Phase, ...]] = ("fetching", "verifying", "staged", "gating")
"""Not through the gate yet: what fails is held against the target."""
BEFORE_SWITCH: Final[tuple[Phase, ...]] = (*UNPROVEN, "preparing")
"""Nothing that runs has been touched yet: the work can be dropped at any moment."""
COMMITTED: Final[tuple[Phase, ...]] = tuple(phase for phase in PHASES if phase != "probation")
"""What runs is not on trial, whatever is worked on beside it."""


@dataclass(frozen=True, slots=True)
class Row:
    """In one of `phases`, when `event` happens and `guard` holds: do `action`, and be in phase `to`."""

    phases: tuple[Phase, ...]
    event: type[Event]
    guard: Callable[[Case], bool]
    to: Phase | Literal["same"]
    action: moves.Action


TABLE: Final[tuple[Row, ...]] = (
    # The operator's wish. What prepares follows it at once; a switch under way is finished first.
    Row(("idle",), Assigned, guards.removed, "idle", moves.stop),
    Row(("idle",), Assigned, guards.wants_work, "fetching", moves.begin),
    Row(("idle",), Assigned, guards.always, "idle", moves.note),
    Row(("fetching",), Assigned, guards.same_target_waiting, SAME, moves.follow_now),
    Row(BEFORE_SWITCH, Assigned, guards.same_target, SAME, moves.follow),
    Row(BEFORE_SWITCH, Assigned, guards.removed, "idle", moves.stop),
    Row(BEFORE_SWITCH, Assigned, guards.wants_work, "fetching", moves.begin_instead),
    Row(BEFORE_SWITCH, Assigned, guards.always, "idle", moves.drop),
    Row(("probation",), Assigned, guards.removed, "idle", moves.stop),
    Row(("probation",), Assigned, guards.wants_previous, "rolling_back", moves.go_back),
    Row(("activating", "probation", "rolling_back"), Assigned, guards.always, SAME, moves.note),
    # The good way.
    Row(("fetching",), Fetched, guards.always, "verifying", moves.verify),
    Row(("verifying",), Verified, guards.always, "staged", moves.stage),
    Row(("staged",), Staged, guards.always, "gating", moves.run_gate),
    Row(("gating",), GatePassed, guards.prepares, "preparing", moves.prepare),
    Row(("gating",), GatePassed, guards.always, "activating", moves.activate),
    Row(("preparing",), Prepared, guards.always, "activating", moves.activate_prepared),
    Row(("activating",), Activated, guards.removed, "idle", moves.stop),
    Row(("activating",), Activated, guards.wants_running, "rolling_back", moves.switch_and_go_back),
    Row(("activating",), Activated, guards.always, "probation", moves.switch),
    Row(("probation",), Tick, guards.too_many_errors, "rolling_back", moves.give_up_for_errors),
    Row(("probation",), Tick, guards.overdue, SAME, moves.nothing),
    Row(("probation",), Tick, guards.proven_and_wants_other, "fetching", moves.commit_and_begin),
    Row(("probation",), Tick, guards.proven, "idle", moves.commit),
    Row(("probation",), Tick, guards.window_over, SAME, moves.self_check),
    Row(("probation",), SelfCheckPassed, guards.wants_work, "fetching", moves.commit_and_begin),
    Row(("probation",), SelfCheckPassed, guards.always, "idle", moves.commit),
    # What fails. Before the switch nothing is lost; after it, the fallback comes back.
    Row(("gating",), GateRefused, guards.another_variant, "fetching", moves.next_variant),
    Row(("gating",), GateRefused, guards.always, "idle", moves.refuse_at_gate),
    Row(("preparing",), Failed, guards.always, "activating", moves.activate_as_it_is),
    Row(UNPROVEN, Failed, guards.lasting, "idle", moves.refuse),
    Row(UNPROVEN, Failed, guards.always, "fetching", moves.wait),
    Row(("activating",), Failed, guards.always, "rolling_back", moves.give_up_activation),
    Row(("probation",), Failed, guards.lasting, "rolling_back", moves.give_up),
    Row(("probation",), Failed, guards.always, SAME, moves.watch_again),
    Row(("rolling_back",), Failed, guards.always, SAME, moves.wait),
    Row(("rolling_back",), RolledBack, guards.removed, "idle", moves.stop),
    Row(("rolling_back",), RolledBack, guards.wants_work_after_rollback, "fetching", moves.settle_back_and_begin),
    Row(("rolling_back",), RolledBack, guards.always, "idle", moves.settle_back),
    # Time.
    Row(("fetching",), Tick, guards.retry_due, SAME, moves.redo),
    Row(("rolling_back",), Tick, guards.retry_due, SAME, moves.redo),
    Row(PHASES, Tick, guards.always, SAME, moves.nothing),
    # What ran cannot be loaded any more (a damaged disk).
    Row(("idle", *BEFORE_SWITCH), Lost, guards.has_previous, "rolling_back", moves.fall_back),
    Row(("idle",), Lost, guards.wants_work_after_loss, "fetching", moves.lose_and_begin),
    Row(("idle", *BEFORE_SWITCH, "activating"), Lost, guards.always, SAME, moves.lose),
    Row(("probation",), Lost, guards.always, "rolling_back", moves.give_up),
    Row(("rolling_back",), Lost, guards.always, SAME, moves.nothing),
    # What runs holds up whoever answers requests. The process ends then, and recovers as when it died.
    Row(("probation",), Hung, guards.always, "rolling_back", moves.give_up),
    Row(COMMITTED, Hung, guards.always, SAME, moves.complain),
    # The process died and began again: redo what was under way, but not for ever.
    Row(("idle",), Restarted, guards.wants_work, "fetching", moves.begin),
    Row(("idle",), Restarted, guards.always, "idle", moves.nothing),
    Row(("fetching", "verifying", "staged"), Restarted, guards.always, SAME, moves.redo),
    Row(("gating",), Restarted, guards.crash_loop, "idle", moves.refuse_crash_loop),
    Row(("activating",), Restarted, guards.crash_loop, "rolling_back", moves.give_up_activation_loop),
    Row(("probation",), Restarted, guards.crash_loop, "rolling_back", moves.give_up_crash_loop),
    Row(("rolling_back",), Restarted, guards.crash_loop, "idle", moves.abandon),
    Row(("gating",), Restarted, guards.always, SAME, moves.redo_counted),
    Row(("preparing",), Restarted, guards.died, "activating", moves.activate_after_death),
    Row(("preparing",), Restarted, guards.always, SAME, moves.redo),
    Row(("activating", "rolling_back"), Restarted, guards.died, SAME, moves.redo_as_it_is),
    Row(("activating", "rolling_back"), Restarted, guards.always, SAME, moves.redo),
    Row(("probation",), Restarted, guards.always, SAME, moves.watch_again_counted),
)


def step(state: ModelState, event: Event, now: float, rules: Rules = DEFAULT_RULES) -> tuple[ModelState, tuple[Effect, ...]]:
    """The next state, and what to do once it is saved. `now` is monotonic seconds. Raises `IllegalEvent`."""
    if isinstance(event, Result) and event.work != state.work:
        return state, ()
    noted = _with_wish(state, event)
    row = find_row(Case(noted, event, now, rules))
    moved, effects = row.action(Case(noted, event, now, rules))
    after = msgspec.structs.replace(moved, phase=noted.phase if row.to == SAME else row.to)
    return after, (*effects, *_news(state, after))


def find_row(case: Case) -> Row:
    """The first row that fits. Raises `IllegalEvent`."""
    for row in TABLE:
        if case.state.phase in row.phases and isinstance(case.event, row.event) and row.guard(case):
            return row
    raise IllegalEvent(f"{case.state.model}: {type(case.event).__name__} has no meaning in phase {case.state.phase}")


def _with_wish(state: ModelState, event: Event) -> ModelState:
    """A wish is remembered in every phase; the rows decide when it is acted on."""
    if not isinstance(event, Assigned):
        return state
    return msgspec.structs.replace(state, wanted=event.assignment, removed=event.assignment is None)


def _news(before: ModelState, after: ModelState) -> tuple[Effect, ...]:
    """Whatever a report shows is reported when it changes."""
    news: list[Effect] = []
    if before.phase != after.phase:
        news.append(EmitEvent("phase", f"{before.phase} → {after.phase}", after.target or before.target))
    if _reported(before) != _reported(after):
        news.append(Report())
    return tuple(news)


def _reported(state: ModelState) -> tuple[object, ...]:
    return state.phase, state.running, state.target, state.refused
