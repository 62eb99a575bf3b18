"""Names and notes go, inputs and outputs keep theirs, and nothing is computed otherwise."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from converters.graphs.lossless import compress, likeness, strip_names
from tests.support.conv_models import graph_of, images, separable, separable_tensors
from tests.support.models import mlp_classifier, samples


def stripped(model: onnx.ModelProto) -> onnx.ModelProto:
    found = onnx.ModelProto()
    found.CopyFrom(model)
    strip_names(found)
    onnx.checker.check_model(found)
    return found


def test_a_model_shrinks_and_answers_the_same() -> None:
    model = separable(separable_tensors())
    for node in model.graph.node:
        node.name = f"StatefulPartitionedCall/model/{node.output[0]}/BiasAdd;with/a/very/long/history"
    model.graph.doc_string = "exported by hand"
    small = stripped(model)
    assert len(small.SerializeToString()) < len(model.SerializeToString()) - 400
    assert likeness(model, small, [{"x": images()}]) == 200.0


def test_inputs_and_outputs_keep_their_names(tmp_path: Path) -> None:
    model = onnx.load(str(mlp_classifier(tmp_path / "m.onnx")))
    small = stripped(model)
    assert [value.name for value in small.graph.input] == ["pixels"]
    assert [value.name for value in small.graph.output] == ["scores"]
    assert likeness(model, small, [{"pixels": samples(20)[0]}]) == 200.0


def test_two_versions_of_one_architecture_get_the_same_names() -> None:
    first, second = (stripped(separable(separable_tensors(seed))) for seed in (0, 1))
    assert [list(node.input) for node in first.graph.node] == [list(node.input) for node in second.graph.node]


def test_a_short_name_never_takes_that_of_an_input() -> None:
    nodes = [
        helper.make_node("Add", ["x", "long_constant"], ["a_long_value"]),
        helper.make_node("Neg", ["a_long_value"], ["y"]),
    ]
    model = graph_of(nodes, {"long_constant": np.ones(1, np.float32)}, x=["n", 2], y=["n", 2])
    model.graph.input[0].name = model.graph.node[0].input[0] = "a"
    small = stripped(model)
    names = [name for node in small.graph.node for name in (*node.input, *node.output)]
    assert names == ["a", "b", "c", "c", "y"]


def test_many_names_differ() -> None:
    from converters.graphs.lossless import _short_names

    names = list(itertools.islice(_short_names(), 2000))
    assert len(set(names)) == 2000
    assert max(map(len, names)) == 3


def branching() -> onnx.ModelProto:
    """An If whose branches read values of the graph around them."""
    value = helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)
    branches = [
        helper.make_graph([helper.make_node(operator, ["doubled_value"], ["inner"])], operator, [], [value])
        for operator in ("Neg", "Abs")
    ]
    nodes = [
        helper.make_node("Add", ["x", "x"], ["doubled_value"]),
        helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0),
        helper.make_node("Cast", ["total"], ["condition"], to=TensorProto.BOOL),
        helper.make_node("If", ["condition"], ["y"], then_branch=branches[0], else_branch=branches[1]),
    ]
    return graph_of(nodes, {}, x=["n", 2], y=["n", 2])


def test_values_that_inner_graphs_read_keep_their_names() -> None:
    model = branching()
    batch = {"x": np.ones((3, 2), np.float32)}
    assert likeness(model, stripped(model), [batch]) == 200.0
    assert compress(model, [batch]).model is model
