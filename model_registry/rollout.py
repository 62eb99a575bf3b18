"""The rollout planner, pure: a rollout and what devices reported in, the next assignments and the rollout's own next state out.

A rollout reaches its cohort in steps. It goes on only when every device that it has reached says that the release runs and is
committed; offline devices are waited for. Failures beyond `max_failures` end it, and every device it has reached goes back to
the release that it ran before. Nothing is remembered between calls except what `Rollout` holds, so a planner that was killed
decides the same again. No IO, clock or chance here.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Final, Literal

from fleet_protocol.names import check_name
from fleet_protocol.states import ModelReport, Refusal
from model_registry.errors import InvalidRequest

State = Literal["running", "succeeded", "failed", "aborted", "superseded"]
Verdict = Literal["waiting", "pending", "offline", "committed", "failed"]
"""A device in a rollout: not reached yet; reached and at work; reached and not connected; runs the release; refused it."""

EVERYONE: Final = "all"
STEPS: Final = 20
NAMED_DEVICES: Final = 1000


@dataclass(frozen=True, slots=True)
class Release:
    """A release as it is assigned. A higher `attempt` asks for one more try of a refused one."""

    version: str
    manifest: str
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class Rollout:
    """One release on its way to a cohort. `steps` are rising shares of the cohort, ending in 1; `step` is the current one.

    `reached` names the devices that were told, each with the release that it goes back to (None: none).
    """

    id: int
    model: str
    release: Release
    cohort: str
    steps: tuple[float, ...]
    max_failures: int
    step: int = 0
    state: State = "running"
    reason: str = ""
    reached: Mapping[str, Release | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DeviceView:
    """What is known of one device about one model: what it was told and what it last said.

    `sent_back`: the last rollout that reached it failed or was aborted, so `assigned` is what it ran before that.
    """

    name: str
    online: bool
    assigned: Release | None
    report: ModelReport | None
    sent_back: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """A decision: the rollout as it is now, and the devices whose assignment changes (None: the model is taken away)."""

    rollout: Rollout
    assign: Mapping[str, Release | None]


def check_steps(steps: Sequence[float]) -> tuple[float, ...]:
    """Return `steps`, or raise `InvalidRequest`."""
    rising = all(earlier < later for earlier, later in pairwise(steps))
    if not 1 <= len(steps) <= STEPS or not rising or not steps[0] > 0 or steps[-1] != 1.0:
        raise InvalidRequest(
            f"{list(steps)} are no steps of a rollout.",
            f"Give 1 to {STEPS} rising shares above 0, the last one 1, as 0.1,0.5,1.",
        )
    return tuple(steps)


def check_cohort(cohort: str) -> str:
    """Return `cohort` (`all`, or device names with commas), or raise `InvalidName` or `InvalidRequest`."""
    names = cohort.split(",")
    if len(names) > NAMED_DEVICES:
        raise InvalidRequest(f"The cohort names {len(names)} devices; at most {NAMED_DEVICES} may be named.")
    if EVERYONE in names and len(names) > 1:
        raise InvalidRequest(f"The cohort {cohort!r} names {EVERYONE!r} beside devices.", "Give one or the other.")
    for name in names:
        check_name(name, "device name or 'all'")
    return cohort


def includes(cohort: str, device: str) -> bool:
    """Whether a device belongs to a cohort."""
    return cohort == EVERYONE or device in cohort.split(",")


def overlap(one: str, other: str) -> bool:
    """Whether two cohorts may have a device in common."""
    return EVERYONE in (one, other) or not set(one.split(",")).isdisjoint(other.split(","))


def members(rollout: Rollout, devices: Iterable[DeviceView]) -> list[DeviceView]:
    """The devices of the rollout's cohort, those that it has reached first, then in the order in which it will reach them."""
    inside = [device for device in devices if includes(rollout.cohort, device.name) or device.name in rollout.reached]
    return sorted(inside, key=lambda device: (device.name not in rollout.reached, not device.online, _rank(rollout, device)))


def verdict(rollout: Rollout, device: DeviceView) -> Verdict:
    """How the rollout stands on one device. Committed is only what the device says that it runs.

    Failed is only what the device refused: it also rolls back because an operator wants the former release again, which may be
    this one.
    """
    if device.name not in rollout.reached:
        return "waiting"
    report = device.report
    if report is not None:
        if report.phase == "idle" and report.running is not None and report.running.manifest == rollout.release.manifest:
            return "committed"
        if refusal(rollout, device) is not None:
            return "failed"
    return "pending" if device.online else "offline"


