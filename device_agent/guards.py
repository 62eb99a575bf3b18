"""The guards that the machine's table names, and the `Case` that guards and actions look at. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeVar

from device_agent.events import Event, Failed, GateRefused, Tick
from device_agent.model_state import ModelState, needs_work
from fleet_protocol.states import Assignment, Running

E = TypeVar("E", bound=Event)


@dataclass(frozen=True, slots=True)
class Rules:
    """The machine's numbers. Seconds unless the name says otherwise."""

    probation_s: float = 30.0
    probation_inferences: int = 20
    """Inferences answered well that prove a model before the window ends."""
    errors_allowed: int = 0
    """Failed inferences during probation that are still borne."""
    restarts_allowed: int = 3
    """Crashes in the risky phases of one target; one more, and it is refused."""
    first_retry_s: float = 2.0
    longest_retry_s: float = 300.0
    prepares: bool = False
    """Whether a candidate that passed the gate is prepared and tuned before it is activated."""


DEFAULT_RULES: Final = Rules()


@dataclass(frozen=True, slots=True)
class Case:
    """What a guard or an action looks at."""

    state: ModelState
    event: Event
    now: float
    rules: Rules

    def got(self, kind: type[E]) -> E:
        """The event, as the kind that the row has matched."""
        assert isinstance(self.event, kind)
        return self.event

    @property
    def target(self) -> Assignment:
        """The target, which every phase but idle has."""
        assert self.state.target is not None
        return self.state.target

    @property
    def candidate(self) -> Running:
        """The candidate, which every phase from verifying to activating has."""
        assert self.state.candidate is not None
        return self.state.candidate


def always(_case: Case) -> bool:
    """Otherwise."""
    return True


def removed(case: Case) -> bool:
    """The operator took the model off this device."""
    return case.state.removed


def wants_work(case: Case) -> bool:
    """Something else is wanted than what runs, and it was not refused here."""
    return needs_work(case.state, case.state.running)


def wants_work_after_rollback(case: Case) -> bool:
    """Something else is wanted than the fallback, and it was not refused here."""
    return needs_work(case.state, case.state.fallback)


def wants_work_after_loss(case: Case) -> bool:
    """Something is wanted now that nothing runs, and it was not refused here."""
    return needs_work(case.state, None)


def same_target(case: Case) -> bool:
    """What is wanted is what is being worked on."""
    wanted = case.state.wanted
    return wanted is not None and wanted.manifest == case.target.manifest


def same_target_waiting(case: Case) -> bool:
    """What is wanted is what is being worked on, and the work waits for its next try."""
    return case.state.waiting and same_target(case)


def wants_previous(case: Case) -> bool:
    """The operator went back to what ran before."""
    wanted, previous = case.state.wanted, case.state.previous
    return wanted is not None and previous is not None and wanted.manifest == previous.manifest


def wants_running(case: Case) -> bool:
    """The operator went back to what runs."""
    wanted, running = case.state.wanted, case.state.running
    return wanted is not None and running is not None and wanted.manifest == running.manifest


def has_previous(case: Case) -> bool:
    """The previous slot names something that was not refused here since."""
    previous = case.state.previous
    return previous is not None and all(each.manifest != previous.manifest for each in case.state.refused)


def another_variant(case: Case) -> bool:
    """The release has a further variant that this device can run."""
    return case.got(GateRefused).another


def prepares(case: Case) -> bool:
    """This agent prepares models."""
    return case.rules.prepares


def died(case: Case) -> bool:
    """The process died; it was not stopped."""
    return bool(crashed(case))


def lasting(case: Case) -> bool:
    """Trying again cannot help."""
    return case.got(Failed).lasting


def too_many_errors(case: Case) -> bool:
    """More inferences failed, or hang, than probation bears."""
    tick = case.got(Tick)
    return tick.errors + tick.hung > case.rules.errors_allowed


def overdue(case: Case) -> bool:
    """An inference takes so long that it may hang."""
    return case.got(Tick).overdue


def proven(case: Case) -> bool:
    """Enough inferences were answered well."""
    return case.got(Tick).healthy >= case.rules.probation_inferences


def proven_and_wants_other(case: Case) -> bool:
    """Proven, and something else is wanted by now."""
    return proven(case) and wants_work(case)


def window_over(case: Case) -> bool:
    """Probation's time is over without enough traffic, and no self-check runs yet."""
    return not case.state.checking and case.now >= case.state.at + case.rules.probation_s


def retry_due(case: Case) -> bool:
    """The wait is over."""
    return case.state.waiting and case.now >= case.state.at


def crash_loop(case: Case) -> bool:
    """The process has died too often in the risky phases of this target."""
    return case.state.restarts + crashed(case) > case.rules.restarts_allowed


def crashed(case: Case) -> int:
    """1 when the process died, 0 when it was stopped."""
    return int(getattr(case.event, "crashed", False))
