"""What a file says needlessly goes; what it must say stays; every answer is the same to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from converters.graphs.terse import strip_defaults, strip_zero_points
from converters.graphs.weights import halve_rest, quantize_weights
from converters.quantizing.quantize import Quantizer
from converters.recipe import StaticRecipe, WeightsRecipe
from converters.sources import Source
from fleet_protocol.digests import digest_of
from tests.conformance.test_onnx_backend_nodes import cases_of
from tests.support.conv_models import graph_of, images, separable, separable_tensors

WINDOW = {"strides": [1, 1], "dilations": [1, 1], "pads": [0, 0, 0, 0], "group": 1, "kernel_shape": [3, 3]}


def told(model: onnx.ModelProto) -> list[set[str]]:
    return [{attribute.name for attribute in node.attribute} for node in model.graph.node]


def conv(**attributes: Any) -> onnx.ModelProto:
    weights = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    return graph_of([helper.make_node("Conv", ["x", "w"], ["y"], **attributes)], {"w": weights}, x=["n", 3, 8, 8], y=[])


def test_what_a_window_does_anyway_is_not_said() -> None:
    model = conv(**WINDOW, auto_pad="NOTSET")
    strip_defaults(model)
    assert told(model) == [{"kernel_shape"}]


def test_what_differs_is_said() -> None:
    given = WINDOW | {"strides": [1, 2], "dilations": [2, 1], "pads": [0, 0, 0, 1]}
    model = conv(**given)
    strip_defaults(model)
    assert told(model) == [{"strides", "dilations", "pads", "kernel_shape"}]


def test_an_operator_of_another_domain_keeps_what_it_says() -> None:
    model = conv(**WINDOW)
    model.graph.node[0].domain = "com.example"
    strip_defaults(model)
    assert told(model) == [set(WINDOW)]


def test_a_default_is_that_of_the_models_opset() -> None:
    """Softmax's axis was 1 before opset 13, and is the last one since."""
    for opset, default in ((11, 1), (13, -1)):
        for axis in (1, -1):
            nodes = [helper.make_node("Softmax", ["x"], ["y"], axis=axis)]
            model = graph_of(nodes, {}, x=["n", 4, 2], y=["n", 4, 2])
            model.opset_import[0].version = opset
            strip_defaults(model)
            assert told(model) == [set() if axis == default else {"axis"}]


@pytest.mark.parametrize("file", ["conv", "maxpool", "averagepool", "argmax", "resize", "layernormalization", "reducemean"])
def test_onnx_own_cases_answer_the_same_bits(file: str) -> None:
    shorter = 0
    for case in cases_of(file):
        brief = onnx.ModelProto()
        brief.CopyFrom(case.model)
        strip_defaults(brief)
        if brief != case.model and case.data_sets:
            shorter += 1
            one, other = (answers(each.SerializeToString(), case.data_sets[0][0]) for each in (case.model, brief))
            assert all(np.array_equal(*pair) for pair in zip(one, other, strict=True)), case.name
    assert shorter


def answers(content: bytes, inputs: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    engine = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in engine.get_inputs()]
    return list(engine.run(None, dict(zip(names, inputs, strict=True))))


def quantizer() -> Quantizer:
    source = Source(path=Path("m.onnx"), model=separable(separable_tensors()), digest=digest_of(b"m"))
    return Quantizer(source, batches=lambda: [{"x": images(32)}])


def test_biases_of_integer_layers_have_no_zero_points_and_weights_do() -> None:
    graph = onnx.load_from_string(quantizer().apply(StaticRecipe())).graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    unpacked = [node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in tensors]
    counts = {(tensors[node.input[0]].data_type, len(node.input)) for node in unpacked}
    assert counts == {(onnx.TensorProto.INT32, 2), (onnx.TensorProto.INT8, 3)}
    assert set(tensors) == {name for node in graph.node for name in node.input if name in tensors}


def test_a_zero_point_that_shifts_stays() -> None:
    tensors = {"b": np.arange(4, dtype=np.int32), "s": np.float32(0.5), "z": np.int32(3)}
    nodes = [helper.make_node("DequantizeLinear", ["b", "s", "z"], ["c"]), helper.make_node("Add", ["x", "c"], ["y"])]
    model = graph_of(nodes, tensors, x=["n", 4], y=["n", 4])
    strip_zero_points(model)
    assert list(model.graph.node[0].input) == ["b", "s", "z"]


def test_weights_are_packed_only_where_that_takes_less_room() -> None:
    """Each output's scale takes four bytes: one weight an output is smaller as it is."""
    tensors = {"many": np.ones((64, 64), np.float32), "one": np.ones((1, 256), np.float32)}
    nodes = [helper.make_node("MatMul", ["x", "many"], ["h"]), helper.make_node("Gemm", ["h", "one"], ["y"])]
    model = graph_of([nodes[0]], tensors, x=["n", 64], y=["n", 64])
    model.graph.node.append(nodes[1])
    before = model.ByteSize()
    assert quantize_weights(model, smallest=1) == 1
    assert model.ByteSize() < before - 2500
    assert {tensor.name for tensor in model.graph.initializer} == {"one", "many/int8", "many/scale"}


def test_what_layers_keep_as_float_takes_half_the_room_where_that_is_less() -> None:
    wide, narrow = np.linspace(-1, 1, 200).astype(np.float32), np.linspace(-1, 1, 8).astype(np.float32)
    tensors = {"w": np.ones((1, 200), np.float32), "b": wide, "v": np.ones((200, 8), np.float32), "c": narrow}
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["h"]), helper.make_node("Gemm", ["h", "v", "c"], ["y"])]
    model = graph_of(nodes, tensors, x=["n", 1], y=["n", 8])
    assert quantize_weights(model, smallest=256) == 1
    assert halve_rest(model) == 2
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    half, float32, int8 = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT, onnx.TensorProto.INT8
    assert types == {"w/half": half, "b/half": half, "v/int8": int8, "v/scale": float32, "c": float32}
    onnx.checker.check_model(model)


def test_a_constant_that_no_layer_reads_stays_as_it_is() -> None:
    model = graph_of([helper.make_node("Add", ["x", "c"], ["y"])], {"c": np.ones(400, np.float32)}, x=["n", 400], y=[])
    assert halve_rest(model) == 0


def test_a_bias_beyond_16_bits_stays() -> None:
    tensors = {"w": np.ones((4, 200), np.float32), "b": np.full(200, 1e6, np.float32)}
    model = graph_of([helper.make_node("Gemm", ["x", "w", "b"], ["y"])], tensors, x=["n", 4], y=["n", 200])
    assert halve_rest(model) == 1
    assert {tensor.name for tensor in model.graph.initializer} == {"w/half", "b"}


def test_a_variant_says_nothing_that_is_meant_anyway() -> None:
    for recipe in (StaticRecipe(), WeightsRecipe()):
        model = onnx.load_from_string(quantizer().apply(recipe))
        brief = onnx.load_from_string(model.SerializeToString())
        strip_defaults(brief)
        strip_zero_points(brief)
        assert brief == model
        assert all(numpy_helper.to_array(tensor).size for tensor in model.graph.initializer)
