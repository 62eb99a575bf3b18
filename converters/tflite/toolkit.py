"""The optional packages behind TFLite, imported where they are needed: LiteRT (schema, interpreter), ai-edge-quantizer.

A missing one is a `RecipeFailed` that says what to install. None of them is TensorFlow.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from converters.errors import RecipeFailed

_INSTALL = "pip install 'edgeward[convert]'"


def schema() -> ModuleType:
    """The flatbuffer schema's object API (`ModelT`, `TensorT`, …)."""
    return _load("ai_edge_litert.schema_py_generated", "LiteRT")


def interpreter() -> ModuleType:
    """LiteRT's interpreter."""
    return _load("ai_edge_litert.interpreter", "LiteRT")


def quantizer(name: str) -> ModuleType:
    """A module of ai-edge-quantizer."""
    return _load(f"ai_edge_quantizer.{name}", "ai-edge-quantizer")


def _load(module: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise RecipeFailed(f"needs {package}, which is not installed: {_INSTALL}") from error
