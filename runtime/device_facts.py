"""What a measurement or an optimised graph is true for: this processor and these library versions.

Two devices with the same facts may share what was prepared or measured; when one fact changes, it is made again.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Final

import msgspec

from fleet_protocol.digests import digest_of

_LIBRARIES: Final = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-openvino",
    "onnxruntime-directml",
    "onnxruntime-qnn",
    "onnxruntime-ep-openvino",
    "tensorrt-cu13",
    "tensorrt-cu12",
    "tensorrt",
    "ai-edge-litert",
    "tflite-runtime",
    "numpy",
)
_CPU_FIELDS: Final = frozenset(
    {"model name", "vendor_id", "flags", "Features", "CPU implementer", "CPU part", "CPU variant", "Hardware"}
)
"""Of /proc/cpuinfo, on x86 and ARM: what decides which kernels and layouts an engine takes."""


class DeviceFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The processor and the libraries."""

    machine: str
    processor: str
    """For people: the processor's name, as far as the system knows it."""
    features: str
    """Digest of all that the system says of the processor's kind and instructions."""
    cores: int
    """Cores that this process may use."""
    libraries: dict[str, str]
    accelerators: tuple[str, ...] = ()
    """NVIDIA's GPUs and driver, for what is compiled for these; other providers check themselves what they load."""


def device_facts() -> DeviceFacts:
    """The facts of this device, as this process sees it."""
    fields = _cpu_fields()
    name = fields.get("model name") or fields.get("Hardware") or platform.processor() or "unknown"
    return DeviceFacts(
        machine=platform.machine(),
        processor=name,
        features=digest_of(repr(sorted(fields.items())).encode()),
        cores=usable_cores(),
        libraries={name: version for name in _LIBRARIES if (version := _version(name))},
        accelerators=accelerators(Path("/proc/driver/nvidia")),
    )


def usable_cores() -> int:
    """Cores that this process may run on; at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def accelerators(driver: Path) -> tuple[str, ...]:
    """What the kernel says of the driver's version and each GPU's model; nothing where there is none."""
    models = sorted(driver.glob("gpus/*/information"))
    said = (_lines(path) for path in (driver / "version", *models))
    return tuple(" ".join(line.split()) for lines in said for line in lines if line.startswith(("NVRM", "Model:")))


def _cpu_fields() -> dict[str, str]:
    """Each field's first value: cores of one device may differ, and then the first stands for all."""
    found: dict[str, str] = {}
    for line in _lines(Path("/proc/cpuinfo")):
        name, _, value = line.partition(":")
        if name.strip() in _CPU_FIELDS:
            found.setdefault(name.strip(), value.strip())
    return found


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _version(name: str) -> str | None:
    from importlib import metadata  # 30 ms that only tuning and preparation need

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
