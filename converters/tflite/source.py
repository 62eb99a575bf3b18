"""Prepares an ONNX model for the emitter: constants folded, batch normalisation folded, every shape known.

onnxruntime's own exact simplifications do the folding, twice: once for two samples and once for three. Sizes that differ are
those that grow with the number of samples; a constant that differs cannot be stored. Nothing here decides how TFLite says it.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from converters.errors import RecipeFailed
from converters.tflite.rewriting import taken_apart
from converters.tflite.shapes import Shape

Array = NDArray[Any]

_COUNTS: Final = (2, 3)
"""Numbers of samples that are tried. Not 1, for which tools remove broadcasts that others need."""


_SMALL: Final = 1024
"""Constants up to this size may say a shape."""


@dataclass(frozen=True)
class Node:
    """One ONNX node, taken apart. Empty input names are inputs that are left out."""

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    domain: str = ""

    def describe(self) -> str:
        """For people: what it is and where."""
        label = self.name or (self.outputs[0] if self.outputs else "")
        return f"{self.domain + '.' if self.domain else ''}{self.op} {label!r}"


@dataclass(frozen=True)
class Prepared:
    """A model in the form that the emitter takes: nodes in order of computation, shapes of all tensors.

    `varying` names the constants that differ with the number of samples. A constant that is the same for each sample stands
    in `constants` once, with that axis of size 1, and its shape says that the axis is free.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: Mapping[str, Array]
    varying: frozenset[str]
    shapes: Mapping[str, Shape]
    dtypes: Mapping[str, np.dtype[Any]]
    opset: int


def prepare(model: onnx.ModelProto) -> Prepared:
    """Simplify a checked model that has all its weights inside. Raises `RecipeFailed`."""
    free = _sample_axes(model)
    first = simplified(model, _COUNTS[0] if free else None)
    if not free:
        return _prepared(first, first)
    return _prepared(first, simplified(model, _COUNTS[1]))


def simplified(model: onnx.ModelProto, samples: int | None) -> onnx.ModelProto:
    """The model for a fixed number of samples (None: as it is), after onnxruntime's exact simplifications, shapes inferred."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    weights = {tensor.name for tensor in fixed.graph.initializer}
    kept = [value for value in fixed.graph.input if value.name not in weights]
    del fixed.graph.input[:]
    fixed.graph.input.extend(kept)
    del fixed.graph.value_info[:]
    if samples is not None:
        for value in fixed.graph.input:
            for dim in value.type.tensor_type.shape.dim[:1]:
                if not dim.HasField("dim_value"):
                    dim.dim_value = samples
        for value in fixed.graph.output:  # said anew by shape inference
            value.type.tensor_type.ClearField("shape")
    try:
        return _rewritten(fixed)
    except Exception as error:  # onnxruntime and onnx raise their own kinds, without a common root
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RecipeFailed(f"cannot be simplified for a fixed number of samples: {first.rstrip('.')}") from error


def _rewritten(model: onnx.ModelProto) -> onnx.ModelProto:
    """Simplified, with all operators taken apart that have a rule: before constants are folded, and again after."""
    simple = _optimised(_all_taken_apart(model) or model)
    again = _all_taken_apart(simple)
    found = simple if again is None else _optimised(again)
    shapes = _shapes(found)
    for ours, theirs in ((found.graph.value_info, shapes.value_info), (found.graph.output, shapes.output)):
        del ours[:]
        ours.extend(theirs)
    return found


def _all_taken_apart(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Also those whose shapes are only known once others are taken apart; None where there are none."""
    found = None
    while (again := taken_apart(found or model, _shapes(found or model))) is not None:
        found = again
    return found


def _shapes(model: onnx.ModelProto) -> onnx.GraphProto:
    """The graph with the shapes that follow, without the large constants, which would be slow to copy."""
    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    graph = model.graph
    light.graph.CopyFrom(
        onnx.GraphProto(name=graph.name, node=graph.node, value_info=graph.value_info, input=graph.input, output=graph.output)
    )
    for tensor in graph.initializer:
        small = math.prod(tensor.dims) <= _SMALL
        light.graph.initializer.append(
            tensor if small else TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        )  # fmt: skip
    return onnx.shape_inference.infer_shapes(light, data_prop=True).graph


def _optimised(model: onnx.ModelProto) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory(prefix="edgeward-convert-") as work:
        target = Path(work) / "simplified.onnx"
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(target)
        options.log_severity_level = 4
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return onnx.load_model(str(target))


def _sample_axes(model: onnx.ModelProto) -> bool:
    """Whether the first axis of an input counts samples. Raises `RecipeFailed` for other free axes."""
    weights = {tensor.name for tensor in model.graph.initializer}
    found = []
    for value in model.graph.input:
        if value.name in weights:
            continue
        if not value.type.HasField("tensor_type"):
            raise RecipeFailed(f"takes the input {value.name!r}, which is no tensor")
        dims = value.type.tensor_type.shape.dim
        unknown = [axis for axis, dim in enumerate(dims) if not dim.HasField("dim_value")]
        if any(axis != 0 for axis in unknown):
            raise RecipeFailed(
                f"has the input {value.name!r} with a free axis {max(unknown)}; TFLite needs fixed sizes on all but the first. "
                "Export the model with that size fixed, or fix it by python -m onnxruntime.tools.make_dynamic_shape_fixed"
            )
        found.append(bool(unknown))
    return any(found)


