"""What registry and telemetry know, joined for people: what each device runs, what it should run, and how it does. Pure.

The registry knows what is wanted and what devices say they run, telemetry what they did. Success is never taken from either's
word alone: a device is shown as committed only when the digest that it runs is the digest that it should run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from fleet_protocol.names import version_key

Json = Mapping[str, Any]


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """A release that failed on a device and is not tried again by itself."""

    version: str
    manifest: str
    attempt: int
    phase: str
    reason: str


class ModelOnDevice(msgspec.Struct, frozen=True, kw_only=True):
    """One model on one device. `running` and `wanted` are versions, None for nothing; times are seconds.

    `state` is `committed`, `refused`, `waiting` (it has not begun), `unassigned` (it runs what nobody asked for), `unknown` (it
    has never said anything), or the phase that it is in. The counts are those of what runs now, as far as they were reported.
    """

    model: str
    state: str
    running: str | None
    running_manifest: str | None
    variant: str | None
    wanted: str | None
    wanted_manifest: str | None
    phase: str
    progress: float
    refused: tuple[Refused, ...]
    inferences: int
    failed: int
    errors: dict[str, int]
    p50_s: float | None
    p99_s: float | None


class DeviceView(msgspec.Struct, frozen=True, kw_only=True):
    """One device. `seen` and `certificate_expires` are epoch seconds."""

    device: str
    online: bool
    seen: float | None
    serving: str
    agent: str
    hardware: dict[str, str]
    certificate_expires: float | None
    models: tuple[ModelOnDevice, ...]


class ReleaseView(msgspec.Struct, frozen=True, kw_only=True):
    """A published release and how it does in the fleet. `running` and `wanted` count devices, `published` is epoch seconds."""

    model: str
    version: str
    manifest: str
    published: float
    size: int
    variants: tuple[dict[str, Any], ...]
    running: int
    wanted: int
    refused: int
    inferences: int
    failed: int
    error_share: float
    p50_s: float | None
    p99_s: float | None
    predictions: dict[str, int]


class DeviceCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Devices by where they stand. Each is in one of `committed`, `changing`, `refused`, `idle`; any may be offline."""

    total: int
    online: int
    committed: int
    changing: int
    refused: int
    idle: int


NOTHING: Final[Json] = {"inferences": 0, "failed": 0, "errors": {}, "latency": {}, "error_share": 0.0, "predictions": {}}
AT_REST: Final = ("committed", "refused", "unassigned", "unknown")


def device_views(devices: Iterable[Json], usage: Mapping[str, Iterable[Json]]) -> list[DeviceView]:
    """Join the registry's devices with telemetry's usage of each, by device name."""
    return [_device(device, list(usage.get(device["name"], ()))) for device in devices]


def release_views(models: Iterable[Json], usage: Iterable[Json], devices: Iterable[DeviceView]) -> list[ReleaseView]:
    """Join the registry's models with telemetry's releases; newest version of each model first."""
    did = {(model["model"], release["manifest"]): release for model in usage for release in model["releases"]}
    on_devices = [model for device in devices for model in device.models]
    return [
        _release(model["name"], version, did.get((model["name"], version["manifest"]), NOTHING), on_devices)
        for model in models
        for version in sorted(model["versions"], key=lambda each: version_key(each["version"]), reverse=True)
    ]


def count_devices(devices: Iterable[DeviceView]) -> DeviceCounts:
    """Where the fleet stands. A device is committed when all its models are, and refused when one is."""
    kept = list(devices)
    places = [_place(device) for device in kept]
    return DeviceCounts(
        total=len(kept),
        online=sum(device.online for device in kept),
        committed=places.count("committed"),
        changing=places.count("changing"),
        refused=places.count("refused"),
        idle=places.count("idle"),
    )


def plain(text: str) -> str:
    """Text that a device wrote, without characters that could steer a terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


def _place(device: DeviceView) -> str:
    states = {model.state for model in device.models}
    if "refused" in states:
        return "refused"
    if states - set(AT_REST):
        return "changing"
    return "committed" if "committed" in states else "idle"


def _device(device: Json, usage: list[Json]) -> DeviceView:
    return DeviceView(
        device=device["name"],
        online=device["online"],
        seen=device["seen"],
        serving=device["serving"],
        agent=device["agent"],
        hardware=device["hardware"],
        certificate_expires=device["certificate_expires"],
        models=tuple(_model(model, usage) for model in device["models"]),
    )


def _model(model: Json, usage: list[Json]) -> ModelOnDevice:
    running, wanted = model["running"] or {}, model["desired"] or {}
    did = next((each for each in usage if running and _is_of(each, model["model"], running)), NOTHING)
    return ModelOnDevice(
        model=model["model"],
        state=_state(model),
        running=running.get("version"),
        running_manifest=running.get("manifest"),
        variant=running.get("variant"),
        wanted=wanted.get("version"),
        wanted_manifest=wanted.get("manifest"),
        phase=model["phase"],
        progress=model["progress"],
        refused=tuple(msgspec.convert(each, Refused) for each in model["refused"]),
        inferences=did["inferences"],
        failed=did["failed"],
        errors=dict(did["errors"]),
        p50_s=did["latency"].get("p50"),
        p99_s=did["latency"].get("p99"),
    )


def _is_of(usage: Json, model: str, running: Json) -> bool:
    return bool(usage["model"] == model and usage["manifest"] == running["manifest"] and usage["variant"] == running["variant"])


def _state(model: Json) -> str:
    running, wanted, phase = model["running"], model["desired"], str(model["phase"])
    if phase != "idle":
        return phase
    if wanted is None:
        return "unassigned" if running else "unknown"
    if running and running["manifest"] == wanted["manifest"]:
        return "committed"
    tried = (each for each in model["refused"] if each["manifest"] == wanted["manifest"])
    return "refused" if any(each["attempt"] >= wanted["attempt"] for each in tried) else "waiting"


def _release(model: str, version: Json, did: Json, on_devices: list[ModelOnDevice]) -> ReleaseView:
    manifest = version["manifest"]
    return ReleaseView(
        model=model,
        version=version["version"],
        manifest=manifest,
        published=version["published"],
        size=version["size"],
        variants=tuple(version["variants"]),
        running=sum(each.model == model and each.running_manifest == manifest for each in on_devices),
        wanted=sum(each.model == model and each.wanted_manifest == manifest for each in on_devices),
        refused=sum(
            each.model == model and any(refusal.manifest == manifest for refusal in each.refused) for each in on_devices
        ),
        inferences=did["inferences"],
        failed=did["failed"],
        error_share=did["error_share"],
        p50_s=did["latency"].get("p50"),
        p99_s=did["latency"].get("p99"),
        predictions=dict(did["predictions"]),
    )
