"""The same elements in another shape or order. Transpose, Squeeze and Unsqueeze only change layouts: they emit nothing."""

from __future__ import annotations

from typing import Final

import numpy as np

from converters.tflite.emission import Call, Value
from converters.tflite.graph import Activation
from converters.tflite.operators.registry import Table
from converters.tflite.shapes import Group, Layout, Shape, channels_last, covers, identity, reshape_groups


def transpose(call: Call) -> Value:
    """Transpose: the axes are called otherwise, and stay where they are."""
    value = call.value()
    if value.shuffle is not None:
        value = call.emission.rearranged(value, identity(value.rank))
    permutation = call.attribute("perm", list(reversed(range(value.rank))))
    where = {before: after for after, before in enumerate(permutation)}
    layout = tuple(None if axis is None else where[axis] for axis in value.layout)
    return Value(call.result_shape(), value.tensor, layout)


def squeeze(call: Call) -> Value:
    """Squeeze: axes of size 1 lose their names."""
    value = call.value()
    given = call.integers(1, "axes")
    axes = [axis for axis in range(value.rank) if value.shape.is_unit(axis)] if given is None else given
    gone = {axis % value.rank for axis in axes}
    if any(value.shape.free[axis] for axis in gone):
        raise call.unsupported("it takes away the axis of samples")
    if value.shuffle is not None:
        value = call.emission.rearranged(value, identity(value.rank))
    kept = [axis for axis in range(value.rank) if axis not in gone]
    return Value(call.result_shape(), value.tensor, _renamed(value.layout, kept))


def unsqueeze(call: Call) -> Value:
    """Unsqueeze: new axes of size 1 need not be stored."""
    value, shape = call.value(), call.result_shape()
    if value.shuffle is not None:
        value = call.emission.rearranged(value, identity(value.rank))
    new = {axis % len(shape) for axis in call.integers(1, "axes") or []}
    names = [axis for axis in range(len(shape)) if axis not in new]
    return Value(shape, value.tensor, tuple(None if axis is None else names[axis] for axis in value.layout))


def _renamed(layout: Layout, kept: list[int]) -> Layout:
    return tuple(kept.index(axis) if axis in kept else None for axis in layout)


def reshape(call: Call) -> Value:
    """Reshape, Flatten: axes are joined and split where they are stored; only where that is impossible they are moved."""
    value, shape = call.value(), call.result_shape()
    if value.shuffle is not None:
        value = call.emission.rearranged(value, identity(value.rank))
    groups = reshape_groups(value.shape, shape)
    order = _grouped_order(value, groups)
    if _is_flattened_image(value, shape, order):
        return _shuffled(call, value, shape)
    stored = call.emission.stored(value, order)
    after = _after(order, groups, len(shape))
    return call.result(call.emission.reshaped(stored, shape.stored(after)), after)


def _grouped_order(value: Value, groups: tuple[Group, ...]) -> Layout:
    """The layout nearest to the value's in which each group lies together, in order."""
    group_of = {axis: group for group in groups for axis in group.inputs}
    order: list[int | None] = []
    for axis in value.layout:
        if axis is not None and axis not in order and not value.shape.is_unit(axis):
            order += [each for each in group_of[axis].inputs if not value.shape.is_unit(each)]
    return tuple(order)


def _after(order: Layout, groups: tuple[Group, ...], rank: int) -> Layout:
    """The layout of the result. Axes of size 1 of their own are stored only where the others stand in order anyway."""
    found: list[int] = []
    for axis in order:
        group = next(each for each in groups if axis in each.inputs)
        if not set(group.outputs) & set(found):
            found += group.outputs
    return identity(rank) if found == sorted(found) else tuple(found)


def _is_flattened_image(value: Value, shape: Shape, order: Layout) -> bool:
    """Whether a stored image becomes one row a sample, in another order than ONNX's: then its elements need not move."""
    wide = [axis for axis in value.layout if axis is not None and not value.shape.is_unit(axis)]
    return (
        len(shape) == 2
        and value.rank > 2
        and list(order) != wide
        and value.layout[0] == 0
        and shape.sizes[0] == value.shape.sizes[0]
        and shape.free[0] == value.shape.free[0]
        and covers(value.layout, range(1, value.rank))
    )


