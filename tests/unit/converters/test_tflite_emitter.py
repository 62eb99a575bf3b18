"""What the emitter makes of whole graphs: few transpositions, few operations, ONNX's names, free batches, clear refusals."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from onnx import TensorProto, helper, numpy_helper

from converters.errors import RecipeFailed, UnsupportedOperator
from converters.tflite import emit, prepare
from converters.tflite.emitter import build
from tests.support.tflite_cases import SAMPLES, Array, Case, Dims, assert_agree, graph, run_tflite

N = SAMPLES


def numbers(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).uniform(-1, 1, shape).astype(np.float32)


def model(
    nodes: list[onnx.NodeProto],
    constants: dict[str, Any],
    *,
    x: Dims = (N, 3, 8, 8),
    y: Dims | None = (N, 4),
    outputs: tuple[str, ...] = ("y",),
    dtype: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    made = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", dtype, list(x))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None if y is None else list(y)) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), name=f"{op.lower()}-{outputs}", **attributes)


def kinds(made: onnx.ModelProto) -> Counter[str]:
    return Counter(operation.kind for operation in build(prepare(made)).operations)


def convolutional() -> onnx.ModelProto:
    """Convolution, batch normalisation, ReLU, a residual, pooling, a flattened image, a matrix, softmax."""
    nodes = [
        node("Conv", "x w1", "c1", pads=[1, 1, 1, 1]),
        node("BatchNormalization", "c1 scale shift mean variance", "n1"),
        node("Relu", "n1", "r1"),
        node("Conv", "r1 w2", "c2", pads=[1, 1, 1, 1], group=4),
        node("Add", "c2 r1", "sum"),
        node("Clip", "sum zero six", "r2"),
        node("MaxPool", "r2", "p", kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", "p", "f"),
        node("Gemm", "f w3 b3", "g"),
        node("Softmax", "g", "y", axis=-1),
    ]
    constants = {
        "w1": numbers(4, 3, 3, 3), "scale": numbers(4), "shift": numbers(4), "mean": numbers(4), "variance": numbers(4) + 2,
        "w2": numbers(4, 1, 3, 3), "zero": np.float32(0), "six": np.float32(6), "w3": numbers(64, 4), "b3": numbers(4),
    }  # fmt: skip
    return model(nodes, constants)


def test_a_convolutional_net_is_transposed_at_its_edge_only() -> None:
    found = kinds(convolutional())
    assert found == Counter(
        TRANSPOSE=1, CONV_2D=1, DEPTHWISE_CONV_2D=1, ADD=1, MAX_POOL_2D=1, RESHAPE=1, FULLY_CONNECTED=1, SOFTMAX=1
    )
    assert_agree(convolutional())


def test_channels_last_inputs_are_not_transposed_at_all() -> None:
    nodes = [
        node("Transpose", "x", "t", perm=[0, 3, 1, 2]),
        node("Conv", "t w", "c"),
        node("Transpose", "c", "y", perm=[0, 2, 3, 1]),
    ]
    made = model(nodes, {"w": numbers(4, 3, 3, 3)}, x=(N, 8, 8, 3), y=(N, 6, 6, 4))
    assert kinds(made) == Counter(CONV_2D=1)
    assert_agree(made)


def test_one_dimensional_convolutions_stay_images_of_one_row() -> None:
    nodes = [node("Conv", "x w", "a"), node("Relu", "a", "b"), node("Conv", "b v", "y")]
    made = model(nodes, {"w": numbers(4, 3, 3), "v": numbers(2, 4, 1)}, x=(N, 3, 9), y=(N, 2, 7))
    assert kinds(made)["CONV_2D"] == 2
    assert kinds(made)["TRANSPOSE"] == 2
    assert_agree(made)


def test_names_types_and_free_axes_of_the_signature_are_onnx_own() -> None:
    content = emit(prepare(convolutional()))
    signature = Interpreter(model_content=content).get_signature_runner()
    given, wanted = signature.get_input_details()["x"], signature.get_output_details()["y"]
    assert given["shape_signature"].tolist() == [-1, 3, 8, 8]
    assert wanted["shape_signature"].tolist() == [-1, 4]
    assert given["dtype"] is np.float32


def test_the_same_model_gives_the_same_bytes() -> None:
    assert emit(prepare(convolutional())) == emit(prepare(convolutional()))


def test_constants_lie_on_boundaries_of_16_bytes_and_are_stored_once() -> None:
    nodes = [node("MatMul", "x w", "a"), node("MatMul", "a v", "y")]
    content = emit(prepare(model(nodes, {"w": np.eye(4, dtype=np.float32), "v": np.eye(4, dtype=np.float32)}, x=(N, 4))))
    made = schema.Model.GetRootAs(content)
    buffers = [made.Buffers(at).DataAsNumpy() for at in range(1, made.BuffersLength())]
    start = np.frombuffer(content, np.uint8).__array_interface__["data"][0]
    assert len({buffer.tobytes() for buffer in buffers}) == len(buffers) == 2
    assert [(buffer.__array_interface__["data"][0] - start) % 16 for buffer in buffers] == [0, 0]


def test_a_fixed_batch_stays_fixed() -> None:
    content = assert_agree(graph(Case("Relu", [(2, 3)])))
    details = Interpreter(model_content=content).get_signature_runner().get_input_details()["in0"]
    assert details["shape_signature"].tolist() == [2, 3]


def test_an_input_that_is_an_output_and_outputs_that_are_one_tensor_each_have_their_name() -> None:
    nodes = [node("Identity", "x", "y"), node("Relu", "x", "z"), node("Identity", "z", "again")]
    made = model(nodes, {}, x=(N, 4), outputs=("y", "z", "again"))
    answers = run_tflite(emit(prepare(made)), {"x": np.array([[-1, 2, -3, 4]], np.float32)})
    assert answers["y"].tolist() == [[-1, 2, -3, 4]]
    assert answers["z"].tolist() == answers["again"].tolist() == [[0, 2, 0, 4]]


def test_exported_gelu_becomes_one_operation_in_every_order_of_its_factors() -> None:
    start = [node("Div", "x root", "d"), node("Erf", "d", "e"), node("Add", "e one", "a")]
    orders = [
        [node("Mul", "x a", "m"), node("Mul", "m half", "y")],
        [node("Mul", "a half", "m"), node("Mul", "x m", "y")],
        [node("Mul", "half x", "m"), node("Mul", "m a", "y")],
    ]
    constants = {"root": np.float32(math.sqrt(2)), "one": np.float32(1), "half": np.float32(0.5)}
    for order in orders:
        made = model([*start, *order] if order is not orders[2] else [*order[:1], *start, order[1]], constants, x=(N, 4))
        assert kinds(made) == Counter(GELU=1)
        assert_agree(made)


def test_what_only_looks_like_gelu_is_not_taken_for_it() -> None:
    nodes = [node("Div", "x root", "d"), node("Erf", "d", "e"), node("Add", "e one", "a"), node("Mul", "x a", "y")]
    made = model(nodes, {"root": np.float32(math.sqrt(2)), "one": np.float32(1)}, x=(N, 4))
    assert "GELU" not in kinds(made)
    assert_agree(made)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("keep", [0, 1])
def test_a_softmax_that_was_taken_apart_becomes_one_operation(shifted: bool, inverse: bool, keep: int) -> None:
    def total(op: str, source: str, result: str) -> list[onnx.NodeProto]:
        more = {"axes": [1]} if op == "ReduceMax" else {}
        first = node(op, source if more else f"{source} one", f"{result}.sum", keepdims=keep, **more)
        return [first, node("Identity" if keep else "Unsqueeze", f"{result}.sum" if keep else f"{result}.sum one", result)]

    nodes = [*total("ReduceMax", "x", "m"), node("Sub", "x m", "d")] if shifted else [node("Identity", "x", "d")]
    nodes += [node("Exp", "d", "e"), *total("ReduceSum", "e", "s")]
    nodes += [node("Reciprocal", "s", "r"), node("Mul", "e r", "y")] if inverse else [node("Div", "e s", "y")]
    made = model(nodes, {"one": np.array([1], np.int64)}, x=(N, 4, 5))
    assert kinds(made)["SOFTMAX"] == 1
    assert not {"EXP", "SUM", "REDUCE_MAX", "DIV"} & set(kinds(made))
    assert_agree(made)


def test_what_only_looks_like_softmax_is_not_taken_for_it() -> None:
    nodes = [node("Exp", "x", "e"), node("Exp", "e", "f"), node("ReduceSum", "f one", "s", keepdims=1), node("Div", "e s", "y")]
    made = model(nodes, {"one": np.array([1], np.int64)}, x=(N, 4, 5))
    assert "SOFTMAX" not in kinds(made)
    assert_agree(made, low=-1, high=1)


def test_a_hard_swish_that_was_taken_apart_becomes_one_operation() -> None:
    nodes = [node("HardSigmoid", "x", "h", alpha=1 / 6, beta=0.5), node("Mul", "x h", "y")]
    made = model(nodes, {}, x=(N, 4))
    assert kinds(made) == Counter(HARD_SWISH=1)
    assert_agree(made, low=-5, high=5)


def test_a_constant_that_is_repeated_for_each_sample_grows_with_the_batch() -> None:
    nodes = [
        node("Shape", "x", "s"), node("Gather", "s zero", "n"), node("Concat", "n rest", "wanted", axis=0),
        node("Expand", "token", "tokens"), node("Concat", "tokens x", "y", axis=1),
    ]  # fmt: skip
    nodes[3].input.append("wanted")
    constants = {"zero": np.array([0]), "rest": np.array([1, 4]), "token": numbers(1, 1, 4)}
    made = model(nodes, constants, x=(N, 3, 4), y=(N, 4, 4))
    assert_agree(made)
    assert "BROADCAST_TO" not in kinds(made)


def test_an_input_that_is_repeated_for_each_sample_grows_with_the_batch() -> None:
    nodes = [
        node("Shape", "x", "s"), node("Gather", "s zero", "n"), node("Concat", "n rest", "wanted", axis=0),
        node("Expand", "one wanted", "many"), node("Concat", "many x", "y", axis=1),
    ]  # fmt: skip
    made = model(nodes, {"zero": np.array([0]), "rest": np.array([2, 4])}, x=(N, 3, 4), y=(N, 5, 4))
    made.graph.input.append(helper.make_tensor_value_info("one", TensorProto.FLOAT, [1, 1, 4]))
    assert_agree(made)
    assert not {"BROADCAST_TO", "SHAPE"} & set(kinds(made))


def test_a_border_around_a_maximum_is_zero_where_nothing_is_negative_and_mirrored_elsewhere() -> None:
    pool = node("MaxPool", "t", "y", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    for before, wanted in (("Relu", "PAD"), ("Tanh", "MIRROR_PAD")):
        made = model([node(before, "x", "t"), pool], {}, x=(N, 3, 8, 8), y=(N, 3, 4, 4))
        assert {"PAD", "PADV2", "MIRROR_PAD"} & set(kinds(made)) == {wanted}
        assert_agree(made)


@pytest.mark.parametrize(
    ("op", "attributes", "why"),
    [
        ("Conv", {"auto_pad": "SAME_UPPER"}, "3 spatial axes"),
        ("MaxPool", {"kernel_shape": [2, 2], "dilations": [2, 2], "auto_pad": "SAME_UPPER"}, "dilated pooling"),
    ],
)
def test_a_form_that_is_lacking_is_named_with_its_node(op: str, attributes: dict[str, Any], why: str) -> None:
    constants = {"w": numbers(4, 3, 2, 2, 2)} if op == "Conv" else {}
    nodes = [node(op, "x w" if constants else "x", "y", **attributes)]
    made = model(nodes, constants, x=(N, 3, 5, 5, 5) if constants else (N, 3, 5, 5), y=None)
    with pytest.raises(UnsupportedOperator, match=f"{op} '{op.lower()}-y'.*{why}"):
        emit(prepare(made))


def test_an_image_whose_proportions_are_kept_is_not_interpolated_by_another_scale() -> None:
    kept = node("Resize", "x nothing nothing sizes", "y", mode="linear", keep_aspect_ratio_policy="not_larger")
    constants = {"nothing": numbers(0), "sizes": np.array([1, 2, 7, 7], np.int64)}
    made = model([kept], constants, x=(1, 2, 3, 5), y=(1, 2, 4, 7))
    made.opset_import[0].version = 18
    with pytest.raises(UnsupportedOperator, match="with keep_aspect_ratio_policy only the mode nearest has a form"):
        emit(prepare(made))


def test_a_result_as_long_as_the_data_say_is_refused_with_its_node() -> None:
    made = model([node("NonZero", "x", "places"), node("Cast", "places", "y", to=1)], {}, x=(3, 4), y=(2, "found"))
    with pytest.raises(RecipeFailed, match=r"gives 'places' a shape that depends on the data \(NonZero 'nonzero-places'\)"):
        emit(prepare(made))


def test_all_lacking_operators_are_named_at_once() -> None:
    draw, other = "RandomNormalLike", "RandomUniformLike"
    nodes = [node(draw, "x", "a"), node(other, "a", "b"), node(draw, "b", "y")]
    named = rf"no form for {draw} '{draw.lower()}-a', {other} '{other.lower()}-b'\. Use operators of docs/tflite.md"
    with pytest.raises(UnsupportedOperator, match=named):
        emit(prepare(model(nodes, {}, x=(N, 4))))


def test_weights_that_are_computed_are_refused() -> None:
    nodes = [node("Conv", "x x", "y")]
    with pytest.raises(UnsupportedOperator, match="weights 'x' are computed at run time"):
        emit(prepare(model(nodes, {}, x=(3, 3, 1, 1), y=None)))


def test_a_free_axis_other_than_the_first_is_refused() -> None:
    with pytest.raises(RecipeFailed, match=r"input 'x' with a free axis 1.*Export the model with that size fixed"):
        prepare(model([node("Relu", "x", "y")], {}, x=(N, "length"), y=(N, "length")))


def test_a_result_whose_shape_depends_on_the_data_is_refused() -> None:
    nodes = [node("NonZero", "x", "n"), node("Cast", "n", "y", to=1)]
    with pytest.raises(RecipeFailed):
        emit(prepare(model(nodes, {}, x=(N, 4), y=None)))


def test_other_precisions_are_refused_by_name() -> None:
    made = model([node("Relu", "x", "y")], {}, x=(N, 4), dtype=TensorProto.DOUBLE)
    made.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    with pytest.raises(RecipeFailed, match="float64, which TFLite does not compute with; export as float32"):
        emit(prepare(made))


def test_a_model_that_answers_with_constants_only_is_refused() -> None:
    nodes = [node("Relu", "x", "unused"), node("Identity", "w", "y")]
    with pytest.raises(RecipeFailed, match="answers with constants only"):
        emit(prepare(model(nodes, {"w": numbers(2, 4)}, x=(N, 4), y=(2, 4), outputs=("y",))))
