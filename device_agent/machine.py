"""The life of one model on a device as one transition table, and `step`, which walks it. Pure: no IO, no clock, no chance.

`step(state, event, now) -> (state, effects)`. The caller saves the state, and then performs the effects: so whatever kills
the process, the journal names what was under way, and `Restarted` names its recovery. Rows are tried from top to bottom;
the first whose phase, event and guard fit is taken. A result of older work is stale and changes nothing; an event
without a row is `IllegalEvent`. `docs/agent-machine.md` is drawn from `TABLE`. Guards and actions stand in `moves.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, get_args

import msgspec

from device_agent import moves
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
    Lost,
    Report,
    Restarted,
    Result,
    RolledBack,
    SelfCheckPassed,
    Staged,
    Tick,
    Verified,
)
from device_agent.model_state import ModelState
from device_agent.moves import Case, Rules
from fleet_protocol.states import Phase

SAME: Final = "same"
PHASES: Final[tuple[Phase, ...]] = get_args(Phase)
PREPARING: Final[tuple[Phase, ...]] = ("fetching", "verifying", "staged", "gating")
"""Nothing that runs has been touched yet: the work can be dropped at any moment."""


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
    Row(("idle",), Assigned, moves.removed, "idle", moves.stop),
    Row(("idle",), Assigned, moves.wants_work, "fetching", moves.begin),
    Row(("idle",), Assigned, moves.always, "idle", moves.note),
    Row(("fetching",), Assigned, moves.same_target_waiting, SAME, moves.follow_now),
    Row(PREPARING, Assigned, moves.same_target, SAME, moves.follow),
    Row(PREPARING, Assigned, moves.removed, "idle", moves.stop),
    Row(PREPARING, Assigned, moves.wants_work, "fetching", moves.begin_instead),
    Row(PREPARING, Assigned, moves.always, "idle", moves.drop),
    Row(("probation",), Assigned, moves.removed, "idle", moves.stop),
    Row(("probation",), Assigned, moves.wants_previous, "rolling_back", moves.go_back),
    Row(("activating", "probation", "rolling_back"), Assigned, moves.always, SAME, moves.note),
    # The good way.
    Row(("fetching",), Fetched, moves.always, "verifying", moves.verify),
    Row(("verifying",), Verified, moves.always, "staged", moves.stage),
    Row(("staged",), Staged, moves.always, "gating", moves.run_gate),
    Row(("gating",), GatePassed, moves.always, "activating", moves.activate),
    Row(("activating",), Activated, moves.removed, "idle", moves.stop),
    Row(("activating",), Activated, moves.wants_running, "rolling_back", moves.switch_and_go_back),
    Row(("activating",), Activated, moves.always, "probation", moves.switch),
    Row(("probation",), Tick, moves.too_many_errors, "rolling_back", moves.give_up_for_errors),
    Row(("probation",), Tick, moves.proven_and_wants_other, "fetching", moves.commit_and_begin),
    Row(("probation",), Tick, moves.proven, "idle", moves.commit),
    Row(("probation",), Tick, moves.window_over, SAME, moves.self_check),
    Row(("probation",), SelfCheckPassed, moves.wants_work, "fetching", moves.commit_and_begin),
    Row(("probation",), SelfCheckPassed, moves.always, "idle", moves.commit),
    # What fails. Before the switch nothing is lost; after it, the fallback comes back.
    Row(("gating",), GateRefused, moves.another_variant, "fetching", moves.next_variant),
    Row(("gating",), GateRefused, moves.always, "idle", moves.refuse_at_gate),
    Row(PREPARING, Failed, moves.lasting, "idle", moves.refuse),
    Row(PREPARING, Failed, moves.always, "fetching", moves.wait),
    Row(("activating",), Failed, moves.always, "rolling_back", moves.give_up_activation),
    Row(("probation",), Failed, moves.lasting, "rolling_back", moves.give_up),
    Row(("probation",), Failed, moves.always, SAME, moves.watch_again),
    Row(("rolling_back",), Failed, moves.always, SAME, moves.wait),
    Row(("rolling_back",), RolledBack, moves.removed, "idle", moves.stop),
    Row(("rolling_back",), RolledBack, moves.wants_work_after_rollback, "fetching", moves.settle_back_and_begin),
    Row(("rolling_back",), RolledBack, moves.always, "idle", moves.settle_back),
    # Time.
    Row(("fetching",), Tick, moves.retry_due, SAME, moves.redo),
    Row(("rolling_back",), Tick, moves.retry_due, SAME, moves.redo),
    Row(PHASES, Tick, moves.always, SAME, moves.nothing),
    # What ran cannot be loaded any more (a damaged disk).
    Row(("idle", *PREPARING), Lost, moves.has_previous, "rolling_back", moves.fall_back),
    Row(("idle",), Lost, moves.wants_work_after_loss, "fetching", moves.lose_and_begin),
    Row(("idle", *PREPARING, "activating"), Lost, moves.always, SAME, moves.lose),
    Row(("probation",), Lost, moves.always, "rolling_back", moves.give_up),
    Row(("rolling_back",), Lost, moves.always, SAME, moves.nothing),
    # The process died and began again: redo what was under way, but not for ever.
    Row(("idle",), Restarted, moves.wants_work, "fetching", moves.begin),
    Row(("idle",), Restarted, moves.always, "idle", moves.nothing),
    Row(("fetching", "verifying", "staged"), Restarted, moves.always, SAME, moves.redo),
    Row(("gating",), Restarted, moves.crash_loop, "idle", moves.refuse_crash_loop),
    Row(("activating",), Restarted, moves.crash_loop, "rolling_back", moves.give_up_activation_loop),
    Row(("probation",), Restarted, moves.crash_loop, "rolling_back", moves.give_up_crash_loop),
    Row(("rolling_back",), Restarted, moves.crash_loop, "idle", moves.abandon),
    Row(("gating", "activating", "rolling_back"), Restarted, moves.always, SAME, moves.redo_counted),
    Row(("probation",), Restarted, moves.always, SAME, moves.watch_again_counted),
)


def step(
    state: ModelState, event: Event, now: float, rules: Rules = moves.DEFAULT_RULES
) -> tuple[ModelState, tuple[Effect, ...]]:
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
