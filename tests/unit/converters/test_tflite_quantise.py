"""int8 from a float TFLite file: true ranges, what stays float, integer inputs, free axes, the same bytes, little left over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from onnx import TensorProto, helper, numpy_helper

from converters.errors import RecipeFailed
from converters.recipe import TFLITE, TfliteRecipe
from converters.tflite import emit, prepare
from converters.tflite.calibrate import ranges
from converters.tflite.quantise import quantise, slim
from converters.tflite.variants import TfliteMaker
from runtime import parity
from tests.support.conv_models import graph_of
from tests.support.tflite_cases import SAMPLES, Array, run_onnx, run_tflite

INTEGER = TfliteRecipe("integer", "int8-static", "static", integer_io=True)


def classifier() -> onnx.ModelProto:
    """A small net of a convolution, a pooled image, a matrix and a softmax."""
    chance = np.random.default_rng(5)
    constants = {
        "w": chance.normal(size=(16, 3, 3, 3)), "b": chance.normal(size=16), "m": chance.normal(size=(256, 8)) / 8,
        "n": np.zeros(8),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("AveragePool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "m", "n"], ["g"]),
        helper.make_node("Softmax", ["g"], ["y"], axis=-1),
    ]
    made = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [SAMPLES, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [SAMPLES, 8])],
        [numpy_helper.from_array(values.astype(np.float32), name) for name, values in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def batches() -> Iterator[dict[str, Array]]:
    for seed in range(3):
        yield {"x": np.random.default_rng(seed).uniform(-1, 1, (8, 3, 8, 8)).astype(np.float32)}


@pytest.fixture(scope="module")
def maker() -> TfliteMaker:
    return TfliteMaker(classifier(), batches=batches)


def details(content: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    runner = Interpreter(model_content=content).get_signature_runner()
    return runner.get_input_details()["x"], runner.get_output_details()["y"]


def operations(content: bytes) -> list[str]:
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    return [names[model.operatorCodes[operator.opcodeIndex].builtinCode] for operator in model.subgraphs[0].operators]


@pytest.mark.parametrize(
    ("recipe", "least"), [*zip(TFLITE, (100, 30, 30, 35), strict=True)], ids=lambda each: getattr(each, "name", "")
)
def test_every_recipe_answers_nearly_as_onnx(maker: TfliteMaker, recipe: TfliteRecipe, least: float) -> None:
    inputs = {"x": np.random.default_rng(9).uniform(-1, 1, (16, 3, 8, 8)).astype(np.float32)}
    content = maker.apply(recipe)
    wanted, got = run_onnx(classifier(), inputs)["y"], run_tflite(content, inputs)["y"]
    assert parity.sqnr_db(wanted, got) > least
    assert content == TfliteMaker(classifier(), batches=batches).apply(recipe)


def test_quantized_files_are_a_third_of_float(maker: TfliteMaker) -> None:
    sizes = {recipe.name: len(maker.apply(recipe)) for recipe in TFLITE}
    whole = sizes.pop("tflite-float32")
    assert all(size < 0.6 * whole for size in sizes.values()), sizes


def test_inputs_outputs_and_softmax_stay_float_and_the_batch_free(maker: TfliteMaker) -> None:
    content = maker.apply(TFLITE[1])
    given, wanted = details(content)
    assert given["dtype"] is wanted["dtype"] is np.float32
    assert given["shape_signature"].tolist() == [-1, 3, 8, 8]
    assert wanted["shape_signature"].tolist() == [-1, 8]
    assert operations(content)[-2:] == ["DEQUANTIZE", "SOFTMAX"]


def test_the_batch_stays_free_where_the_quantizer_makes_the_output_anew() -> None:
    model = classifier()
    del model.graph.node[-1]
    model.graph.output[0].name = "g"
    content = TfliteMaker(model, batches=batches).apply(TFLITE[1])
    assert operations(content)[-1] == "DEQUANTIZE"
    wanted = Interpreter(model_content=content).get_signature_runner().get_output_details()["g"]
    assert wanted["shape_signature"].tolist() == [-1, 8]


def test_integer_inputs_and_outputs_leave_no_float_operation(maker: TfliteMaker) -> None:
    content = maker.apply(INTEGER)
    given, wanted = details(content)
    assert given["dtype"] is wanted["dtype"] is np.int8
    assert wanted["shape_signature"].tolist() == [-1, 8]
    assert not {"QUANTIZE", "DEQUANTIZE"} & set(operations(content))
    scale, zero = given["quantization"]
    inputs = next(batches())["x"]
    answer = run_tflite(content, {"x": np.clip(np.rint(inputs / scale) + zero, -128, 127).astype(np.int8)})["y"]
    expected = run_onnx(classifier(), {"x": inputs})["y"]
    assert (answer.argmax(axis=1) == expected.argmax(axis=1)).mean() >= 7 / 8


def test_ranges_are_the_true_extremes_of_all_batches() -> None:
    content = emit(prepare(classifier()))
    measured = ranges(content, batches())
    every = np.concatenate([batch["x"] for batch in batches()])
    assert measured["x"] == (float(every.min()), float(every.max()))
    interpreter = Interpreter(
        model_content=content, experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        experimental_preserve_all_tensors=True,
    )  # fmt: skip
    interpreter.get_signature_runner()(x=every)
    for each in interpreter.get_tensor_details():
        if each["dtype"] is np.float32 and each["name"] in ("r", "p", "g", "y"):
            values = interpreter.get_tensor(each["index"])
            assert measured[each["name"]] == pytest.approx((values.min(), values.max()), rel=1e-4, abs=1e-6)


def test_values_beyond_any_signal_do_not_widen_ranges() -> None:
    content = emit(prepare(classifier()))
    extreme = next(batches())["x"].copy()
    extreme[0, 0, 0, 0] = 3.3e38
    low, high = ranges(content, [{"x": extreme}])["x"]
    assert -1 <= low < high <= 1


def test_a_model_without_layers_changes_nothing_by_weights_alone() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    value = helper.make_tensor_value_info
    made = helper.make_graph(nodes, "g", [value("x", 1, [SAMPLES, 4])], [value("y", 1, [SAMPLES, 4])])
    content = emit(prepare(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)))
    with pytest.raises(RecipeFailed, match="changes nothing"):
        quantise(content, "weights")


def test_constant_activations_and_zero_weights_are_no_trouble() -> None:
    model = classifier()
    for tensor in model.graph.initializer:
        if tensor.name == "w":
            weights = numpy_helper.to_array(tensor).copy()
            weights[3:] = 0
            tensor.CopyFrom(numpy_helper.from_array(weights, "w"))
    content = TfliteMaker(model, batches=batches).apply(INTEGER)
    assert len(content) < len(emit(prepare(model)))
    fixed = TfliteMaker(model, batches=lambda: iter([{"x": np.zeros((1, 3, 8, 8), np.float32)}])).apply(TFLITE[1])
    wanted = run_onnx(model, {"x": np.zeros((2, 3, 8, 8), np.float32)})["y"]
    np.testing.assert_allclose(run_tflite(fixed, {"x": np.zeros((2, 3, 8, 8), np.float32)})["y"], wanted, atol=0.02)


@pytest.mark.parametrize("size", [1e-5, 1e-8, 1e-20, 0.0])
def test_channels_whose_weights_are_next_to_nothing_answer_their_bias(size: float) -> None:
    weights = np.random.default_rng(1).normal(size=(6, 4)).astype(np.float32)
    weights[:, :2] *= np.float32(size)
    bias = np.array([1000.0, -3.0, 0.5, 0.25], np.float32)
    made = small([helper.make_node("Gemm", ["x", "w", "b"], ["y"])], {"w": weights, "b": bias})
    inputs = {"x": np.random.default_rng(2).normal(size=(64, 6)).astype(np.float32)}
    answer = run_tflite(TfliteMaker(made, batches=lambda: iter([inputs])).apply(recipe_called("tflite-int8")), inputs)["y"]
    np.testing.assert_allclose(answer, run_onnx(made, inputs)["y"], atol=1000 / 100)  # the largest sets the scale of all


def test_a_raised_weight_does_not_leave_the_float_weights_in_the_file() -> None:
    """They would make a model with dead channels three times as large in 8 bits."""
    weights = np.random.default_rng(0).normal(size=(64, 128)).astype(np.float32)
    weights[:, 5] = 1e-20
    bias = np.zeros(128, np.float32)
    bias[5] = 3.0
    model = graph_of([helper.make_node("Gemm", ["x", "w", "b"], ["y"])], {"w": weights, "b": bias}, x=["n", 64], y=["n", 128])
    made = TfliteMaker(model, batches=lambda: [{"x": np.random.default_rng(1).normal(size=(16, 64)).astype(np.float32)}])
    content = made.apply(recipe_called("tflite-int8"))
    assert len(content) < weights.nbytes / 2


def test_a_softmax_that_was_taken_apart_divides_by_nothing_in_8_bits() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["logits"]),
        helper.make_node("Exp", ["logits"], ["raised"]),
        helper.make_node("ReduceSum", ["raised", "last"], ["total"], keepdims=1),
        helper.make_node("Div", ["raised", "total"], ["y"]),
    ]
    weights = np.random.default_rng(1).normal(0, 3, size=(6, 4)).astype(np.float32)
    made = small(nodes, {"w": weights, "last": np.array([-1], np.int64)})
    inputs = {"x": np.random.default_rng(2).normal(0, 2, size=(64, 6)).astype(np.float32)}
    content = TfliteMaker(made, batches=lambda: iter([inputs])).apply(recipe_called("tflite-int8"))
    np.testing.assert_allclose(run_tflite(content, inputs)["y"], run_onnx(made, inputs)["y"], atol=0.25)


@pytest.mark.parametrize("fill", [-1e4, -1e9, float(np.finfo(np.float32).min), -np.inf])
def test_what_is_masked_out_stays_out_in_8_bits(fill: float) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["logits"]),
        helper.make_node("Tanh", ["logits"], ["scores"]),
        helper.make_node("Add", ["scores", "mask"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["y"]),
    ]
    weights = np.random.default_rng(1).normal(size=(6, 4)).astype(np.float32)
    made = small(nodes, {"w": weights, "mask": np.array([0, 0, fill, 0], np.float32)})
    inputs = {"x": np.random.default_rng(2).normal(size=(64, 6)).astype(np.float32)}
    answer = run_tflite(TfliteMaker(made, batches=lambda: iter([inputs])).apply(recipe_called("tflite-int8")), inputs)["y"]
    assert parity.sqnr_db(run_onnx(made, inputs)["y"], answer) > 25
    assert not answer[:, 2].any()


def test_an_output_that_others_read_is_float_in_8_bits_too() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node("MatMul", ["z", "v"], ["y"])]
    chance = np.random.default_rng(1)
    weights = {name: chance.normal(size=(rows, 4)).astype(np.float32) for name, rows in (("w", 6), ("v", 4))}
    made = small(nodes, weights)
    made.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [SAMPLES, 4]))
    inputs = {"x": chance.normal(size=(64, 6)).astype(np.float32)}
    answer = run_tflite(TfliteMaker(made, batches=lambda: iter([inputs])).apply(recipe_called("tflite-int8")), inputs)
    for name, wanted in run_onnx(made, inputs).items():
        assert parity.sqnr_db(wanted, answer[name]) > 25


def test_a_division_by_what_8_bits_take_for_nothing_stays_float() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["z"]),
        helper.make_node("Abs", ["z"], ["size"]),
        helper.make_node("Add", ["size", "least"], ["divisor"]),
        helper.make_node("Div", ["z", "divisor"], ["y"]),
    ]
    weights = np.random.default_rng(1).normal(0, 3, size=(6, 4)).astype(np.float32)
    made = small(nodes, {"w": weights, "least": np.array(1e-6, np.float32)})
    inputs = {"x": np.random.default_rng(2).normal(0, 2, size=(64, 6)).astype(np.float32)}
    content = TfliteMaker(made, batches=lambda: iter([inputs])).apply(recipe_called("tflite-int8"))
    assert np.isfinite(run_tflite(content, inputs)["y"]).mean() > 0.9


def small(nodes: list[onnx.NodeProto], constants: dict[str, Array]) -> onnx.ModelProto:
    """A model of x[samples, 6] that answers y[samples, 4]."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [SAMPLES, size]) for name, size in (("x", 6), ("y", 4))]
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    made = helper.make_graph(nodes, "small", values[:1], values[1:], stored)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def recipe_called(name: str) -> TfliteRecipe:
    return next(each for each in TFLITE if each.name == name)


