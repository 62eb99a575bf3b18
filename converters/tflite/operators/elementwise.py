"""Element by element with broadcasting: arithmetic, comparison, logic, choice. Operands meet in one layout.

That layout is the one in which the widest operand is stored already; constants are brought into it here, for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from converters.tflite.emission import NARROW, Call, Emission, Value
from converters.tflite.graph import Activation, Options, Tensor
from converters.tflite.operators.registry import Table
from converters.tflite.shapes import Layout, Shape, covers, identity

_FUSABLE: Final = frozenset({"ADD", "SUB", "MUL", "DIV"})
"""Kinds whose options have room for an activation."""

_NOT_IN_64_BITS: Final = frozenset({"DIV", "POW"})


def meet(emission: Emission, values: Sequence[Value], shape: Shape) -> tuple[list[Tensor], Layout]:
    """The operands of a result of `shape`, each stored so that their axes lie one behind another, and the result's layout."""
    rank = len(shape)
    layout = identity(rank)
    for value in values:
        aligned = _aligned(value, rank)
        if not value.is_constant and value.shuffle is None and covers(aligned, shape.wide_axes()):
            layout = aligned
            if layout != identity(rank):
                break
    return [_brought(emission, value, layout, rank) for value in values], layout


def combine(
    emission: Emission, kind: str, values: Sequence[Value], shape: Shape, dtype: np.dtype[np.generic] | None = None
) -> Value:
    """One operation over broadcast operands, with a result of the logical `shape`."""
    tensors, layout = meet(emission, values, shape)
    given = tensors[-1].dtype
    if given in NARROW or (given == np.int64 and kind in _NOT_IN_64_BITS):
        return _in_32_bits(emission, kind, tensors, Value(shape, tensors[-1], layout), dtype)
    options: Options = {"fusedActivationFunction": Activation.NONE} if kind in _FUSABLE else {}
    return Value(shape, emission.add(kind, tensors, shape.stored(layout), dtype=dtype, **options), layout)


def _in_32_bits(emission: Emission, kind: str, tensors: list[Tensor], like: Value, dtype: np.dtype[np.generic] | None) -> Value:
    """Computed as int32; what does not fit into a narrow result is cut off, as ONNX Runtime does."""
    wide = [
        tensor if tensor.dtype == np.bool_ else emission.like("CAST", [tensor], dtype=np.dtype(np.int32))
        for tensor in tensors
    ]  # fmt: skip
    options: Options = {"fusedActivationFunction": Activation.NONE} if kind in _FUSABLE else {}
    result = np.dtype(np.bool_) if dtype == np.bool_ else np.dtype(np.int32)
    made = emission.add(kind, wide, like.shape.stored(like.layout), dtype=result, **options)
    return replace(like, tensor=made if dtype == np.bool_ else emission.like("CAST", [made], dtype=like.tensor.dtype))


def _aligned(value: Value, rank: int) -> Layout:
    """The value's layout in the result's axes."""
    shift = rank - value.rank
    return tuple(None if axis is None else axis + shift for axis in value.layout)


def _brought(emission: Emission, value: Value, layout: Layout, rank: int) -> Tensor:
    shift = rank - value.rank
    wanted = tuple(None if axis is None or axis < shift else axis - shift for axis in layout)
    tensor = emission.stored(value, wanted)
    if tensor.data is None:
        return tensor
    sizes = list(tensor.shape.sizes)
    while sizes and sizes[0] == 1:  # leading axes of size 1 say nothing, and hide a bias from the passes
        sizes.pop(0)
    return emission.reshaped(tensor, Shape.fixed(sizes))


def binary(kind: str) -> Callable[[Call], Value]:
    """Two operands, a result of their type."""

    def emit(call: Call) -> Value:
        return combine(call.emission, kind, call.values(), call.result_shape())

    return emit


def comparison(kind: str) -> Callable[[Call], Value]:
    """Two operands, a truth value."""

    def emit(call: Call) -> Value:
        return combine(call.emission, kind, call.values(), call.result_shape(), np.dtype(np.bool_))

    return emit


def variadic(kind: str, *, mean: bool = False) -> Callable[[Call], Value]:
    """Any number of operands, two at a time."""

    def emit(call: Call) -> Value:
        found, *others = call.values()
        for other in others:
            found = combine(call.emission, kind, [found, other], _broadcast(found.shape, other.shape))
        if not mean:
            return found
        share = call.emission.constant_value(np.array(1 / (1 + len(others)), np.float32), "share")
        return combine(call.emission, "MUL", [found, share], found.shape)

    return emit


def divide(call: Call) -> Value:
    """Div; by a constant it is a multiplication, which every engine has in integers too."""
    left, right = call.values()
    if right.is_constant and right.tensor.dtype == np.float32 and right.tensor.data is not None:
        with np.errstate(divide="ignore", over="ignore"):
            inverse = (np.float32(1) / right.tensor.data).astype(np.float32)
        if np.isfinite(inverse).all():
            factor = call.emission.constant_value(inverse, f"{right.tensor.name}/inverse")
            return combine(call.emission, "MUL", [left, factor], call.result_shape())
    return combine(call.emission, "DIV", [left, right], call.result_shape())


