"""Which package runs TFLite files here: ai-edge-litert, or tflite-runtime where that is what the platform has.

Known by running a model of four hundred bytes, and not by importing: tflite-runtime 2.14 imports under numpy 2 and fails at the
first interpreter. ai-edge-litert comes first, since it is maintained and about twice as fast. What was passed over, and why,
stands in `Package.choice`; it is never passed over in silence.
"""

from __future__ import annotations

import base64
import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Final

from runtime.errors import EngineUnavailable

INSTALL: Final = (
    "pip install 'edgeward[tflite]', or 'edgeward[tflite-runtime]' on a platform that has tflite-runtime only "
    "(Python 3.11, numpy 1)"
)

_CANDIDATES: Final = (("ai-edge-litert", "ai_edge_litert", "LiteRT"), ("tflite-runtime", "tflite_runtime", "tflite-runtime"))
"""Distribution, module, and what people call it; in the order in which they are tried."""

_TRIAL: Final = base64.b64decode(
    b"GAAAAFRGTDMAAA4AFAAQAAwACAAAAAQADgAAABAAAAAYAAAAaAEAAAMAAAABAAAABAAAAKD+//8BAAAAFAAAAAAADgAYABQAEAAMAAgABAAOAAAA"
    b"FAAAABwAAABcAAAAYAAAAGgAAAAEAAAAbWFpbgAAAAABAAAAFAAAAAAADgAUAAAAEAAMAAsABAAOAAAAEAAAAAAAAAsMAAAAEAAAAAz///8BAAAA"
    b"AgAAAAIAAAAAAAAAAQAAAAEAAAACAAAAAgAAAAAAAAABAAAAAwAAAIgAAAA8AAAABAAAAJj///8MAAAAFAAAABwAAAACAAAA/////wIAAAAFAAAA"
    b"dG90YWwAAAACAAAAAQAAAAIAAADM////DAAAABQAAAAcAAAAAgAAAP////8CAAAABQAAAHJpZ2h0AAAAAgAAAAEAAAACAAAAFAAQAAwAAAAAAAgA"
    b"AAAAAAAABAAUAAAADAAAABQAAAAcAAAAAgAAAP////8CAAAABAAAAGxlZnQAAAAAAgAAAAEAAAACAAAAAQAAAAgAAAAEAAQABAAAAA=="
)
"""A TFLite model that adds two numbers to two numbers."""


@dataclass(frozen=True, slots=True)
class Package:
    """A package that ran the trial."""

    title: str
    """Name and version, for people: `LiteRT 2.3.0`."""
    interpreter: Callable[..., Any]
    load_delegate: Callable[..., Any]
    choice: str
    """Why it is this one, for people."""


@functools.cache
def find() -> Package:
    """The first package that works here. Raises `EngineUnavailable`, with the reason for each that does not."""
    objections: list[str] = []
    for distribution, module, called in _CANDIDATES:
        try:
            title = f"{called} {metadata.version(distribution)}"
            found = importlib.import_module(f"{module}.interpreter")
            _try(found.Interpreter)
        except metadata.PackageNotFoundError:
            objections.append(f"{distribution} is not installed")
        except Exception as error:  # noqa: BLE001  # whatever a broken build raises: SystemError, ImportError, RuntimeError
            objections.append(f"{title} is installed and does not run: {_why(distribution, error)}")
        else:
            reasons = "; ".join([*objections, f"{called} is the first that runs here"])
            return Package(title, found.Interpreter, found.load_delegate, reasons)
    raise EngineUnavailable(f"Nothing here runs TFLite models: {'; '.join(objections)}. {INSTALL}.")


def _try(interpreter: Callable[..., Any]) -> None:
    """Raises whatever a broken package raises."""
    trial = interpreter(model_content=_TRIAL, num_threads=1)
    trial.allocate_tensors()
    trial.invoke()


def _why(distribution: str, error: Exception) -> str:
    import numpy as np

    if distribution == "tflite-runtime" and int(np.__version__.split(".")[0]) >= 2:
        return f"it was built for numpy 1, and this is numpy {np.__version__} (pip install 'numpy<2')"
    return " ".join(str(error).split())[:300] or type(error).__name__
