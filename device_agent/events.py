"""What happens to one model (events) and what shall be done about it (effects): frozen values, nothing else.

An event with a `work` number is the result of an effect with the same number. The machine (`machine.py`) turns events into
effects; `perform.py` and `agent.py` carry them out.
"""

from __future__ import annotations

from dataclasses import dataclass

from fleet_protocol.states import Assignment, EventKind, Running


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened."""


@dataclass(frozen=True, slots=True)
class Assigned(Event):
    """The operator's wish for this model; None: it shall not run here."""

    assignment: Assignment | None


@dataclass(frozen=True, slots=True)
class Restarted(Event):
    """The process began, and this state was read from the journal. `crashed`: it had not been stopped cleanly."""

    crashed: bool = True


@dataclass(frozen=True, slots=True)
class Tick(Event):
    """Time has passed. Inferences answered well, and failed, by what runs since it was activated, and what it is at now.

    `hung` inferences take longer than any should. `overdue`: one takes far longer than usual, and may come to hang.
    """

    healthy: int = 0
    errors: int = 0
    hung: int = 0
    overdue: bool = False


@dataclass(frozen=True, slots=True)
class Hung(Event):
    """An inference holds up whoever answers requests here; nothing but the end of the process can stop it."""

    reason: str


@dataclass(frozen=True, slots=True)
class Lost(Event):
    """What ran can no longer be loaded."""

    reason: str


@dataclass(frozen=True, slots=True)
class Result(Event):
    """The end of one piece of work."""

    work: int


@dataclass(frozen=True, slots=True)
class Fetched(Result):
    """Every file of one variant of the target is on the disk."""

    candidate: Running


@dataclass(frozen=True, slots=True)
class Verified(Result):
    """Signatures and digests fit."""


@dataclass(frozen=True, slots=True)
class Staged(Result):
    """The staged slot names the candidate, durably."""


@dataclass(frozen=True, slots=True)
class GatePassed(Result):
    """The candidate did on this device what its publisher promised."""

    detail: str = ""


@dataclass(frozen=True, slots=True)
class GateRefused(Result):
    """It did not. `another`: the release has a further variant that this device can run."""

    reason: str
    another: bool = False


@dataclass(frozen=True, slots=True)
class Prepared(Result):
    """The candidate is ready to be run in the best way that was found. `detail` says which, for people."""

    detail: str = ""


@dataclass(frozen=True, slots=True)
class Activated(Result):
    """The candidate answers requests. `fault`: why its prepared form could not be used; empty where all went well."""

    fault: str = ""


@dataclass(frozen=True, slots=True)
class RolledBack(Result):
    """The fallback answers requests (or nothing does, where there was none)."""


@dataclass(frozen=True, slots=True)
class SelfCheckPassed(Result):
    """The running model still answers its golden inputs as it should."""


@dataclass(frozen=True, slots=True)
class Failed(Result):
    """The work did not succeed. `lasting`: it never will. `jitter` in [0, 1) spreads the retries of a fleet."""

    reason: str
    lasting: bool = False
    jitter: float = 0.5


@dataclass(frozen=True, slots=True)
class Effect:
    """Something to do, after the state that asked for it was saved."""


@dataclass(frozen=True, slots=True)
class Work(Effect):
    """Slow: done on the worker thread, answered with a `Result` of the same number."""

    work: int


@dataclass(frozen=True, slots=True)
class Fetch(Work):
    """Have every file of the best variant of `target` that is not in `passed_over`."""

    target: Assignment
    passed_over: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verify(Work):
    """Check signatures and the digest of every file once more, now that all is there."""

    target: Assignment
    candidate: Running


@dataclass(frozen=True, slots=True)
class Stage(Work):
    """Write the staged slot."""

    candidate: Running


@dataclass(frozen=True, slots=True)
class RunGate(Work):
    """Try the candidate on its golden inputs in a process of its own, beside what runs now."""

    candidate: Running
    baseline: Running | None
    passed_over: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Prepare(Work):
    """Find the best way to run the candidate here, and make its prepared form; nothing that answers depends on it."""

    candidate: Running


@dataclass(frozen=True, slots=True)
class Activate(Work):
    """Let the candidate answer; remember `previous`. `plain`: load it as it is, and forget how it was prepared."""

    candidate: Running
    previous: Running | None
    plain: bool = False


@dataclass(frozen=True, slots=True)
class RollBack(Work):
    """Let `fallback` answer again; None: nothing does. `previous` is what the previous slot shall name then.

    `plain` as in `Activate`.
    """

    fallback: Running | None
    previous: Running | None
    plain: bool = False


@dataclass(frozen=True, slots=True)
class SelfCheck(Work):
    """Ask the running model its golden inputs."""

    running: Running


@dataclass(frozen=True, slots=True)
class Cancel(Effect):
    """Nobody waits for the work up to this number any more."""

    work: int


@dataclass(frozen=True, slots=True)
class Stop(Effect):
    """Take the model out of service: the operator removed it, or nothing is left that could run."""


@dataclass(frozen=True, slots=True)
class EmitEvent(Effect):
    """Tell the fleet what happened."""

    kind: EventKind
    detail: str = ""
    assignment: Assignment | None = None


@dataclass(frozen=True, slots=True)
class Report(Effect):
    """Publish the reported state."""


@dataclass(frozen=True, slots=True)
class DeleteUnused(Effect):
    """Remove files that no slot and no target names."""
