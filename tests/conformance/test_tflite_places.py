"""Gathering and scattering by places that are computed, or that count the samples, held against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests.support.tflite_cases import SAMPLES, Array, assert_agree

N = SAMPLES


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


def per_sample(*nodes: onnx.NodeProto, constants: dict[str, Array], result: tuple[int | str, ...]) -> onnx.ModelProto:
    """Nodes that have [samples, 1], each sample's own number, beside the input x[samples, 3, 4] and these constants."""
    counting = [
        helper.make_node("Shape", ["x"], ["shape"], start=0, end=1),
        helper.make_node("Squeeze", ["shape"], ["count"]),
        helper.make_node("Range", ["zero", "count", "one"], ["every"]),
        helper.make_node("Unsqueeze", ["every", "axis"], ["own"]),
    ]
    constants |= {"zero": np.array(0, np.int64), "one": np.array(1, np.int64), "axis": ints(1)}
    values = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in (("x", (N, 3, 4)), ("y", result))
    ]
    stored = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    made = helper.make_graph([*counting, *nodes], "per-sample", values[:1], values[1:], stored)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize("dtype", [np.float32, np.bool_])
def test_a_block_of_constants_is_the_same_for_each_sample(dtype: type) -> None:
    """As the masks of windows that are shifted: [windows, …] once for each sample."""
    block: Array = np.random.default_rng(0).integers(0, 2, (2, 3)).astype(dtype)
    nodes = [
        helper.make_node("Shape", ["x"], ["count"], start=0, end=1),
        helper.make_node("Concat", ["count", "ones"], ["repeats"], axis=0),
        helper.make_node("Tile", ["block", "repeats"], ["mask"]),
        helper.make_node("Cast", ["mask"], ["number"], to=1),
        helper.make_node("Cast", ["number"], ["truth"], to=9)
        if dtype is np.bool_
        else helper.make_node("Neg", ["number"], ["truth"]),
        helper.make_node("Reshape", ["x", "rows"], ["pairs"]),
        helper.make_node("Where", ["truth", "pairs", "nothing"], ["y"])
        if dtype is np.bool_
        else helper.make_node("Mul", ["truth", "pairs"], ["y"]),
    ]
    values = [
        helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [N, 6]),
        helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["pairs", 3]),
    ]
    constants = {"block": block, "ones": ints(1), "rows": ints(-1, 3), "nothing": np.array(0, np.float32)}
    stored = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    made = helper.make_graph(nodes, "blocks", values[:1], values[1:], stored)
    assert_agree(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))


def test_places_that_count_the_samples_are_picked_from_each() -> None:
    nodes = [
        helper.make_node("Mul", ["own", "step"], ["first"]),
        helper.make_node("Add", ["first", "place"], ["places"]),
        helper.make_node("GatherND", ["x", "places"], ["y"]),
    ]
    constants = {"step": np.array([[1, 0]], np.int64), "place": np.array([[0, 2]], np.int64)}
    assert_agree(per_sample(*nodes, constants=constants, result=(N, 4)))


def test_places_that_count_the_samples_are_put_into_each() -> None:
    nodes = [
        helper.make_node("Mul", ["own", "step"], ["first"]),
        helper.make_node("Add", ["first", "place"], ["places"]),
        helper.make_node("Slice", ["x", "zeros", "ones", "axis"], ["row"]),
        helper.make_node("Squeeze", ["row", "axis"], ["update"]),
        helper.make_node("ScatterND", ["x", "places", "update"], ["y"]),
    ]
    constants = {
        "step": np.array([[1, 0]], np.int64), "place": np.array([[0, 2]], np.int64), "zeros": ints(0), "ones": ints(1),
    }  # fmt: skip
    assert_agree(per_sample(*nodes, constants=constants, result=(N, 3, 4)))


@pytest.mark.parametrize(
    ("op", "shapes", "attributes"),
    [
        ("GatherND", ((4, 3), (2, 2)), {}),
        ("GatherND", ((N, 3, 4), (N, 2, 1)), {"batch_dims": 1}),
        ("GatherElements", ((N, 3, 4), (N, 3, 2)), {"axis": 2}),
        ("GatherElements", ((N, 4, 4), (N, 2, 3)), {"axis": 1}),
        ("Gather", ((N, 3, 4), (2,)), {"axis": 1}),
    ],
)
def test_places_that_are_computed_may_count_from_the_end(op: str, shapes: tuple[Any, Any], attributes: dict[str, Any]) -> None:
    inputs = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in zip("xi", shapes, strict=True)
    ]
    nodes = [
        helper.make_node("Cast", ["i"], ["places"], to=7),
        helper.make_node(op, ["x", "places"], ["y"], **attributes),
    ]
    made = helper.make_graph(nodes, "places", inputs, [helper.make_empty_tensor_value_info("y")])
    assert_agree(
        with_outputs(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)), low=-2.9, high=2.9
    )


@pytest.mark.parametrize(
    ("op", "shapes", "attributes"),
    [
        ("ScatterND", ((4, 3), (2, 1), (2, 3)), {}),
        ("ScatterND", ((4, 3), (2, 2), (2,)), {"reduction": "add"}),
        ("ScatterElements", ((4, 3), (2, 3), (2, 3)), {"reduction": "add"}),
    ],
)
def test_elements_are_put_by_places_that_are_computed(op: str, shapes: tuple[Any, ...], attributes: dict[str, Any]) -> None:
    names = ("x", "i", "u")
    inputs = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in zip(names, shapes, strict=True)
    ]
    nodes = [
        helper.make_node("Cast", ["i"], ["places"], to=7),
        helper.make_node(op, ["x", "places", "u"], ["y"], **attributes),
    ]
    made = helper.make_graph(nodes, "places", inputs, [helper.make_empty_tensor_value_info("y")])
    assert_agree(
        with_outputs(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)),
        low=-2.9,
        high=2.9,
        samples=(1,),
    )


def with_outputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same with its outputs' shapes, as inference finds them."""
    inferred = onnx.shape_inference.infer_shapes(model)
    del model.graph.output[:]
    model.graph.output.extend(inferred.graph.output)
    return model