def refusal(rollout: Rollout, device: DeviceView) -> Refusal | None:
    """The device's refusal of this very attempt, or None."""
    if device.report is None:
        return None
    attempt = rollout.release.attempt
    if device.assigned is not None and device.assigned.manifest == rollout.release.manifest:
        attempt = device.assigned.attempt
    return next(
        (each for each in device.report.refused if each.manifest == rollout.release.manifest and each.attempt >= attempt), None
    )


def plan(rollout: Rollout, devices: Sequence[DeviceView]) -> Plan:
    """What follows from what the devices reported. A rollout that has ended stays as it is."""
    if rollout.state != "running":
        return Plan(rollout, {})
    inside = members(rollout, devices)
    while True:
        failures = [device for device in inside if verdict(rollout, device) == "failed"]
        if len(failures) > rollout.max_failures or (inside and len(failures) == len(inside)):
            return go_back(rollout, inside, "failed", _blame(rollout, failures))
        following = _next(rollout, inside)
        if following == rollout:
            return Plan(rollout, _pending_assignments(rollout, inside))
        rollout = following


def go_back(rollout: Rollout, devices: Iterable[DeviceView], state: State, reason: str) -> Plan:
    """End the rollout: every device that it has reached is told to run again what it ran before."""
    back = {
        device.name: rollout.reached[device.name]
        for device in devices
        if device.name in rollout.reached and device.assigned != rollout.reached[device.name]
    }
    return Plan(replace(rollout, state=state, reason=reason), back)


def baseline(ended: Iterable[Rollout], device: str) -> Rollout | None:
    """The rollout whose release a device without an assignment should run: the newest that succeeded for its cohort."""
    fitting = [each for each in ended if each.state == "succeeded" and includes(each.cohort, device)]
    return max(fitting, key=lambda each: each.id, default=None)


def quota(share: float, count: int) -> int:
    """How many of `count` devices a share is: at least one, where there is one."""
    return min(count, max(1, math.ceil(share * count - 1e-9)))


def _next(rollout: Rollout, inside: Sequence[DeviceView]) -> Rollout:
    """One move on: reach more devices, go to the next step, or succeed. The same rollout when there is nothing to do."""
    wanted = quota(rollout.steps[rollout.step], len(inside))
    if len(rollout.reached) < wanted:
        return replace(rollout, reached={**rollout.reached, **_reach(rollout, inside, wanted)})
    verdicts = [verdict(rollout, device) for device in inside if device.name in rollout.reached]
    if not verdicts or any(each not in ("committed", "failed") for each in verdicts):
        return rollout
    if rollout.step + 1 < len(rollout.steps):
        return replace(rollout, step=rollout.step + 1)
    return replace(rollout, state="succeeded", reason=f"{verdicts.count('committed')} of {len(inside)} devices run it")


def _reach(rollout: Rollout, inside: Sequence[DeviceView], wanted: int) -> dict[str, Release | None]:
    waiting = [device for device in inside if device.name not in rollout.reached]
    return {device.name: _runs_now(device) for device in waiting[: wanted - len(rollout.reached)]}


def _runs_now(device: DeviceView) -> Release | None:
    """What to go back to: what the device says that it runs; before it has said anything, what it was told.

    A device that was sent back, and was offline since, still says that it runs what was taken away from it.
    """
    running = device.report.running if device.report is not None else None
    if running is None or device.sent_back or (device.assigned is not None and device.assigned.manifest == running.manifest):
        return device.assigned
    return Release(running.version, running.manifest)


def _pending_assignments(rollout: Rollout, inside: Sequence[DeviceView]) -> dict[str, Release | None]:
    return {device.name: rollout.release for device in inside if device.name in rollout.reached and not _told(rollout, device)}


def _told(rollout: Rollout, device: DeviceView) -> bool:
    assigned = device.assigned
    return (
        assigned is not None and assigned.manifest == rollout.release.manifest and assigned.attempt >= rollout.release.attempt
    )


def _blame(rollout: Rollout, failures: Sequence[DeviceView]) -> str:
    first = failures[0]
    refused = refusal(rollout, first)
    assert refused is not None, "whoever failed has refused"
    return f"{len(failures)} failed, {rollout.max_failures} allowed; {first.name} in phase {refused.phase}: {refused.reason}"


def _rank(rollout: Rollout, device: DeviceView) -> bytes:
    """An order that differs from rollout to rollout, so that not always the same devices go first."""
    return hashlib.sha256(f"{rollout.id}/{device.name}".encode()).digest()
