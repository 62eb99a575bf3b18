"""Proves a reader: the ONNX model answers on the samples what the framework does, or the first layer that differs is named.

Layers of a framework and values of a graph have no common names, and exporters put axes in another order and merge layers. So
a layer's result is looked for among all inner values by its numbers, sorted: equal numbers in any order are the same result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from converters.errors import RecipeFailed, SourceRejected
from converters.graphs.observe import observe
from converters.sources.exchange import Reading, Samples

Array = NDArray[Any]

CLOSE: Final = 1e-3
"""Largest difference, as a share of the largest answer: float arithmetic in another order stays a hundred times below."""
_LARGEST_STAGE: Final = 2**24


def differing(reading: Reading, samples: Samples) -> str:
    """What differs between the framework's answers and the model's, for people; empty where nothing does.

    Raises `SourceRejected` where the model does not run on the samples.
    """
    names = [value.name for value in reading.model.graph.output]
    got = _run(reading.model, names, samples)
    for name, wanted in zip(names, reading.before, strict=True):
        fault = _fault(wanted, got[name][: len(wanted)], reading.tolerated)
        if fault:
            return f"the output {name!r} {fault}"
    return ""


def first_difference(reading: Reading, samples: Samples) -> str:
    """Which of the reading's stages is the first that the ONNX model does not compute, in words; empty where none is known."""
    if not reading.stages:
        return ""
    names = list(dict.fromkeys(name for node in reading.model.graph.node for name in node.output if name))
    first = {name: values[:1] for name, values in samples.items()}
    pool = _by_size(_run(reading.model, names, first).values())
    found = [_is_among(values[:1], pool) for _, values in reading.stages]
    last = max((at for at, known in enumerate(found) if known), default=-1)
    if last + 1 >= len(found):
        return "All layers agree; they differ after the last one."
    before = f"; all is equal up to {reading.stages[last][0]}" if last >= 0 else ""
    return f"The first node that differs is {reading.stages[last + 1][0]}{before}."


def _run(model: onnx.ModelProto, names: Sequence[str], samples: Samples) -> dict[str, Array]:
    """The values `names` for all samples, one call a sample where the model fixes its first axis."""
    wanted = {value.name: value.type.tensor_type.shape.dim for value in model.graph.input}
    free = all(not dims or not dims[0].HasField("dim_value") for dims in wanted.values())
    inputs = {name: samples[name] for name in wanted}
    count = len(next(iter(inputs.values())))
    step = count if free else 1
    batches = ({name: values[at : at + step] for name, values in inputs.items()} for at in range(0, count, step))
    try:
        pieces = list(observe(model, names, batches))
    except RecipeFailed as error:
        raise SourceRejected(f"The model, turned into ONNX, {error}. Please report it.") from error
    return {name: np.concatenate([np.atleast_1d(piece[name]) for piece in pieces]) for name in names}


def _fault(wanted: Array, got: Array, tolerated: float) -> str:
    """How the answers differ, or nothing."""
    if wanted.shape != got.shape:
        return f"has the shape {list(got.shape)} where {list(wanted.shape)} is wanted"
    if not wanted.size:
        return ""
    if wanted.dtype.kind not in "fc":
        same = (wanted == got).reshape(len(wanted), -1).all(axis=1)
        return "" if 1 - same.mean() <= tolerated else f"is another for {1 - same.mean():.1%} of the samples"
    distance = _distances(wanted, got)
    worse = float(np.mean(distance > CLOSE))
    if worse <= tolerated:
        return ""
    return f"is off by up to {np.max(distance):.2g} of its largest value ({worse:.0%} of the samples, {CLOSE:g} is allowed)"


def _distances(wanted: Array, got: Array) -> Array:
    """Each sample's largest difference, over the largest value of all. NaN where both say NaN is no difference."""
    before, after = wanted.astype(np.float64), got.astype(np.float64)
    scale = float(np.max(np.abs(before), where=np.isfinite(before), initial=0.0)) or 1.0
    with np.errstate(invalid="ignore"):
        apart = np.abs(before - after) / scale
    apart[(before == after) | (np.isnan(before) & np.isnan(after))] = 0.0
    return np.asarray(np.nan_to_num(apart, nan=np.inf).reshape(len(wanted), -1).max(axis=1))


def _by_size(values: Any) -> Mapping[int, list[Array]]:  # noqa: ANN401
    pool: dict[int, list[Array]] = {}
    for each in values:
        if each.dtype.kind == "f" and each.size <= _LARGEST_STAGE:
            pool.setdefault(each.size, []).append(np.sort(each, axis=None))
    return pool


def _is_among(values: Array, pool: Mapping[int, list[Array]]) -> bool:
    if values.dtype.kind != "f":
        return False
    mine = np.sort(values, axis=None)
    scale = float(np.max(np.abs(mine), initial=0.0)) or 1.0
    return any(bool(np.max(np.abs(mine - other)) <= CLOSE * scale) for other in pool.get(values.size, ()))
