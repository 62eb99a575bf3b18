"""Elements that are picked or put by places which are computed: GatherND, GatherElements, ScatterND, ScatterElements, TopK.

Constant places are taken apart before (`rewriting/places.py`). Picking is one GATHER from rows, putting one SCATTER_ND.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from converters.tflite.emission import Call, Emission, Value
from converters.tflite.graph import Activation, Tensor
from converters.tflite.operators.registry import Table
from converters.tflite.shapes import Layout, Shape, identity

INT32: Final = np.dtype(np.int32)


def from_the_start(emission: Emission, places: Tensor, size: int | list[int]) -> Tensor:
    """Places of which negative ones, that count from the end, count from the start as all others."""
    zero = emission.constant(np.zeros((), places.dtype), "zero")
    below = emission.like("LESS", [places, zero], dtype=np.dtype(np.bool_))
    sizes = emission.constant(np.array(size, places.dtype), "size")
    raised = emission.like("ADD", [places, sizes], fusedActivationFunction=Activation.NONE)
    return emission.like("SELECT_V2", [below, raised, places], dtype=places.dtype)


def gather_elements(call: Call) -> Value:
    """GatherElements: each row of the axis, which is stored last, gives elements by places of its own."""
    value, places = call.value(0), call.value(1)
    axis = call.attribute("axis", 0) % value.rank
    if value.shape.free[axis]:
        raise call.unsupported("it picks from the axis of samples")
    layout: Layout = (*(each for each in range(value.rank) if each != axis), axis)
    where = from_the_start(call.emission, call.emission.stored(places, layout), value.shape.sizes[axis])
    table = _cut_to(call, call.emission.stored(value, layout), where.shape)
    found = _picked(call, _rows(call, table, len(layout) - 1), _rows(call, where, len(layout) - 1))
    return call.result(call.emission.reshaped(found, where.shape), layout)


def _cut_to(call: Call, table: Tensor, wanted: Shape) -> Tensor:
    """Only the rows for which there are places."""
    shape = Shape((*wanted.sizes[:-1], table.shape.sizes[-1]), (*wanted.free[:-1], False))
    if shape == table.shape:
        return table
    zeros, sizes = call.emission.integers([0] * len(shape)), call.emission.integers(shape.signature)
    return call.emission.add("SLICE", [table, zeros, sizes], shape)


def gather_nd(call: Call) -> Value:
    """GatherND: the places become those in rows of all axes that they name."""
    value, places = call.value(0), call.value(1)
    batch = call.attribute("batch_dims", 0)
    depth = batch + places.shape.sizes[-1]
    if any(value.shape.free[batch:depth]):
        raise call.unsupported("it picks from the axis of samples")
    table = call.emission.plain(value)
    flat = _flat_places(call, call.emission.plain(places), list(value.shape.sizes[batch:depth]))
    outer = Shape((math.prod(value.shape.sizes[:batch]),), (any(value.shape.free[:batch]),))
    rest = Shape(value.shape.sizes[depth:], value.shape.free[depth:])
    size, count = math.prod(value.shape.sizes[batch:depth]), math.prod(flat.shape.sizes[batch:])
    rows = call.emission.reshaped(table, Shape((*outer.sizes, size, *rest.sizes), (*outer.free, False, *rest.free)))
    where = call.emission.reshaped(flat, Shape((*outer.sizes, count), (*outer.free, any(flat.shape.free[batch:]))))
    return call.result(
        call.emission.reshaped(_picked(call, rows, where), call.result_shape()), identity(len(call.result_shape()))
    )


def _flat_places(call: Call, places: Tensor, sizes: list[int]) -> Tensor:
    """Places with one number for each of the axes of these sizes, as one number each."""
    emission = call.emission
    strides = np.cumprod([1, *sizes[:0:-1]])[::-1]
    counted = from_the_start(emission, places, sizes)
    steps = emission.constant(strides.astype(places.dtype), "strides")
    parts = emission.like("MUL", [counted, steps], fusedActivationFunction=Activation.NONE)
    shape = Shape(places.shape.sizes[:-1], places.shape.free[:-1])
    return emission.add("SUM", [parts, emission.integers([len(shape)])], shape, keepDims=False)


def _rows(call: Call, tensor: Tensor, outer: int) -> Tensor:
    """The first `outer` axes as one, and the others as one."""
    sizes, free = tensor.shape.sizes, tensor.shape.free
    shape = Shape((math.prod(sizes[:outer]), math.prod(sizes[outer:])), (any(free[:outer]), any(free[outer:])))
    return call.emission.reshaped(tensor, shape)


def _picked(call: Call, rows: Tensor, where: Tensor) -> Tensor:
    """[rows, places, …] of [rows, size, …] by [rows, places]."""
    shape = Shape((*where.shape.sizes, *rows.shape.sizes[2:]), (*where.shape.free, *rows.shape.free[2:]))
    return call.emission.add("GATHER", [rows, where], shape, axis=1, batchDims=1)


def scatter_nd(call: Call) -> Value:
    """ScatterND: what is put lies on zeros of its own, and is chosen or added where it was put."""
    places = call.emission.plain(call.value(1))
    sizes = list(call.value().shape.sizes[: places.shape.sizes[-1]])
    where = from_the_start(call.emission, places, sizes)
    return _scattered(call, where, call.emission.plain(call.value(2)), call.result_shape())


def scatter_elements(call: Call) -> Value:
    """ScatterElements: a place along one axis, and the places where it stands along the others, are one place in a row."""
    emission, value, shape = call.emission, call.value(), call.value().shape
    places = emission.plain(call.value(1))
    if not (shape.is_fixed and places.shape.is_fixed):
        raise call.unsupported("it puts elements for each sample. Export it with a fixed number of samples")
    axis = call.attribute("axis", 0) % value.rank
    strides = np.cumprod([1, *shape.sizes[:0:-1]])[::-1]
    own = sum(np.arange(size).reshape([-1, *[1] * (value.rank - 1 - at)]) * strides[at] * (at != axis)
              for at, size in enumerate(places.shape.sizes))  # fmt: skip
    base = emission.constant(np.asarray(np.broadcast_to(own, places.shape.sizes), places.dtype), "base")
    step = emission.constant(np.array(strides[axis], places.dtype), "stride")
    counted = from_the_start(emission, places, shape.sizes[axis])
    along = emission.like("MUL", [counted, step], fusedActivationFunction=Activation.NONE)
    flat = emission.like("ADD", [along, base], fusedActivationFunction=Activation.NONE)
    count = places.shape.elements
    updates = emission.reshaped(emission.plain(call.value(2)), Shape.fixed([count]))
    return _scattered(call, emission.reshaped(flat, Shape.fixed([count, 1])), updates, Shape.fixed([shape.elements]))


def _scattered(call: Call, where: Tensor, updates: Tensor, shape: Shape) -> Value:
    emission, reduction = call.emission, call.attribute("reduction", "none")
    if not (shape.is_fixed and where.shape.is_fixed and updates.shape.is_fixed):
        raise call.unsupported("it puts elements for each sample. Export it with a fixed number of samples")
    if reduction not in ("none", "add"):
        raise call.unsupported(f"with the reduction {reduction} it has no form. Use none or add")
    data = emission.reshaped(emission.plain(call.value()), shape)
    if where.dtype != INT32:
        where = emission.like("CAST", [where], dtype=INT32)
    sizes = emission.integers(shape.sizes)
    put = emission.add("SCATTER_ND", [where, updates, sizes], shape, dtype=data.dtype)
    if reduction == "add":
        made = emission.like("ADD", [data, put], fusedActivationFunction=Activation.NONE)
    else:
        ones = emission.constant(np.ones(updates.shape.sizes, np.int32), "ones")
        zero = emission.constant(np.zeros((), np.int32), "zero")
        hit = emission.add("SCATTER_ND", [where, ones, sizes], shape, dtype=INT32)
        chosen = emission.like("GREATER", [hit, zero], dtype=np.dtype(np.bool_))
        made = emission.like("SELECT_V2", [chosen, put, data], dtype=data.dtype)
    return call.result(emission.reshaped(made, call.result_shape()), identity(len(call.result_shape())))


def top_k(call: Call) -> list[Value]:
    """TopK of a constant number: TOPK_V2, for which the axis is stored last; of the smallest, those of the negative numbers."""
    value, count = call.value(), int(call.constant(1, "number of elements").reshape(-1)[0])
    axis = call.attribute("axis", -1) % value.rank
    if value.shape.free[axis]:
        raise call.unsupported("it picks from the axis of samples")
    if value.tensor.dtype == np.int64:
        raise call.unsupported("of int64 it has no form. Cast it to int32 or float32 first")
    emission, largest = call.emission, call.attribute("largest", 1)
    layout: Layout = (*(each for each in range(value.rank) if each != axis), axis)
    tensor = emission.stored(value, layout)
    tensor = tensor if largest else emission.like("NEG", [tensor])
    shape = tensor.shape.with_size(len(layout) - 1, count)
    found, places = emission.add_pair("TOPK_V2", [tensor, emission.constant(np.array(count, np.int32), "k")], shape, INT32)
    found = found if largest else emission.like("NEG", [found])
    wide = emission.like("CAST", [places], dtype=np.dtype(np.int64))
    return [call.result(found, layout), call.result(wide, layout, 1)]


def reverse_sequence(call: Call) -> Value:
    """ReverseSequence: the first elements of each sample, as many as its length says, backwards."""
    value = call.value()
    options = {"seqDim": call.attribute("time_axis", 0), "batchDim": call.attribute("batch_axis", 1)}
    made = call.emission.like("REVERSE_SEQUENCE", [call.emission.plain(value), call.emission.plain(call.value(1))], **options)
    return call.result(made, identity(value.rank))


TABLE: Final[Table] = {
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "ReverseSequence": reverse_sequence,
    "Scatter": scatter_elements,
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
    "TopK": top_k,
}
