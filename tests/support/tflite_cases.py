"""Small ONNX graphs for the TFLite emitter, and the comparison of what ONNX Runtime and LiteRT answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from converters.tflite import emit, prepare

Array = NDArray[Any]
Dims = Sequence[int | str]

SAMPLES = "N"


@dataclass(frozen=True)
class Case:
    """One operator: shapes of its inputs that are computed, its constants in their places, and its attributes."""

    op: str
    shapes: Sequence[Dims] = ((SAMPLES, 3),)
    constants: Mapping[int, Array | np.generic] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    outputs: int = 1
    opset: int = 17
    dtype: type = np.float32
    low: float = -2.0
    high: float = 2.0
    name: str = ""

    def __str__(self) -> str:
        return f"{self.op}{'-' + self.name if self.name else ''}"


def graph(case: Case, *, moved: bool = False, fixed: int | None = None) -> onnx.ModelProto:
    """The case as a model; `moved`: its inputs come stored otherwise than ONNX has them (a convolution, a transposition)."""
    nodes: list[onnx.NodeProto] = []
    inputs: list[onnx.ValueInfoProto] = []
    initializers: list[onnx.TensorProto] = []
    names: list[str] = []
    count = len(case.shapes) + len(case.constants)
    shapes = iter(case.shapes)
    for index in range(count):
        name = f"in{index}"
        if index in case.constants:
            initializers.append(numpy_helper.from_array(np.asarray(case.constants[index]), name))
            names.append(name)
            continue
        dims = [fixed if dim == SAMPLES and fixed is not None else dim for dim in next(shapes)]
        if moved and case.dtype is np.float32 and len(dims) >= 3:
            nodes += _moving(name, dims, initializers, inputs)
            names.append(f"{name}.moved")
        else:
            kind = helper.np_dtype_to_tensor_dtype(np.dtype(case.dtype))
            inputs.append(helper.make_tensor_value_info(name, kind, dims))
            names.append(name)
    outputs = [f"out{index}" for index in range(case.outputs)]
    nodes.append(helper.make_node(case.op, names, outputs, name="tested", **case.attributes))
    values = [helper.make_empty_tensor_value_info(name) for name in outputs]
    made = helper.make_model(
        helper.make_graph(nodes, "case", inputs, values, initializers),
        opset_imports=[helper.make_opsetid("", case.opset)],
        ir_version=9,
    )
    inferred = onnx.shape_inference.infer_shapes(made)
    del made.graph.output[:]
    known = {value.name: value for value in (*inferred.graph.value_info, *inferred.graph.output)}
    for name in outputs:
        value = known[name]
        if value.type.WhichOneof("value") is None:  # onnx infers nothing for some functions, which have their input's shape
            value.type.CopyFrom(inputs[0].type)
        made.graph.output.append(value)
    onnx.checker.check_model(made)
    return made


def _moving(
    name: str, dims: Sequence[int | str], initializers: list[onnx.TensorProto], inputs: list[onnx.ValueInfoProto]
) -> list[onnx.NodeProto]:
    if len(dims) == 4 and isinstance(dims[1], int):
        channels = dims[1]
        weights = np.eye(channels, dtype=np.float32) + 0.1 * np.ones((channels, channels), np.float32)
        initializers.append(numpy_helper.from_array(weights[:, :, None, None], f"{name}.weights"))
        inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, dims))
        return [helper.make_node("Conv", [name, f"{name}.weights"], [f"{name}.moved"])]
    order = [0, *reversed(range(1, len(dims)))]
    inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [dims[axis] for axis in order]))
    return [helper.make_node("Transpose", [name], [f"{name}.moved"], perm=order)]


def feeds(model: onnx.ModelProto, samples: int, *, seed: int = 0, low: float = -2.0, high: float = 2.0) -> dict[str, Array]:
    """Random inputs."""
    chance = np.random.default_rng(seed)
    weights = {tensor.name for tensor in model.graph.initializer}
    found = {}
    for value in model.graph.input:
        if value.name in weights:
            continue
        kind = value.type.tensor_type
        sizes = [dim.dim_value if dim.HasField("dim_value") else samples for dim in kind.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
        if dtype == np.float32:
            found[value.name] = chance.uniform(low, high, sizes).astype(np.float32)
        elif dtype == np.bool_:
            found[value.name] = chance.integers(0, 2, sizes).astype(np.bool_)
        else:
            found[value.name] = chance.integers(int(low), int(high) + 1, sizes).astype(dtype)
    return found


def run_onnx(model: onnx.ModelProto, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """What ONNX Runtime answers."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def run_tflite(content: bytes, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """What LiteRT answers, by the names of the signature."""
    runner = Interpreter(model_content=content, num_threads=1).get_signature_runner()
    answer: dict[str, Array] = runner(**inputs)
    return answer


def assert_agree(
    model: onnx.ModelProto, *, samples: Sequence[int] = (1, 3), low: float = -2.0, high: float = 2.0, tolerance: float = 2e-5
) -> bytes:
    """The emitted model answers what ONNX does, for each number of samples; gives its bytes."""
    content = emit(prepare(model))
    for count in samples:
        inputs = feeds(model, count, seed=count, low=low, high=high)
        wanted, got = run_onnx(model, inputs), run_tflite(content, inputs)
        assert set(wanted) == set(got)
        for name, values in wanted.items():
            assert got[name].shape == values.shape, f"{name} for {count} samples"
            assert got[name].dtype == values.dtype
            scale = max(1.0, float(np.abs(values.astype(np.float64)).max(initial=0.0)))
            np.testing.assert_allclose(
                got[name], values, rtol=tolerance, atol=tolerance * scale, err_msg=f"{name}, {count} samples"
            )
    return content
