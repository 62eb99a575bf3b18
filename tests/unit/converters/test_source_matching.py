"""What readers do to a graph: names after the data, one order of nodes, batch normalisation folded."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from converters.errors import DataRejected
from converters.graphs.observe import observe
from converters.sources.folding import fold
from converters.sources.matching import match, rename, sort_nodes

SAMPLES = {"x": np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)}


def dense(*, order: tuple[int, ...] = (0, 1, 2, 3)) -> onnx.ModelProto:
    chance = np.random.default_rng(1)
    constants = {"w": (3, 5), "scale": (5,), "shift": (1, 5), "v": (5, 2)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Mul", ["a", "scale"], ["b"]),
        helper.make_node("Add", ["shift", "b"], ["c"]),
        helper.make_node("MatMul", ["c", "v"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(name, 1, ["batch", size]) for name, size in (("x", 3), ("y", 2))]
    weights = [numpy_helper.from_array(chance.normal(size=shape).astype(np.float32), name) for name, shape in constants.items()]
    graph = helper.make_graph([nodes[at] for at in order], "g", values[:1], values[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def answers(model: onnx.ModelProto, name: str = "y") -> np.ndarray:
    return np.asarray(next(observe(model, [name], [SAMPLES]))[name])


def test_multiplication_and_addition_go_into_the_layer_before() -> None:
    model = dense()
    before = answers(model)
    assert fold(model) == 2
    assert [node.op_type for node in model.graph.node] == ["Gemm", "MatMul"]
    np.testing.assert_allclose(answers(model), before, rtol=1e-5, atol=1e-5)


def test_a_value_that_is_asked_for_is_not_folded_away() -> None:
    model = dense()
    model.graph.output.append(helper.make_tensor_value_info("a", 1, None))
    before = answers(model, "a")
    fold(model)
    np.testing.assert_array_equal(answers(model, "a"), before)


def test_weights_that_two_layers_share_are_not_changed() -> None:
    model = dense()
    model.graph.node.append(helper.make_node("MatMul", ["x", "w"], ["z"]))
    model.graph.output.append(helper.make_tensor_value_info("z", 1, None))
    before = answers(model, "z")
    fold(model)
    np.testing.assert_array_equal(answers(model, "z"), before)


def test_nodes_and_constants_get_one_order() -> None:
    shuffled = dense(order=(0, 1, 2, 3))
    weights = list(shuffled.graph.initializer)
    del shuffled.graph.initializer[:]
    shuffled.graph.initializer.extend(reversed(weights))
    usual = dense()
    for model in (shuffled, usual):
        sort_nodes(model)
    assert shuffled.SerializeToString() == usual.SerializeToString()


def test_a_name_that_is_taken_moves_away() -> None:
    model = dense()
    before = answers(model)
    rename(model, {"x": "a", "y": "b"})
    onnx.checker.check_model(model)
    np.testing.assert_array_equal(next(observe(model, ["b"], [{"a": SAMPLES["x"]}]))["b"], before)


def test_a_single_array_feeds_a_single_input_whatever_they_are_called() -> None:
    assert match(["input_1"], SAMPLES, "The model") == {"input_1": "x"}
    with pytest.raises(DataRejected, match="takes 'a', 'b', and the data holds 'x'"):
        match(["a", "b"], SAMPLES, "The model")