def _prepared(first: onnx.ModelProto, second: onnx.ModelProto) -> Prepared:
    graph = first.graph
    nodes = tuple(_node(node) for node in graph.node)
    if [(node.op, node.outputs) for node in nodes] != [(node.op_type, tuple(node.output)) for node in second.graph.node]:
        raise RecipeFailed("computes otherwise for another number of samples. Export it with a fixed number of samples")
    constants, others = _constants(graph), _constants(second.graph)
    varying = {name for name, values in constants.items() if not _same(values, others.get(name))}
    axes = {name: _repeated_axis(constants[name], others.get(name)) for name in varying}
    repeated = {name: axis for name, axis in axes.items() if axis is not None}
    constants |= {
        name: np.take(constants[name], range(constants[name].shape[axis] // _COUNTS[0]), axis)
        for name, axis in repeated.items()
    }
    here, there = _types(first), _types(second)
    makers = {name: node for node in nodes for name in node.outputs}
    shapes = {name: _shape(name, sizes, there.get(name, ((), None))[0], makers) for name, (sizes, _) in here.items()}
    shapes |= {name: _constant_shape(values, repeated.get(name)) for name, values in constants.items()}
    dtypes = {name: dtype for name, (_, dtype) in here.items()} | {name: values.dtype for name, values in constants.items()}
    return Prepared(
        nodes=nodes,
        inputs=tuple(value.name for value in graph.input if value.name not in constants),
        outputs=tuple(value.name for value in graph.output),
        constants=constants,
        varying=frozenset(varying - set(repeated)),
        shapes=shapes,
        dtypes=dtypes,
        opset=max((entry.version for entry in first.opset_import if entry.domain in ("", "ai.onnx")), default=0),
    )


def _node(node: onnx.NodeProto) -> Node:
    return Node(
        op=node.op_type,
        name=node.name,
        inputs=tuple(node.input),
        outputs=tuple(node.output),
        attributes={each.name: _attribute(each) for each in node.attribute},
        domain="" if node.domain == "ai.onnx" else node.domain,
    )


def _attribute(attribute: onnx.AttributeProto) -> Any:  # noqa: ANN401  # as many types as ONNX has
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else value


def _constants(graph: onnx.GraphProto) -> dict[str, Array]:
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            found[node.output[0]] = _constant(node)
    return found


def _constant(node: onnx.NodeProto) -> Array:
    for attribute in node.attribute:
        value = _attribute(attribute)
        if attribute.name in ("value_float", "value_floats"):
            return np.asarray(value, np.float32)
        return np.asarray(value)
    raise RecipeFailed(f"has the Constant {node.name!r} without a value")


def _same(values: Array, other: Array | None) -> bool:
    if other is None or values.shape != other.shape:
        return False
    return bool(np.array_equal(values, other, equal_nan=values.dtype.kind == "f"))


def _repeated_axis(values: Array, other: Array | None) -> int | None:
    """Along which axis the constant is the same for each sample: a class token that was expanded, or a mask, block by block."""
    if other is None or values.ndim != other.ndim:
        return None
    for axis in range(values.ndim):
        size = values.shape[axis] // _COUNTS[0]
        sizes = [(*values.shape[:axis], size * count, *values.shape[axis + 1 :]) for count in _COUNTS]
        if not size or [values.shape, other.shape] != sizes:
            continue
        one = np.take(values, range(size), axis)
        if all(_same(each, np.concatenate([one] * count, axis)) for each, count in zip((values, other), _COUNTS, strict=True)):
            return axis
    return None


def _constant_shape(values: Array, free_axis: int | None) -> Shape:
    return Shape(values.shape, tuple(axis == free_axis for axis in range(values.ndim)))


_Type = tuple[tuple[int, ...] | None, np.dtype[Any]]


def _types(model: onnx.ModelProto) -> dict[str, _Type]:
    return dict(_each_type(model.graph))


def _each_type(graph: onnx.GraphProto) -> Iterator[tuple[str, _Type]]:
    for value in (*graph.input, *graph.value_info, *graph.output):
        if not value.type.HasField("tensor_type"):
            continue
        tensor = value.type.tensor_type
        if tensor.elem_type == TensorProto.UNDEFINED:
            continue
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        known = tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim)
        yield value.name, (tuple(dim.dim_value for dim in tensor.shape.dim) if known else None, dtype)


def _shape(name: str, sizes: tuple[int, ...] | None, others: tuple[int, ...] | None, makers: Mapping[str, Node]) -> Shape:
    """The shape for one sample, from those for two and three."""
    if sizes is None or others is None or len(sizes) != len(others):
        node = makers.get(name)
        raise RecipeFailed(
            f"gives {name!r} a shape that depends on the data{f' ({node.describe()})' if node else ''}; TFLite variants need "
            "fixed sizes. Export the model up to there (a detector without its NonMaxSuppression), and do the rest outside"
        )
    kept, free = [], []
    for size, other in zip(sizes, others, strict=True):
        if size != other and (size % _COUNTS[0] or size // _COUNTS[0] * _COUNTS[1] != other):
            raise RecipeFailed(f"gives {name!r} a size that grows other than with the number of samples ({size}, then {other})")
        kept.append(size if size == other else size // _COUNTS[0])
        free.append(size != other)
    return Shape(tuple(kept), tuple(free))
