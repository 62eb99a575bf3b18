"""Which variant of a release runs on this device. Pure: manifest and the formats that are at hand come in."""

from __future__ import annotations

from collections.abc import Collection

from device_agent.errors import ReleaseRefused
from fleet_protocol.manifest import Manifest, Variant


def usable(manifest: Manifest, formats: Collection[str], passed_over: Collection[str] = ()) -> tuple[Variant, ...]:
    """The variants that an engine here can open and that were not passed over, in the manifest's order of preference."""
    return tuple(each for each in manifest.variants if each.format in formats and each.name not in passed_over)


def choose(manifest: Manifest, formats: Collection[str], passed_over: Collection[str] = ()) -> Variant:
    """The first usable variant. Raises `ReleaseRefused` when there is none."""
    variants = usable(manifest, formats, passed_over)
    if variants:
        return variants[0]
    offered = ", ".join(f"{each.name} ({each.format})" for each in manifest.variants)
    raise ReleaseRefused(
        f"{manifest.model} {manifest.version} has no variant for this device: it offers {offered}; "
        f"the engines here open {', '.join(sorted(formats)) or 'nothing'}"
    )
