"""What each ONNX operator is in torch, for graphs that shall be trained (`trainable`). One function or row an operator.

Shapes hold for any number of samples: the first axis is never written down.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from converters.compression import toolkit
from converters.compression.growth import Step, Unfit

if TYPE_CHECKING:
    import torch

Made = Any
"""A node of torch's graph, or a list of them; torch may be missing."""
Make = Callable[[Step], Made]


def _filled(layer: torch.nn.Module, **tensors: NDArray[Any] | None) -> torch.nn.Module:
    """The layer with these weights."""
    with toolkit.torch().no_grad():
        for name, values in tensors.items():
            if values is not None:
                getattr(layer, name).copy_(toolkit.torch().from_numpy(np.array(values, np.float32)))
    return layer


def _convolution(step: Step) -> Made:
    nn = toolkit.torch().nn
    weights, bias = step.weights(1), step.constant(2)
    spatial = weights.ndim - 2
    kinds = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
    group = step.settings.get("group", 1)
    strides, dilations = (list(step.settings.get(name) or [1] * spatial) for name in ("strides", "dilations"))
    pads = _pads(step, weights.shape[2:], strides, dilations)
    given = step.value()
    before, after = pads[:spatial], pads[spatial:]
    if before != after:
        given = step.call(nn.functional.pad, given, _torch_pads(before, after))
        before = [0] * spatial
    layer = kinds[spatial](
        weights.shape[1] * group, weights.shape[0], weights.shape[2:], strides, before, dilations, group, bias is not None
    )
    return step.layer(_filled(layer, weight=weights, bias=bias), given)


