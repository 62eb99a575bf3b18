"""What the agent knows of one model: the value that the machine steps and the journal keeps. Pure.

`running` is what answers requests, `previous` what to go back to, `candidate` what is being brought up for `target`, and
`wanted` the operator's last word. Times are seconds of the monotonic clock; `Restarted` sets them anew.
"""

from __future__ import annotations

from typing import Final

import msgspec

from fleet_protocol.names import Name
from fleet_protocol.states import Assignment, Phase, Refusal, Running

REFUSALS_KEPT: Final = 8
"""As many as a report holds (fleet_protocol.states.ModelReport)."""

REASON_LENGTH: Final = 1000


class ModelState(msgspec.Struct, frozen=True, kw_only=True):
    """One model on this device."""

    model: Name
    phase: Phase = "idle"
    wanted: Assignment | None = None
    removed: bool = False
    """The operator said that this model shall not run here (`wanted` None alone only means: not heard yet)."""
    target: Assignment | None = None
    candidate: Running | None = None
    running: Running | None = None
    previous: Running | None = None
    fallback: Running | None = None
    """While rolling back: what shall answer again; None where nothing ran before."""
    refused: tuple[Refusal, ...] = ()
    passed_over: tuple[str, ...] = ()
    """Variants of `target` that the gate refused on this device."""
    reasons: tuple[str, ...] = ()
    """Why, in the order of `passed_over`."""
    plain: bool = False
    """Preparing failed, or the prepared form did: what this phase loads is loaded as it is."""
    restarts: int = 0
    """Times that the process died in a risky phase of this target: the loop breaker."""
    retries: int = 0
    waiting: bool = False
    """The work failed for now and is tried again at `at`."""
    checking: bool = False
    """The self-check that ends a probation without traffic is under way."""
    work: int = 0
    """Number of the latest work; the result of an older one is stale."""
    at: float = 0.0
    """When probation began, or when waiting ends."""


def is_refused(state: ModelState, assignment: Assignment) -> bool:
    """Whether this digest failed here, and the operator has not asked for another attempt since."""
    return any(each.manifest == assignment.manifest and each.attempt >= assignment.attempt for each in state.refused)


def needs_work(state: ModelState, running: Running | None) -> bool:
    """Whether, with `running` answering requests, the operator's wish asks for something else that may be tried."""
    wanted = state.wanted
    if wanted is None or state.removed:
        return False
    return (running is None or running.manifest != wanted.manifest) and not is_refused(state, wanted)


def to_load(state: ModelState) -> Running | None:
    """What shall answer requests when the process starts in this state."""
    return state.fallback if state.phase == "rolling_back" else state.running


def with_refusal(state: ModelState, reason: str) -> ModelState:
    """The target is not tried again; the newest refusals are kept."""
    if state.target is None:
        return state
    refusal = Refusal(
        version=state.target.version,
        manifest=state.target.manifest,
        attempt=state.target.attempt,
        phase=state.phase,
        reason=reason[:REASON_LENGTH],
    )
    others = tuple(each for each in state.refused if each.manifest != refusal.manifest)
    return msgspec.structs.replace(state, refused=(*others, refusal)[-REFUSALS_KEPT:])


def without_refusal(state: ModelState) -> ModelState:
    """What has proven itself at a later attempt is no longer refused."""
    running = state.running.manifest if state.running else None
    return msgspec.structs.replace(state, refused=tuple(each for each in state.refused if each.manifest != running))
