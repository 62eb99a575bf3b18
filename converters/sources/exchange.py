"""What a reader is asked, what it gives, and how both travel between this process and the child in which frameworks run.

A reader is a module with two functions: `load(request)` gives the framework's model of a file, `read(model, samples, stages=…)`
turns such a model into a `Reading`. Nothing here imports a framework.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Literal

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray

from converters.errors import ReaderMissing

Array = NDArray[Any]
Samples = Mapping[str, Array]
"""Some samples of the data, by the names that they have there, first axis the sample; without labels."""

Kind = Literal["keras", "saved-model", "torch-export", "torch-factory", "sklearn", "skops", "tflite"]

REQUEST_FILE: Final = "request.json"
SAMPLES_FILE: Final = "samples.npz"
ANSWER_FILE: Final = "answer.json"
MODEL_FILE: Final = "read.onnx"
BEFORE_FILE: Final = "before.npz"


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What to read. `location` is a path, or `package.module:factory`; `state` the file of that module's weights."""

    kind: Kind
    location: str
    state: str | None = None
    trust_pickle: bool = False
    stages: bool = False
    """Whether to give the results of the inner layers too, for finding the first that differs."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a child leaves beside the files. `failure` is empty where all went well; `about` is whose fault it was."""

    failure: str = ""
    about: Literal["model", "data", "missing"] = "model"
    tools: dict[str, str] = {}
    tolerated: float = 0.0
    classes: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reading:
    """A model as ONNX, and the proof material: what the framework itself answers on the samples.

    `model` takes inputs named as the samples that feed them; `before` holds one array for each of its outputs, in order.
    """

    model: onnx.ModelProto
    before: list[Array]
    tools: Mapping[str, str]
    stages: list[tuple[str, Array]] = field(default_factory=list)
    """Inner layers, in order of computation: what people call them, and what they answer."""
    tolerated: float = 0.0
    """Share of samples that may differ, where a comparison of rounded numbers can fall either way (trees)."""
    classes: tuple[str, ...] = ()
    """Names of the classes, where the model knows them."""


def needed(module: str, extra: str, what: str) -> ModuleType:
    """Import a framework's module. Raises `ReaderMissing`, which says what to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ReaderMissing(
            f"Reading {what} needs {package}, which is not installed here ({error}). "
            f"Install it with: pip install 'edgeward[{extra}]'"
        ) from error


def save_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Arrays by name, without pickles."""
    np.savez(path, allow_pickle=False, **dict(arrays))


def load_arrays(path: Path) -> dict[str, Array]:
    """What `save_arrays` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)
