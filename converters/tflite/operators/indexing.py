"""Parts of tensors: slices, splits, gathers, and borders around them."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from converters.tflite.emission import Call, Value
from converters.tflite.graph import Array, Options, Tensor
from converters.tflite.operators.places import from_the_start
from converters.tflite.operators.registry import Table
from converters.tflite.operators.windows import padded
from converters.tflite.shapes import Layout, Shape, identity

_NO_MASKS: Final[Options] = {"beginMask": 0, "endMask": 0, "ellipsisMask": 0, "newAxisMask": 0, "shrinkAxisMask": 0}


def slice_(call: Call) -> Value:
    """Slice by constants: SLICE, or STRIDED_SLICE where a step is not 1."""
    value = call.value()
    starts, ends = call.integers(1, "starts") or [], call.integers(2, "ends") or []
    axes = call.integers(3, "axes") or list(range(len(starts)))
    steps = (call.integers(4, "steps") if call.has(4) else None) or [1] * len(starts)
    ranges = {
        axis % value.rank: slice(start, end, step).indices(value.shape.sizes[axis])
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True)
    }
    ranges = {axis: each for axis, each in ranges.items() if not _is_whole(call, value, axis, each)}
    return _sliced(call, call.emission.with_axes(value, list(ranges)), ranges)


def _is_whole(call: Call, value: Value, axis: int, bounds: tuple[int, int, int]) -> bool:
    if value.shape.free[axis]:
        if call.result_shape().free[axis]:
            return True
        raise call.unsupported("it cuts the axis of samples")
    return bounds == (0, value.shape.sizes[axis], 1)


def _sliced(call: Call, value: Value, ranges: dict[int, tuple[int, int, int]]) -> Value:
    shape = call.result_shape().stored(value.layout)
    if not ranges:
        return call.same(value, value.tensor)
    begins, steps = [0] * len(value.layout), [1] * len(value.layout)
    for axis, (start, _, step) in ranges.items():
        begins[value.position(axis)], steps[value.position(axis)] = start, step
    emission = call.emission
    if all(step == 1 for step in steps):
        inputs = [value.tensor, emission.integers(begins), emission.integers(shape.signature)]
        return call.result(emission.add("SLICE", inputs, shape), value.layout)
    ends, mask = _ends(value, ranges)
    inputs = [value.tensor, emission.integers(begins), emission.integers(ends), emission.integers(steps)]
    return call.result(emission.add("STRIDED_SLICE", inputs, shape, **_NO_MASKS | {"endMask": mask}), value.layout)


def _ends(value: Value, ranges: dict[int, tuple[int, int, int]]) -> tuple[list[int], int]:
    """Where each stored axis ends, and the mask of those that end where the tensor does."""
    ends, mask = [0] * len(value.layout), 0
    for at, axis in enumerate(value.layout):
        end = ranges[axis][1] if axis in ranges else -1
        ends[at] = max(end, 0)
        if axis not in ranges or end < 0:
            mask |= 1 << at
    return ends, mask


def split(call: Call) -> list[Value]:
    """Split into equal or given parts."""
    value = call.value()
    axis = call.attribute("axis", 0) % value.rank
    value = call.emission.with_axes(value, [axis])
    count, layout = len(call.node.outputs), value.layout
    shapes = [call.result_shape(index).stored(layout) for index in range(count)]
    at = layout.index(axis)
    sizes = [shape.sizes[at] for shape in shapes]
    if value.shape.free[axis]:
        raise call.unsupported("it splits the axis of samples")
    where = call.emission.constant(np.array(at, np.int32), "axis")
    if len(set(sizes)) == 1:
        tensors = call.emission.add_many("SPLIT", [where, value.tensor], shapes, dtype=value.tensor.dtype, numSplits=count)
    else:
        inputs = [value.tensor, call.emission.integers(sizes), where]
        tensors = call.emission.add_many("SPLIT_V", inputs, shapes, dtype=value.tensor.dtype, numSplits=count)
    return [call.result(tensor, layout, index) for index, tensor in enumerate(tensors)]


def gather(call: Call) -> Value:
    """Gather: constant places in any layout, computed ones (as in an embedding) from a table stored as ONNX has it."""
    value, places = call.value(0), call.value(1)
    axis = call.attribute("axis", 0) % value.rank
    if value.shape.free[axis]:
        raise call.unsupported("it picks from the axis of samples")
    if places.tensor.data is None:
        if value.is_constant and value.rank == 2 and axis == 0 and value.tensor.dtype == np.float32:
            return _embedding(call, value, places)
        table = call.emission.plain(value)
        where = from_the_start(call.emission, call.emission.plain(places), value.shape.sizes[axis])
        layout = identity(len(call.result_shape()))
        made = call.emission.add("GATHER", [table, where], call.result_shape(), axis=axis, batchDims=0)
        return call.result(made, layout)
    found = np.where(places.tensor.data < 0, places.tensor.data + value.shape.sizes[axis], places.tensor.data)
    return _picked(call, call.emission.with_axes(value, [axis]), axis, found.astype(np.int32))


def _embedding(call: Call, table: Value, places: Value) -> Value:
    """Rows of a constant table: EMBEDDING_LOOKUP, whose table has an int8 form."""
    emission, shape = call.emission, call.result_shape()
    where = from_the_start(emission, emission.plain(places), table.shape.sizes[0])
    if where.dtype != np.int32:
        where = emission.like("CAST", [where], dtype=np.dtype(np.int32))
    count = Shape((where.shape.elements,), (not where.shape.is_fixed,))
    rows = Shape((*count.sizes, table.shape.sizes[1]), (*count.free, False))
    made = emission.add("EMBEDDING_LOOKUP", [emission.reshaped(where, count), table.tensor], rows, dtype=table.tensor.dtype)
    return call.result(emission.reshaped(made, shape), identity(len(shape)))


def _picked(call: Call, value: Value, axis: int, places: Array) -> Value:
    if places.ndim > 1:
        value = call.emission.rearranged(value, identity(value.rank))
        layout: Layout = identity(len(call.result_shape()))
        made = call.emission.add(
            "GATHER", [value.tensor, call.emission.constant(places, "places")], call.result_shape(), axis=axis, batchDims=0
        )
        return call.result(made, layout)
    at = value.position(axis)
    stored = value.tensor.shape.with_size(at, places.size)
    if places.size and (np.diff(places.reshape(-1)) == 1).all():  # a run of neighbours
        begins, sizes = [0] * len(value.layout), list(stored.signature)
        begins[at] = int(places.reshape(-1)[0])
        made = call.emission.add(
            "SLICE", [value.tensor, call.emission.integers(begins), call.emission.integers(sizes)], stored
        )  # fmt: skip
    else:
        made = call.emission.add(
            "GATHER", [value.tensor, call.emission.constant(places, "places")], stored, axis=at, batchDims=0
        )  # fmt: skip
    return call.result(made, value.layout if places.ndim else _without(value.layout, axis))


def _without(layout: Layout, axis: int) -> Layout:
    """The layout after a logical axis (of size 1 now) is gone."""
    return tuple(None if each is None or each == axis else each - (each > axis) for each in layout)


def pad(call: Call) -> Value:
    """Pad by constant amounts: with a constant, by reflection, or by the edge where one element is added."""
    value, mode = call.value(), call.attribute("mode", "constant")
    pads = call.integers(1, "pads") or []
    axes = call.integers(3, "axes") if call.has(3) else list(range(value.rank))
    assert axes is not None
    amounts = {axis % value.rank: [pads[at], pads[at + len(axes)]] for at, axis in enumerate(axes)}
    value = call.emission.with_axes(value, [axis for axis, pair in amounts.items() if any(pair)])
    stored = [[0, 0] if axis is None else amounts.get(axis, [0, 0]) for axis in value.layout]
    if mode == "constant":
        fill = _fill(call, value.tensor.dtype)
        if fill.data is not None and not fill.data.any():
            return call.result(padded(call, value.tensor, stored), value.layout)
        return call.result(padded(call, value.tensor, stored, kind="PADV2", fill=fill), value.layout)
    kind = "REFLECT" if mode == "reflect" else "SYMMETRIC"  # of an edge that is one wide; wider ones are gathers by now
    return call.result(padded(call, value.tensor, stored, kind=kind), value.layout)


def _fill(call: Call, dtype: np.dtype[Any]) -> Tensor:
    """The number that a border is made of, computed or not."""
    if call.has(2) and call.value(2).shape.elements:
        return call.emission.reshaped(call.emission.plain(call.value(2)), Shape((), ()))
    return call.emission.constant(np.array(call.attribute("value", 0.0), dtype), "fill")


TABLE: Final[Table] = {"Slice": slice_, "Split": split, "Gather": gather, "Pad": pad}