def _pads(step: Step, kernel: Sequence[int], strides: list[int], dilations: list[int]) -> list[int]:
    """Explicit padding, all beginnings before all ends, also where the operator says SAME."""
    how = step.settings.get("auto_pad", b"NOTSET").decode()
    if how in ("NOTSET", "VALID"):
        return list(step.settings.get("pads") or [0] * 2 * len(kernel)) if how == "NOTSET" else [0] * 2 * len(kernel)
    shape = step.shape
    if shape is None or any(size is None for size in shape[2:]):
        raise Unfit(f"pads {how} without a known size of its input")
    whole = []
    for size, width, stride, dilation in zip(shape[2:], kernel, strides, dilations, strict=True):
        assert size is not None
        whole.append(max(0, (-(-size // stride) - 1) * stride + (width - 1) * dilation + 1 - size))
    less, more = [each // 2 for each in whole], [each - each // 2 for each in whole]
    return less + more if how == "SAME_UPPER" else more + less


def _torch_pads(before: Sequence[int], after: Sequence[int]) -> list[int]:
    """As torch wants them: from the last axis on."""
    return [size for pair in zip(reversed(before), reversed(after), strict=True) for size in pair]


def _dense(step: Step) -> Made:
    """Gemm with constant weights."""
    weights = step.weights(1) * step.settings.get("alpha", 1.0)
    bias = step.constant(2)
    if step.settings.get("transA") or (len(step.node.input) > 2 and bias is None):
        raise Unfit("is no dense layer: it takes a turned or a computed operand")
    weights = weights if step.settings.get("transB") else weights.T
    bias = None if bias is None else np.broadcast_to(bias * step.settings.get("beta", 1.0), (1, len(weights)))[0]
    return step.layer(_linear(weights, bias), step.value())


def _linear(weights: NDArray[Any], bias: NDArray[Any] | None) -> torch.nn.Module:
    made = toolkit.torch().nn.Linear(weights.shape[1], weights.shape[0], bias is not None)
    return _filled(made, weight=weights, bias=bias)


def _product(step: Step) -> Made:
    """A dense layer where the weights are constant, with the bias that is added behind it; else a product of two values."""
    weights = step.constant(1)
    if weights is None or weights.ndim != 2:
        return step.call(toolkit.torch().matmul, *step.values())
    readers = step.growth.view.readers(step.node.output[0])
    adding = readers[0] if len(readers) == 1 and readers[0].node.op_type == "Add" else None
    bias = None if adding is None else step.growth.constant(adding.node.input[1 - adding.position])
    if bias is None or bias.size != weights.shape[1] or bias.shape[-1:] != weights.shape[1:] or bias.ndim > 1:
        return step.layer(_linear(weights.T, None), step.value())
    assert adding is not None
    made = step.layer(_linear(weights.T, bias), step.value())
    step.growth.made[adding.node.output[0]] = made
    return made


def _normalisation(step: Step) -> Made:
    scale, shift, mean, variance = (step.weights(at) for at in range(1, 5))
    nn, shape = toolkit.torch().nn, step.shape
    kinds = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
    if shape is None or len(shape) not in kinds:
        raise Unfit("normalises a value of unknown rank")
    layer = kinds[len(shape)](len(scale), eps=step.settings.get("epsilon", 1e-5))
    filled = _filled(layer, weight=scale, bias=shift, running_mean=mean, running_var=variance)
    return step.layer(filled, step.value())


def _layer_normalisation(step: Step) -> Made:
    scale, shift, axis = step.weights(1), step.constant(2), step.settings.get("axis", -1)
    if step.shape is None or step.shape[axis:] != scale.shape:
        raise Unfit("normalises other axes than it scales")
    layer = toolkit.torch().nn.LayerNorm(scale.shape, eps=step.settings.get("epsilon", 1e-5), bias=shift is not None)
    return step.layer(_filled(layer, weight=scale, bias=shift), step.value())


def _gather(step: Step) -> Made:
    """A table of words, or constant places along an axis."""
    axis, table, places = step.settings.get("axis", 0), step.constant(0), step.constant(1)
    torch = toolkit.torch()
    if table is not None and axis == 0 and table.ndim == 2 and table.dtype == np.float32:
        words = step.call(torch.Tensor.long, step.value(1))
        return step.layer(_filled(torch.nn.Embedding(*table.shape), weight=table), words)
    size = step.shape[axis] if step.shape else None
    if places is None or size is None:
        raise Unfit("looks up computed places in a computed value")
    if places.ndim == 0:
        return step.call(torch.select, step.value(), axis, int(places))
    found = step.call(torch.index_select, step.value(), axis, step.kept(places.astype(np.int64).ravel() % size))
    return found if places.ndim == 1 else step.call(torch.unflatten, found, axis, places.shape)


def _pool(step: Step) -> Made:
    functional = toolkit.torch().nn.functional
    kernel = list(step.settings["kernel_shape"])
    strides, dilations = (list(step.settings.get(name) or [1] * len(kernel)) for name in ("strides", "dilations"))
    pads = _pads(step, kernel, strides, dilations)
    before, after = pads[: len(kernel)], pads[len(kernel) :]
    given, rank, largest = step.value(), len(kernel), step.operator == "MaxPool"
    if step.settings.get("ceil_mode") or rank not in (1, 2) or any(each != 1 for each in dilations):
        raise Unfit("pools in a way that has no trainable form here")
    if before != after or any(2 * pad > width for pad, width in zip(before, kernel, strict=True)):
        if not largest:
            raise Unfit("averages over wide or uneven padding")
        given = step.call(functional.pad, given, _torch_pads(before, after), value=float("-inf"))
        before = [0] * rank
    if largest:
        return step.call(getattr(functional, f"max_pool{rank}d"), given, kernel, strides, before)
    counted = bool(step.settings.get("count_include_pad"))
    return step.call(getattr(functional, f"avg_pool{rank}d"), given, kernel, strides, before, count_include_pad=counted)


def _global_pool(step: Step) -> Made:
    shape, torch = step.shape, toolkit.torch()
    if shape is None:
        raise Unfit("pools a value of unknown rank")
    reduce = torch.mean if step.operator == "GlobalAveragePool" else torch.amax
    return step.call(reduce, step.value(), list(range(2, len(shape))), keepdim=True)


def _reduction(step: Step) -> Made:
    torch = toolkit.torch()
    named = {"ReduceMean": torch.mean, "ReduceSum": torch.sum, "ReduceMax": torch.amax, "ReduceMin": torch.amin}
    axes = step.numbers(1, step.settings.get("axes"))
    if not axes:
        raise Unfit("reduces all axes, the samples' too")
    return step.call(named[step.operator], step.value(), axes, keepdim=bool(step.settings.get("keepdims", 1)))


def _reshape(step: Step) -> Made:
    """The first axis stays what it is; a flattening is said as one, so that pruning sees through it."""
    torch, before, after = toolkit.torch(), step.shape, step.growth.view.shape(step.node.output[0])
    if not before or not after or None in after or before[0] != after[0]:
        raise Unfit("mixes samples with each other, or has no known shape")
    flat = step.call(torch.flatten, step.value(), 1) if len(before) > 2 else step.value()
    return flat if len(after) == 2 else step.call(torch.unflatten, flat, 1, list(after[1:]))


def _axes(step: Step) -> Made:
    """Squeeze and Unsqueeze."""
    torch, given = toolkit.torch(), step.value()
    axes = step.numbers(1, step.settings.get("axes"))
    if not axes:
        raise Unfit("drops whichever axes are 1")
    if step.operator == "Squeeze":
        return step.call(torch.squeeze, given, tuple(axes))
    for axis in sorted(axes):
        given = step.call(torch.unsqueeze, given, axis)
    return given


def _concat(step: Step) -> Made:
    return step.call(toolkit.torch().cat, step.values(), step.settings["axis"])


def _split(step: Step) -> Made:
    axis = step.settings.get("axis", 0)
    shapes = [step.growth.view.shape(name) for name in step.node.output]
    sizes = [shape[axis] if shape else None for shape in shapes]
    if None in sizes:
        raise Unfit("splits into parts of unknown sizes")
    parts = step.call(toolkit.torch().split, step.value(), sizes, axis)
    return [step.call(operator.getitem, parts, at) for at in range(len(sizes))]


def _slice(step: Step) -> Made:
    starts, ends = step.numbers(1, None), step.numbers(2, None)
    if starts is None or ends is None:
        raise Unfit("says its bounds as attributes, as very old models do")
    axes = step.numbers(3, list(range(len(starts))))
    steps = step.numbers(4, [1] * len(starts))
    rank = len(step.shape or ())
    if not rank or min(steps) < 1 or 0 in [axis % rank for axis in axes]:
        raise Unfit("slices samples, backwards, or a value of unknown rank")
    cut = [slice(None)] * rank
    for axis, start, end, stride in zip(axes, starts, ends, steps, strict=True):
        cut[axis % rank] = slice(start, min(end, 2**31 - 1), stride)
    return step.call(operator.getitem, step.value(), tuple(cut))


def _pad(step: Step) -> Made:
    pads, fill = step.numbers(1, step.settings.get("pads")), step.numbers(2, step.settings.get("value", 0.0))
    if step.settings.get("mode", b"constant") != b"constant" or len(step.node.input) > 3:
        raise Unfit("pads with something else than a constant, or named axes only")
    half = len(pads) // 2
    sizes = _torch_pads(pads[:half], pads[half:])
    return step.call(toolkit.torch().nn.functional.pad, step.value(), sizes, value=float(np.float32(fill)))


def _clip(step: Step) -> Made:
    least, most = step.numbers(1, step.settings.get("min")), step.numbers(2, step.settings.get("max"))
    return step.call(toolkit.torch().clamp, step.value(), least, most)


def _softmax(step: Step) -> Made:
    functional = toolkit.torch().nn.functional
    function = functional.softmax if step.operator == "Softmax" else functional.log_softmax
    return step.call(function, step.value(), step.settings.get("axis", -1))


def _cast(step: Step) -> Made:
    kind = onnx.helper.tensor_dtype_to_np_dtype(step.settings["to"]).name
    return step.call(toolkit.torch().Tensor.to, step.value(), getattr(toolkit.torch(), kind))


def _power(step: Step) -> Made:
    exponent = step.weights(1)
    if exponent.size != 1:
        raise Unfit("raises to several powers at once")
    return step.call(toolkit.torch().pow, step.value(), float(exponent.reshape(())))


def _hard_sigmoid(step: Step) -> Made:
    torch, alpha, beta = toolkit.torch(), step.settings.get("alpha", 0.2), step.settings.get("beta", 0.5)
    return step.call(torch.clamp, step.call(torch.add, step.call(torch.mul, step.value(), alpha), beta), 0, 1)


def _flatten(step: Step) -> Made:
    if step.settings.get("axis", 1) != 1:
        raise Unfit("mixes samples with each other")
    return step.call(toolkit.torch().flatten, step.value(), 1)


def _transpose(step: Step) -> Made:
    if "perm" not in step.settings or step.settings["perm"][0] != 0:
        raise Unfit("moves the samples' axis")
    return step.call(toolkit.torch().permute, step.value(), list(step.settings["perm"]))


def _same(step: Step) -> Made:
    """Identity, and Dropout as at inference."""
    return step.value()


def _plain(name: str) -> Make:
    """The function of that name in torch, of all inputs."""
    return lambda step: step.call(getattr(toolkit.torch(), name), *step.values())


def _shaped(name: str, **renamed: tuple[str, float]) -> Make:
    """The activation of that name, with its attributes under torch's names."""

    def make(step: Step) -> Made:
        said = {ours: step.settings.get(theirs, default) for ours, (theirs, default) in renamed.items()}
        return step.call(getattr(toolkit.torch().nn.functional, name), step.value(), **said)

    return make


def _gelu(step: Step) -> Made:
    how = step.settings.get("approximate", b"none").decode()
    return step.call(toolkit.torch().nn.functional.gelu, step.value(), approximate=how)


OPERATORS: Final[Mapping[str, Make]] = {
    "Abs": _plain("abs"), "Add": _plain("add"), "AveragePool": _pool, "BatchNormalization": _normalisation, "Cast": _cast,
    "Clip": _clip, "Concat": _concat, "Conv": _convolution, "Cos": _plain("cos"), "Div": _plain("div"),
    "Dropout": _same, "Elu": _shaped("elu", alpha=("alpha", 1.0)), "Erf": _plain("erf"), "Exp": _plain("exp"),
    "Flatten": _flatten, "Gather": _gather, "Gelu": _gelu, "Gemm": _dense, "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": _global_pool, "HardSigmoid": _hard_sigmoid, "HardSwish": _shaped("hardswish"), "Identity": _same,
    "LayerNormalization": _layer_normalisation, "LeakyRelu": _shaped("leaky_relu", negative_slope=("alpha", 0.01)),
    "Log": _plain("log"), "LogSoftmax": _softmax, "MatMul": _product, "Max": _plain("maximum"), "MaxPool": _pool,
    "Min": _plain("minimum"), "Mul": _plain("mul"), "Neg": _plain("neg"), "Pad": _pad, "Pow": _power,
    "Reciprocal": _plain("reciprocal"), "ReduceMax": _reduction, "ReduceMean": _reduction, "ReduceMin": _reduction,
    "ReduceSum": _reduction, "Relu": _plain("relu"), "Reshape": _reshape, "Selu": _shaped("selu"),
    "Sigmoid": _plain("sigmoid"), "Sin": _plain("sin"), "Slice": _slice, "Softmax": _softmax, "Softplus": _shaped("softplus"),
    "Split": _split, "Sqrt": _plain("sqrt"), "Squeeze": _axes, "Sub": _plain("sub"), "Tanh": _plain("tanh"),
    "Transpose": _transpose, "Unsqueeze": _axes, "Where": _plain("where"),
}  # fmt: skip
"""By ONNX's names. Those not here are named to the user, with the node."""
