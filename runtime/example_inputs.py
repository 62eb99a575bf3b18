"""Requests for comparing two ways of running one model, and for measuring it: golden samples, or made-up numbers that fit.

Where nothing is known of a model but its specs, the numbers are the same in every process and every run. They say nothing of
its accuracy; golden inputs do (`runtime.trial`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from fleet_protocol.tensors import DYNAMIC, NUMPY_NAMES, TensorSpec
from runtime.engine import Array

FREE_SIZE: Final = 32
"""Of a free dimension that is not the batch: long enough for a few strides, short enough to be quick."""


def example(specs: tuple[TensorSpec, ...], *, batch: int = 1, seed: int = 0) -> dict[str, Array]:
    """One request of `batch` samples where the first dimension is free, else of the size that the model has."""
    chance = np.random.default_rng(seed)
    return {spec.name: _array(spec, batch, chance) for spec in specs}


def sample_requests(specs: tuple[TensorSpec, ...], golden_file: str | None, *, count: int) -> list[dict[str, Array]]:
    """At most `count` requests of one sample (or the model's fixed batch): golden ones, or made up. Raises `InvalidGolden`."""
    if golden_file is None:
        return [example(specs, seed=seed) for seed in range(count)]
    from runtime import golden  # 15 ms for zip files, which whoever only serves a model does not read

    wanted = golden.read(Path(golden_file))
    first = specs[0].shape if specs else ()
    size = first[0] if first and first[0] > 0 else 1
    rows = [np.arange(at, at + size) % wanted.samples for at in range(min(count, wanted.samples))]
    return [{name: array[chosen] for name, array in wanted.inputs.items()} for chosen in rows]


def _array(spec: TensorSpec, batch: int, chance: np.random.Generator) -> Array:
    shape = tuple(size if size != DYNAMIC else (batch if at == 0 else FREE_SIZE) for at, size in enumerate(spec.shape))
    dtype = np.dtype(NUMPY_NAMES[spec.datatype])
    if dtype.kind == "f":
        return np.asarray(chance.normal(size=shape), dtype)
    if dtype.kind == "O":
        return np.full(shape, "a", object)
    return np.asarray(chance.integers(0, 2, size=shape), dtype)  # 0 and 1 are tokens, masks and pixels alike


def takes_batches(specs: tuple[TensorSpec, ...]) -> bool:
    """Whether every input's first dimension is free, so that requests can be merged."""
    return bool(specs) and all(spec.shape[:1] == (DYNAMIC,) for spec in specs)


def repeated(request: dict[str, Array], batch: int) -> dict[str, Array]:
    """The first sample of a request, `batch` times."""
    return {name: np.repeat(array[:1], batch, axis=0) for name, array in request.items()}
