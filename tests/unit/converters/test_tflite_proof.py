"""The proof holds LiteRT against ONNX, and names the first node that differs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from converters.errors import RecipeFailed
from converters.tflite import emit, prepare
from converters.tflite.proof import prove
from tests.support.tflite_cases import SAMPLES, Array


def layers(second: float = 1.0, last: str = "Sigmoid") -> onnx.ModelProto:
    """x, three products by matrices, an activation; the second matrix times `second`."""
    chance = np.random.default_rng(0)
    weights = [chance.normal(size=(4, 4)).astype(np.float32) * (second if at == 1 else 1) for at in range(3)]
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["a"], name="first"),
        helper.make_node("Tanh", ["a"], ["b"], name="bend"),
        helper.make_node("MatMul", ["b", "w1"], ["c"], name="second"),
        helper.make_node("MatMul", ["c", "w2"], ["d"], name="third"),
        helper.make_node(last, ["d"], ["y"], name="last"),
    ]
    made = helper.make_graph(
        nodes,
        "layers",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [SAMPLES, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [SAMPLES, 4])],
        [numpy_helper.from_array(values, f"w{at}") for at, values in enumerate(weights)],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def samples(count: int = 8) -> dict[str, Array]:
    return {"x": np.random.default_rng(1).normal(size=(count, 4)).astype(np.float32)}


def test_a_model_that_answers_alike_is_proved() -> None:
    prepared = prepare(layers())
    prove(layers(), prepared, emit(prepared), samples())


def test_shares_that_are_next_to_nothing_everywhere_may_differ_by_rounding() -> None:
    nodes = [helper.make_node("Sub", ["x", "bound"], ["below"]), helper.make_node("Sigmoid", ["below"], ["y"])]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [SAMPLES, 4]) for name in ("x", "y")]
    bound = numpy_helper.from_array(np.array(40, np.float32), "bound")
    made = helper.make_graph(nodes, "blank", values[:1], values[1:], [bound])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    prepared = prepare(model)
    prove(model, prepared, emit(prepared), samples())


def test_the_first_node_that_differs_is_named() -> None:
    damaged = prepare(layers(second=1.1))
    with pytest.raises(RecipeFailed, match=r"differs from ONNX .* the first node that differs is MatMul 'second' \(\d+ dB"):
        prove(layers(), damaged, emit(damaged), samples())


def test_a_last_node_of_another_kind_is_named() -> None:
    damaged = prepare(layers(last="Tanh"))
    with pytest.raises(RecipeFailed, match="the first node that differs is Tanh 'last'"):
        prove(layers(), damaged, emit(damaged), samples())


def test_a_difference_in_the_file_alone_is_said_to_be_in_no_node() -> None:
    prepared = prepare(layers())
    with pytest.raises(RecipeFailed, match="each node alone agrees"):
        prove(layers(), prepared, emit(prepare(layers(second=2.0))), samples())


def test_nan_where_onnx_has_a_number_is_a_difference() -> None:
    prepared = prepare(layers())
    nan = prepare(layers(second=float("nan")))
    with pytest.raises(RecipeFailed, match="NaN or infinity"):
        prove(layers(), prepared, emit(nan), samples())
