"""Opens what is compressed: as a torch module that can be trained, and as the ONNX model that everything is held against.

A PyTorch module is taken as it is. Every other model is read as `edgeward convert` reads it, and its graph becomes a module
(`trainable`), proved to answer the same.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from converters.compression import toolkit
from converters.compression.trainable import trainable
from converters.compression.training import first_line, flat
from converters.errors import SettingsRejected, SourceRejected
from converters.sources import Source, Trust, read_source, torch_reader
from converters.sources.exchange import Reading, Request, Samples
from converters.sources.proof import differing

if TYPE_CHECKING:
    import torch


def open_given(source: object, samples: Callable[[], Samples], work: Path, trust: Trust) -> tuple[torch.nn.Module, Source]:
    """The module to train from, and the same as ONNX; arguments as `read_source` takes them.

    Raises `SourceRejected`, `DataRejected`, `ReaderMissing`, `SettingsRejected`.
    """
    module = _of_torch(source, trust.state)
    if module is not None:
        return module, read_source(module, samples, work, Trust())
    given = read_source(source, samples, work, trust)
    return _trainable(given, samples(), [value.name for value in given.model.graph.input]), given


def open_student(student: str, state: Path | None, samples: Samples) -> torch.nn.Module:
    """The smaller model that `student` names, as a module that takes inputs in the order of the samples. Raises as above."""
    module = _of_torch(student, state)
    if module is not None:
        return module
    with tempfile.TemporaryDirectory(prefix="edgeward-compress-") as work:
        return _trainable(read_source(student, lambda: samples, Path(work), Trust(state=state)), samples, list(samples))


def _of_torch(source: object, state: Path | None) -> torch.nn.Module | None:
    """A module, or what a factory builds; None where the source is neither."""
    if isinstance(source, toolkit.torch().nn.Module):
        if state is not None:
            raise SettingsRejected("A module has its weights already; a state is only for package.module:factory.")
        module: torch.nn.Module = source
        return module
    if not isinstance(source, str) or ":" not in source or Path(source).exists():
        return None
    return torch_reader.load(Request(kind="torch-factory", location=source, state=None if state is None else str(state)))


def _trainable(given: Source, samples: Samples, inputs: Sequence[str]) -> torch.nn.Module:
    """The source's graph as a module. Raises `SourceRejected` where it cannot be one, or answers something else."""
    torch = toolkit.torch()
    module = trainable(str(given.path), given.model, inputs)
    try:
        with torch.no_grad():
            before = [
                values.numpy() for values in flat(module.eval()(*(torch.from_numpy(samples[name].copy()) for name in inputs)))
            ]
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise SourceRejected(f"{given.path} cannot be trained: as a torch module it fails: {first_line(error)}.") from error
    fault = differing(Reading(model=given.model, before=before, tools={}), samples)
    if fault:
        raise SourceRejected(f"{given.path} cannot be trained: as a torch module, {fault}. Please report it.")
    return module