def _shuffled(call: Call, value: Value, shape: Shape) -> Value:
    sizes = value.shape.sizes[1:]
    axes = [axis - 1 for axis in value.layout[1:] if axis is not None]
    shuffle = np.arange(shape.sizes[1]).reshape(sizes).transpose(axes).reshape(-1)
    return Value(shape, call.emission.reshaped(value.tensor, shape), identity(2), shuffle)


def concat(call: Call) -> Value:
    """Concat: in the layout of the first operand that has all axes."""
    values, shape = [value for value in call.values() if 0 not in value.shape.sizes], call.result_shape()
    axis = call.attribute("axis", 0) % len(shape)
    layout = identity(len(shape))
    for value in values:
        if not value.is_constant and value.shuffle is None and covers(value.layout, (axis, *shape.wide_axes())):
            layout = value.layout
            break
    tensors = [call.emission.stored(value, layout) for value in values]
    at = layout.index(axis)
    made = call.emission.add(
        "CONCATENATION", tensors, shape.stored(layout), axis=at, fusedActivationFunction=Activation.NONE
    )  # fmt: skip
    return call.result(made, layout)


def expand(call: Call) -> Value:
    """Expand: BROADCAST_TO, or nothing where the shape is the same already. With a free axis zeros are added instead."""
    value, shape = call.value(), call.result_shape()
    layout = identity(len(shape))
    tensor = call.emission.plain(value)
    if value.shape == shape:
        return Value(shape, tensor, layout)
    if shape.is_fixed:
        return call.result(call.emission.add("BROADCAST_TO", [tensor, call.emission.integers(shape.sizes)], shape), layout)
    if any(shape.free[1:]):
        raise call.unsupported("it repeats another axis than the first, once for each sample")
    known = Shape((1,) * (len(shape) - value.rank) + value.shape.sizes, (False,) * (len(shape) - value.rank) + value.shape.free)
    tensor = call.emission.reshaped(tensor, known)
    if known.sizes[1:] != shape.sizes[1:]:
        zeros = call.emission.constant(np.zeros((1, *shape.sizes[1:]), value.tensor.dtype), "zeros")
        wider = Shape((1, *shape.sizes[1:]), known.free)
        tensor = call.emission.spread(zeros, tensor, wider)
    return call.result(tensor if tensor.shape == shape else call.emission.for_each_sample(tensor, shape), layout)


def tile(call: Call) -> Value:
    """Tile with constant repetitions."""
    value = call.value()
    repeats = [int(each) for each in call.constant(1, "repetitions")]
    axes = [axis for axis, count in enumerate(repeats) if count != 1]
    value = call.emission.with_axes(value, axes)
    counts = [1 if axis is None else repeats[axis] for axis in value.layout]
    made = call.emission.add("TILE", [value.tensor, call.emission.integers(counts)], call.result_shape().stored(value.layout))
    return call.result(made, value.layout)


def depth_to_space(call: Call) -> Value:
    """DepthToSpace: TFLite has the order DCR; for CRD the channels are put into that order first."""
    value, block = call.value(), call.attribute("blocksize")
    layout = channels_last(value.rank)
    tensor = call.emission.stored(value, layout)
    if call.attribute("mode", "DCR") == "CRD":
        depth = value.shape.sizes[1] // (block * block)
        order = np.arange(value.shape.sizes[1]).reshape(depth, block * block).T.reshape(-1)
        tensor = call.emission.like(
            "GATHER", [tensor, call.emission.constant(order.astype(np.int32), "order")], axis=3, batchDims=0
        )  # fmt: skip
    made = call.emission.add("DEPTH_TO_SPACE", [tensor], call.result_shape().stored(layout), blockSize=block)
    return call.result(made, layout)


def space_to_depth(call: Call) -> Value:
    """SpaceToDepth."""
    value, block = call.value(), call.attribute("blocksize")
    layout = channels_last(value.rank)
    tensor = call.emission.stored(value, layout)
    made = call.emission.add("SPACE_TO_DEPTH", [tensor], call.result_shape().stored(layout), blockSize=block)
    return call.result(made, layout)


TABLE: Final[Table] = {
    "Transpose": transpose,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Reshape": reshape,
    "Flatten": reshape,
    "Concat": concat,
    "Expand": expand,
    "Tile": tile,
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
}