def power(call: Call) -> Value:
    """Pow, with the simpler forms of common exponents."""
    base, exponent = call.values()
    data = exponent.tensor.data
    if data is not None and data.size == 1 and base.tensor.dtype == np.float32:
        simple = _simple_power(call, base, float(data.reshape(-1)[0]))
        if simple is not None:
            return simple
    real = np.dtype(np.float32) if np.float32 in (base.tensor.dtype, exponent.tensor.dtype) else base.tensor.dtype
    made = combine(call.emission, "POW", [cast_to(call, base, real), cast_to(call, exponent, real)], call.result_shape())
    return cast_to(call, made, base.tensor.dtype)


def cast_to(call: Call, value: Value, dtype: np.dtype[np.generic]) -> Value:
    """The same numbers as another type."""
    if value.tensor.dtype == dtype:
        return value
    if value.tensor.data is not None:
        return call.emission.constant_value(value.tensor.data.astype(dtype), value.tensor.name)
    return replace(value, tensor=call.emission.like("CAST", [value.tensor], dtype=np.dtype(dtype)))


def _simple_power(call: Call, base: Value, exponent: float) -> Value | None:
    if exponent == 1:
        return base
    if exponent == 2:
        return combine(call.emission, "MUL", [base, base], base.shape)
    if exponent in (0.5, -0.5):
        return replace(base, tensor=call.emission.like("SQRT" if exponent > 0 else "RSQRT", [base.tensor]))
    return None


def modulo(call: Call) -> Value:
    """Mod: with the divisor's sign as Python has it, or with the dividend's as C has it (fmod)."""
    left, right = call.values()
    if not call.attribute("fmod", 0):
        return combine(call.emission, "FLOOR_MOD", [left, right], call.result_shape())
    zero = call.emission.constant_value(np.zeros((), left.tensor.dtype), "zero")
    rest = combine(
        call.emission, "FLOOR_MOD", [_magnitude(call, left, zero), _magnitude(call, right, zero)], call.result_shape()
    )
    below = combine(call.emission, "LESS", [left, zero], left.shape, np.dtype(np.bool_))
    return combine(call.emission, "SELECT_V2", [below, _negative(call, rest, zero), rest], rest.shape, rest.tensor.dtype)


def _negative(call: Call, value: Value, zero: Value) -> Value:
    return combine(call.emission, "SUB", [zero, value], value.shape)


def _magnitude(call: Call, value: Value, zero: Value) -> Value:
    """ABS, which TFLite has not of all integers."""
    return combine(call.emission, "MAXIMUM", [value, _negative(call, value, zero)], value.shape)


def where(call: Call) -> Value:
    """Where: SELECT_V2."""
    values, shape = call.values(), call.result_shape()
    return combine(call.emission, "SELECT_V2", values, shape, values[1].tensor.dtype)


def prelu(call: Call) -> Value:
    """PRelu with constant slopes, one a channel."""
    value, slope = call.values()
    value = value if value.shuffle is None else call.emission.rearranged(value, identity(value.rank))
    (_, slopes), layout = meet(call.emission, [value, slope], value.shape)
    sizes = [1] * (len(layout) - 1 - len(slopes.shape)) + list(slopes.shape.sizes[-(len(layout) - 1) :])
    stored = call.emission.reshaped(slopes, Shape.fixed(sizes))
    return call.result(call.emission.like("PRELU", [call.emission.stored(value, layout), stored]), layout)


def _broadcast(left: Shape, right: Shape) -> Shape:
    rank = max(len(left), len(right))
    sizes, free = [], []
    for axis in range(rank):
        pair = [(shape.sizes[axis - rank + len(shape)], shape.free[axis - rank + len(shape)])
                for shape in (left, right) if axis - rank + len(shape) >= 0]  # fmt: skip
        size, is_free = max(pair, key=lambda each: (each[1], each[0]))
        sizes.append(size)
        free.append(is_free)
    return Shape(tuple(sizes), tuple(free))


TABLE: Final[Table] = {
    "Add": binary("ADD"),
    "Sub": binary("SUB"),
    "Mul": binary("MUL"),
    "Div": divide,
    "Pow": power,
    "Mod": modulo,
    "Max": variadic("MAXIMUM"),
    "Min": variadic("MINIMUM"),
    "Sum": variadic("ADD"),
    "Mean": variadic("ADD", mean=True),
    "Equal": comparison("EQUAL"),
    "Greater": comparison("GREATER"),
    "GreaterOrEqual": comparison("GREATER_EQUAL"),
    "Less": comparison("LESS"),
    "LessOrEqual": comparison("LESS_EQUAL"),
    "And": comparison("LOGICAL_AND"),
    "Or": comparison("LOGICAL_OR"),
    "Xor": comparison("NOT_EQUAL"),
    "Where": where,
    "PRelu": prelu,
}
