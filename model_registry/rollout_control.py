"""RolloutControl as the operator sees them: start one, watch it, abort it, let a device try again.

Here stand the questions to the database; what follows from the answers is decided in `rollout`. Whoever changes something calls
`wake`, so that the coordinator, which alone speaks to devices, looks at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

from fleet_io.clock import Clock
from fleet_protocol.names import check_version
from fleet_protocol.states import ModelReport, ReportedState
from model_registry import rollout as planner
from model_registry.catalogue import Catalogue, Records, RolloutRecord
from model_registry.errors import InvalidRequest, NotFound, RolloutRefused
from model_registry.rollout import DeviceView, Release, Rollout
from model_registry.trust import check_model_name


@dataclass(frozen=True, slots=True)
class RolloutRequest:
    """What an operator asks for; see `rollout.Rollout`."""

    model: str
    version: str
    cohort: str = planner.EVERYONE
    steps: tuple[float, ...] = (1.0,)
    max_failures: int = 0


class RolloutControl:
    """Starts, lists and ends rollouts."""

    def __init__(self, catalogue: Catalogue, clock: Clock, wake: Callable[[], None]) -> None:
        self._catalogue = catalogue
        self._clock = clock
        self._wake = wake

    def start(self, request: RolloutRequest, *, actor: str) -> dict[str, object]:
        """Begin; a running rollout of the same model to some of the same devices is superseded.

        The answer names those under `superseded`. Raises `NotFound`, `InvalidName` or `InvalidRequest`.
        """
        check_model_name(request.model), check_version(request.version)
        steps, cohort = planner.check_steps(request.steps), planner.check_cohort(request.cohort)
        if request.max_failures < 0:
            raise InvalidRequest(f"max_failures is {request.max_failures}; it counts devices, from 0.")
        now = self._clock.now()
        with self._catalogue.changing() as records:
            manifest = _published(records, request.model, request.version)
            devices = views(records, request.model)
            _check_enrolled(cohort, devices)
            superseded = _supersede(records, request, now)
            last = records.last_attempt(manifest)
            release = Release(request.version, manifest, 0 if last is None else last + 1)
            begun = records.add_rollout(Rollout(0, request.model, release, cohort, steps, request.max_failures), now)
            records.note(now, actor, "start_rollout", f"{request.model} {request.version}", f"rollout {begun.id}")
        self._wake()
        return {**describe(RolloutRecord(begun, now, now), devices), "superseded": superseded}

    def abort(self, number: int, *, actor: str) -> dict[str, object]:
        """End a running rollout and take its devices back. Raises `NotFound` or `RolloutRefused`."""
        now = self._clock.now()
        with self._catalogue.changing() as records:
            record = _existing(records, number)
            if record.rollout.state != "running":
                raise RolloutRefused(f"Rollout {number} has ended: it is {record.rollout.state}.", "There is nothing to abort.")
            decided = planner.go_back(record.rollout, views(records, record.rollout.model), "aborted", f"aborted by {actor}")
            keep(records, decided, now)
            records.note(now, actor, "abort_rollout", f"rollout {number}")
            described = describe(RolloutRecord(decided.rollout, record.created, now), views(records, record.rollout.model))
        self._wake()
        return described

    def retry(self, device: str, *, actor: str) -> list[str]:
        """Let a device try the releases once more that it refused; gives their models. Raises `NotFound`."""
        with self._catalogue.changing() as records:
            known = records.fleet.device(device)
            if known is None:
                raise NotFound(f"There is no device {device!r}.", "See `edgeward devices`.")
            told = records.fleet.assignments(device)
            refused = {
                model: (replace(release, attempt=release.attempt + 1), rollout)
                for model, (release, rollout) in told.items()
                if _refuses(known.reported, model, release)
            }
            for model, (release, rollout) in refused.items():
                records.fleet.assign(model, {device: release}, rollout)
                records.note(self._clock.now(), actor, "retry", device, f"{model} {release.version} attempt {release.attempt}")
        self._wake()
        return sorted(refused)

    def list(self) -> Sequence[dict[str, object]]:
        """All rollouts, newest first, without their devices."""
        with self._catalogue.reading() as records:
            found = records.rollouts()
            devices = {model: views(records, model) for model in {record.rollout.model for record in found}}
        described = [describe(record, devices[record.rollout.model]) for record in reversed(found)]
        return [{key: value for key, value in each.items() if key != "devices"} for each in described]

    def show(self, number: int) -> dict[str, object]:
        """One rollout with its devices. Raises `NotFound`."""
        with self._catalogue.reading() as records:
            record = _existing(records, number)
            return describe(record, views(records, record.rollout.model))


def views(records: Records, model: str) -> list[DeviceView]:
    """All devices as the planner sees them."""
    told, sent_back = records.fleet.assigned(model), records.sent_back(model)
    return [
        DeviceView(
            device.name, device.online, told.get(device.name), report_of(device.reported, model), device.name in sent_back
        )
        for device in records.fleet.devices()
    ]


def report_of(reported: ReportedState | None, model: str) -> ModelReport | None:
    """What a device says about one model."""
    if reported is None:
        return None
    return next((each for each in reported.models if each.model == model), None)


def keep(records: Records, decided: planner.Plan, now: float) -> None:
    """Write a decision down; the coordinator tells the devices."""
    records.keep_rollout(decided.rollout, now)
    records.fleet.assign(decided.rollout.model, decided.assign, decided.rollout.id)


def describe(record: RolloutRecord, devices: Sequence[DeviceView]) -> dict[str, object]:
    """A rollout for people and JSON."""
    rollout = record.rollout
    inside = planner.members(rollout, devices)
    verdicts = {device.name: planner.verdict(rollout, device) for device in inside}
    counts = Counter(verdicts.values())
    return {
        "id": rollout.id,
        "model": rollout.model,
        **asdict(rollout.release),
        "cohort": rollout.cohort,
        "steps": list(rollout.steps),
        "step": rollout.step,
        "max_failures": rollout.max_failures,
        "state": rollout.state,
        "detail": rollout.reason,
        "created": record.created,
        "updated": record.updated,
        "counts": {
            "members": len(inside),
            "assigned": sum(device.name in rollout.reached for device in inside),
            **{each: counts[each] for each in ("committed", "failed", "pending", "offline", "waiting")},
        },
        "devices": [_describe_device(rollout, device, verdicts[device.name]) for device in inside],
    }


def _describe_device(rollout: Rollout, device: DeviceView, verdict: planner.Verdict) -> dict[str, object]:
    report = device.report
    running = None if report is None else report.running
    return {
        "device": device.name,
        "state": verdict,
        "outcome": verdict if verdict in ("committed", "failed") else "pending",
        "phase": "unknown" if report is None else report.phase,
        "progress": 0.0 if report is None else report.progress,
        "running": None if running is None else running.version,
        "detail": _detail(rollout, device),
    }


def _detail(rollout: Rollout, device: DeviceView) -> str:
    refused = planner.refusal(rollout, device)
    return "" if refused is None else f"{refused.phase}: {refused.reason}"


def _check_enrolled(cohort: str, devices: Sequence[DeviceView]) -> None:
    """A name that is spelt wrong must not end the rollout that runs. Raises `NotFound`."""
    if cohort != planner.EVERYONE and not any(planner.includes(cohort, device.name) for device in devices):
        raise NotFound(f"No device of the cohort {cohort} is enrolled.", "Is it spelt right? See `edgeward devices`.")


def _supersede(records: Records, request: RolloutRequest, now: float) -> list[int]:
    """End the running rollouts that the new one overlaps; gives their numbers."""
    ended = []
    for earlier in records.rollouts(state="running", model=request.model):
        if planner.overlap(earlier.rollout.cohort, request.cohort):
            records.keep_rollout(replace(earlier.rollout, state="superseded", reason=f"{request.version} was started"), now)
            ended.append(earlier.rollout.id)
    return ended


def _published(records: Records, model: str, version: str) -> str:
    release = records.release(model, version)
    if release is not None:
        return release.manifest
    versions = [each.version for each in records.releases(model)]
    if not versions:
        raise NotFound(f"There is no model {model!r}.", "Publish it first: `edgeward publish BUNDLE`.")
    raise NotFound(
        f"{model} has no version {version}; published: {', '.join(versions)}.", "Choose one of these, or publish it."
    )


def _existing(records: Records, number: int) -> RolloutRecord:
    record = records.rollout(number)
    if record is None:
        raise NotFound(f"There is no rollout {number}.", "See `edgeward rollout list`.")
    return record


def _refuses(reported: ReportedState | None, model: str, release: Release) -> bool:
    report = report_of(reported, model)
    return report is not None and any(
        each.manifest == release.manifest and each.attempt >= release.attempt for each in report.refused
    )
