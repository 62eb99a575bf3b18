"""One tensor in, one of the same shape out: activations, functions of a number, casts. The layout is handed on.

Functions that TFLite has no operation for are put together from those that it has.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import numpy as np

from converters.tflite.emission import Call, Value
from converters.tflite.graph import Activation, Tensor
from converters.tflite.operators.registry import Table
from converters.tflite.shapes import identity

_CLIPS: Final = {(0.0, np.inf): "RELU", (0.0, 6.0): "RELU6", (-1.0, 1.0): "RELU_N1_TO_1", (0.0, 1.0): "RELU_0_TO_1"}


class Maths:
    """Short words for chains of operations on stored tensors of one shape."""

    def __init__(self, call: Call) -> None:
        self._emission = call.emission
        self._add = call.emission.like
        self._scalar = call.emission.scalar

    def unary(self, kind: str, tensor: Tensor, **options: Any) -> Tensor:  # noqa: ANN401  # the schema's fields
        """kind(tensor)."""
        return self._add(kind, [tensor], **options)

    def two(self, kind: str, left: Tensor, right: Tensor | float) -> Tensor:
        """Left kind right, where right may be a number."""
        other = right if isinstance(right, Tensor) else self._scalar(right)
        options = {} if kind in ("MAXIMUM", "MINIMUM") else {"fusedActivationFunction": Activation.NONE}
        return self._add(kind, [left, other], **options)

    def inverse(self, tensor: Tensor) -> Tensor:
        """1 / tensor."""
        return self._emission.add("DIV", [self._scalar(1.0), tensor], tensor.shape, fusedActivationFunction=Activation.NONE)

    def truth(self, kind: str, left: Tensor, right: Tensor) -> Tensor:
        """A comparison."""
        return self._add(kind, [left, right], dtype=np.dtype(np.bool_))


def unary(kind: str, **options: Any) -> Callable[[Call], Value]:  # noqa: ANN401  # the schema's fields
    """An operator that TFLite has too."""

    def emit(call: Call) -> Value:
        value = call.value()
        return call.same(value, call.emission.like(kind, [value.tensor], **options))

    return emit


def composed(function: Callable[[Call, Maths, Tensor], Tensor]) -> Callable[[Call], Value]:
    """An operator that is put together."""

    def emit(call: Call) -> Value:
        value = call.value()
        return call.same(value, function(call, Maths(call), value.tensor))

    return emit


def clip(call: Call) -> Value:
    """Clip: one of the clipping activations where the bounds are theirs."""
    value = call.value()
    low, high = _bound(call, 1, "min"), _bound(call, 2, "max")
    if value.tensor.dtype == np.float32:
        bounds = (-np.inf if low is None else float(low), np.inf if high is None else float(high))
        if bounds in _CLIPS:
            return call.same(value, call.emission.like(_CLIPS[bounds], [value.tensor]))
    tensor = value.tensor
    for kind, bound in (("MAXIMUM", low), ("MINIMUM", high)):
        if bound is not None and np.isfinite(bound):
            tensor = call.emission.like(kind, [tensor, call.emission.constant(np.array(bound, tensor.dtype), "bound")])
    return call.same(value, tensor)


def _bound(call: Call, index: int, name: str) -> float | None:
    given = call.value(index).tensor.data if call.has(index) else call.attribute(name)
    return None if given is None else float(np.reshape(given, -1)[0])


def cast(call: Call) -> Value:
    """Cast between numbers and truth values."""
    value, dtype = call.value(), call.result_type()
    if dtype == value.tensor.dtype:
        return value
    return call.same(value, call.emission.like("CAST", [value.tensor], dtype=dtype))


def softmax(kind: str) -> Callable[[Call], Value]:
    """Softmax and LogSoftmax, for which the axis must be stored last."""

    def emit(call: Call) -> Value:
        value = call.value()
        axis = call.attribute("axis", 1 if call.opset < 13 else -1) % value.rank
        options = {"beta": 1.0} if kind == "SOFTMAX" else {}
        if value.shuffle is not None or not value.layout or value.layout[-1] != axis:
            value = call.emission.rearranged(value, (*(each for each in identity(value.rank) if each != axis), axis))
        return call.same(value, call.emission.like(kind, [value.tensor], **options))

    return emit


def leaky_relu(call: Call) -> Value:
    """LeakyRelu."""
    value = call.value()
    return call.same(value, call.emission.like("LEAKY_RELU", [value.tensor], alpha=float(call.attribute("alpha", 0.01))))


def gelu(call: Call) -> Value:
    """Gelu, exact or by tanh."""
    value = call.value()
    return call.same(
        value, call.emission.like("GELU", [value.tensor], approximate=call.attribute("approximate", "none") == "tanh")
    )


def passed_on(call: Call) -> Value:
    """What does nothing at inference."""
    return call.value()


def dropout(call: Call) -> list[Value]:
    """Dropout at inference: all is kept, which its mask says too."""
    value = call.value()
    if call.has(2) and bool(call.constant(2, "training_mode").any()) and _dropped(call) > 0:
        raise call.unsupported("it is in training mode; export the model for inference")
    if not call.has_output(1):
        return [value]
    tests = [Maths(call).truth(kind, value.tensor, value.tensor) for kind in ("EQUAL", "NOT_EQUAL")]
    return [value, call.same(value, call.emission.like("LOGICAL_OR", tests))]


def _dropped(call: Call) -> float:
    """The share that training mode drops."""
    return float(call.constant(1, "ratio").reshape(-1)[0]) if call.has(1) else 0.5


def _elu(call: Call, maths: Maths, x: Tensor) -> Tensor:
    alpha = float(call.attribute("alpha", 1.0))
    return maths.unary("ELU", x) if alpha == 1 else _exponential(maths, x, alpha, 1.0, 1.0)


def _selu(call: Call, maths: Maths, x: Tensor) -> Tensor:
    alpha, gamma = float(call.attribute("alpha", 1.6732632)), float(call.attribute("gamma", 1.0507010))
    return _exponential(maths, x, alpha, gamma, 1.0)


def _celu(call: Call, maths: Maths, x: Tensor) -> Tensor:
    alpha = float(call.attribute("alpha", 1.0))
    return _exponential(maths, x, alpha, 1.0, alpha)


def _exponential(maths: Maths, x: Tensor, alpha: float, gamma: float, width: float) -> Tensor:
    """Gamma · (max(x, 0) + alpha · (exp(min(x, 0) / width) − 1))."""
    low = maths.two("MINIMUM", x, 0.0)
    if width != 1:
        low = maths.two("MUL", low, 1 / width)
    negative = maths.two("MUL", maths.unary("ELU", low), alpha)
    both = maths.two("ADD", maths.unary("RELU", x), negative)
    return both if gamma == 1 else maths.two("MUL", both, gamma)


def _hard_sigmoid(call: Call, maths: Maths, x: Tensor) -> Tensor:
    alpha, beta = float(call.attribute("alpha", 0.2)), float(call.attribute("beta", 0.5))
    six = x if math.isclose(6 * alpha, 1, rel_tol=1e-4) else maths.two("MUL", x, 6 * alpha)
    return maths.two("MUL", maths.unary("RELU6", maths.two("ADD", six, 6 * beta)), 1 / 6)


def _softplus(_call: Call, maths: Maths, x: Tensor) -> Tensor:
    """max(x, 0) + log(1 + exp(−|x|)): never overflows."""
    tail = maths.unary("EXP", maths.unary("NEG", maths.unary("ABS", x)))
    return maths.two("ADD", maths.unary("RELU", x), maths.unary("LOG", maths.two("ADD", tail, 1.0)))


def _softsign(_call: Call, maths: Maths, x: Tensor) -> Tensor:
    return maths.two("DIV", x, maths.two("ADD", maths.unary("ABS", x), 1.0))


def _mish(call: Call, maths: Maths, x: Tensor) -> Tensor:
    return maths.two("MUL", x, maths.unary("TANH", _softplus(call, maths, x)))


def _swish(call: Call, maths: Maths, x: Tensor) -> Tensor:
    alpha = float(call.attribute("alpha", 1.0))
    inner = x if alpha == 1 else maths.two("MUL", x, alpha)
    return maths.two("MUL", x, maths.unary("LOGISTIC", inner))


def _reciprocal(_call: Call, maths: Maths, x: Tensor) -> Tensor:
    return maths.inverse(x)


def _thresholded(call: Call, maths: Maths, x: Tensor) -> Tensor:
    above = maths.truth("GREATER", x, call.emission.scalar(float(call.attribute("alpha", 1.0))))
    return call.emission.like("SELECT_V2", [above, x, call.emission.scalar(0.0)], dtype=x.dtype)


def _is_nan(_call: Call, maths: Maths, x: Tensor) -> Tensor:
    return maths.truth("NOT_EQUAL", x, x)


def cumsum(call: Call) -> Value:
    """CumSum along a constant axis."""
    value = call.value()
    axis = int(call.constant(1, "axis").reshape(-1)[0])
    value = call.emission.with_axes(value, [axis])
    options = {"exclusive": bool(call.attribute("exclusive", 0)), "reverse": bool(call.attribute("reverse", 0))}
    at = call.emission.constant(np.array(value.position(axis), np.int32), "axis")
    return replace(value, tensor=call.emission.like("CUMSUM", [value.tensor, at], **options))


TABLE: Final[Table] = {
    "Relu": unary("RELU"),
    "Sigmoid": unary("LOGISTIC"),
    "Tanh": unary("TANH"),
    "HardSwish": unary("HARD_SWISH"),
    "Exp": unary("EXP"),
    "Log": unary("LOG"),
    "Sqrt": unary("SQRT"),
    "Neg": unary("NEG"),
    "Abs": unary("ABS"),
    "Floor": unary("FLOOR"),
    "Ceil": unary("CEIL"),
    "Round": unary("ROUND"),
    "Sign": unary("SIGN"),
    "Sin": unary("SIN"),
    "Cos": unary("COS"),
    "Not": unary("LOGICAL_NOT"),
    "Clip": clip,
    "Cast": cast,
    "CumSum": cumsum,
    "Softmax": softmax("SOFTMAX"),
    "LogSoftmax": softmax("LOG_SOFTMAX"),
    "LeakyRelu": leaky_relu,
    "Gelu": gelu,
    "Elu": composed(_elu),
    "Selu": composed(_selu),
    "Celu": composed(_celu),
    "HardSigmoid": composed(_hard_sigmoid),
    "Softplus": composed(_softplus),
    "Softsign": composed(_softsign),
    "Mish": composed(_mish),
    "Swish": composed(_swish),
    "Reciprocal": composed(_reciprocal),
    "ThresholdedRelu": composed(_thresholded),
    "IsNaN": composed(_is_nan),
    "Identity": passed_on,
    "Dropout": dropout,
}
