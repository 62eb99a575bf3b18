"""Execution providers that a Python package plugs into onnxruntime, which then need not be built with them.

Such a package names a library; onnxruntime loads it once in the life of the process and finds the provider's devices, one of
which a session is then given.
"""

from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING, Final

import onnxruntime as ort

from runtime.errors import EngineUnavailable

if TYPE_CHECKING:
    from runtime.engines.providers import Asked, Plugin

OLDEST: Final = "1.24"
"""The first onnxruntime whose interface for plugins is the one that today's packages speak."""
_HARDWARE: Final = {"HTP": "NPU"}
"""What onnxruntime calls a device that the provider calls otherwise."""


def add(options: ort.SessionOptions, asked: Asked, plugin: Plugin) -> None:
    """Give a session the provider on the device that was asked for. Raises `EngineUnavailable` where it is not there."""
    _load(asked.provider.key, plugin.package)
    name = asked.device or plugin.usual
    there = [each for each in ort.get_ep_devices() if each.ep_name == asked.provider.key]
    fitting = [each for each in there if each.device.type.name == _HARDWARE.get(name.upper(), name.upper())]
    if plugin.by_option:
        options.add_provider_for_devices((fitting or there)[:1], asked.options | {str(asked.provider.device_option): name})
        return
    if not fitting:
        has = ", ".join(sorted({each.device.type.name for each in there})) or "none"
        raise EngineUnavailable(f"{asked.provider.title} has no device {name} here; it has {has}.")
    options.add_provider_for_devices(fitting[:1], asked.options)


@functools.cache
def _load(key: str, package: str) -> None:
    if not hasattr(ort.SessionOptions, "add_provider_for_devices"):
        raise EngineUnavailable(f"onnxruntime {ort.__version__} takes no plugins. Install {OLDEST} or newer.")
    ort.register_execution_provider_library(key, importlib.import_module(package).get_library_path())