def test_a_damaged_file_is_one_clear_error() -> None:
    with pytest.raises(RecipeFailed, match="cannot be quantized by ai-edge-quantizer"):
        quantise(b"\x20\x00\x00\x00TFL3" + b"\xff" * 64, "weights")


def test_slim_keeps_names_outside_and_drops_those_inside(maker: TfliteMaker) -> None:
    content = emit(prepare(classifier()))
    small = slim(content)
    assert len(small) < len(content)
    names = [tensor.name for tensor in schema.ModelT.InitFromPackedBuf(small, 0).subgraphs[0].tensors]
    assert sorted(name for name in names if name) == [b"x", b"y"]
    inputs = next(batches())
    np.testing.assert_array_equal(run_tflite(small, inputs)["y"], run_tflite(content, inputs)["y"])


def test_constants_that_the_quantizer_appends_behind_a_larger_file_are_taken_in() -> None:
    weights = np.random.default_rng(0).normal(size=(3, 512, 512)).astype(np.float32) / 20
    nodes = [helper.make_node("MatMul", [f"v{at}", f"w{at}"], [f"v{at + 1}"]) for at in range(3)]
    made = helper.make_graph(
        nodes,
        "wide",
        [helper.make_tensor_value_info("v0", TensorProto.FLOAT, ["N", 512])],
        [helper.make_tensor_value_info("v3", TensorProto.FLOAT, ["N", 512])],
        [numpy_helper.from_array(values, f"w{at}") for at, values in enumerate(weights)],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    inputs = {"v0": np.random.default_rng(1).uniform(-1, 1, (16, 512)).astype(np.float32)}
    maker = TfliteMaker(model, batches=lambda: iter([inputs]))
    for recipe in TFLITE[1:]:
        content = maker.apply(recipe)
        assert len(content) > weights.size
        assert parity.sqnr_db(run_onnx(model, inputs)["v3"], run_tflite(content, inputs)["v3"]) > 25
