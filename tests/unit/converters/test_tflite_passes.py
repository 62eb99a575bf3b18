"""Each pass leaves a graph that computes the same, with less in it."""

from __future__ import annotations

from typing import Any

import numpy as np

from converters.tflite.graph import Activation, Array, Graph, Operation, Tensor
from converters.tflite.passes import finish
from converters.tflite.shapes import Shape

FLOAT = np.dtype(np.float32)


class Drawing:
    """A graph being drawn: one input of shape [?, 4], operations behind one another."""

    def __init__(self, *sizes: int) -> None:
        self.graph = Graph()
        self.tensor = self.made(*(sizes or (1, 4)))
        self.graph.inputs.append(("x", self.tensor))

    def made(self, *sizes: int) -> Tensor:
        return Tensor("t", Shape(sizes, (True, *[False] * (len(sizes) - 1))), FLOAT)

    def constant(self, data: Array) -> Tensor:
        return Tensor("c", Shape.fixed(data.shape), data.dtype, data)

    def add(self, kind: str, *others: Array, sizes: tuple[int, ...] | None = None, **options: Any) -> Operation:
        result = self.made(*(sizes or self.tensor.shape.sizes))
        made = Operation(kind, [self.tensor, *map(self.constant, others)], [result], options)
        self.graph.operations.append(made)
        self.tensor = result
        return made

    def layer(self, weights: Array, bias: Array) -> Operation:
        sizes = (1, len(weights))
        return self.add("FULLY_CONNECTED", weights, bias, sizes=sizes, fusedActivationFunction=Activation.NONE)

    def scaled(self, kind: str, numbers: Any) -> Operation:
        return self.add(kind, np.asarray(numbers, np.float32), fusedActivationFunction=Activation.NONE)

    def finished(self) -> list[Operation]:
        self.graph.outputs.append(("y", self.tensor))
        return finish(self.graph).operations


def data(operation: Operation, index: int) -> Array:
    tensor = operation.inputs[index]
    assert tensor is not None
    assert tensor.data is not None
    return tensor.data


def ones() -> tuple[Array, Array]:
    return np.ones((3, 4), np.float32), np.ones(3, np.float32)


def test_a_factor_and_a_summand_behind_a_layer_go_into_its_weights() -> None:
    drawing = Drawing()
    drawing.layer(*ones())
    drawing.scaled("MUL", [1, 2, 3])
    drawing.scaled("ADD", [10, 20, 30])
    drawing.scaled("SUB", 1)
    (layer,) = drawing.finished()
    assert data(layer, 1)[:, 0].tolist() == [1, 2, 3]
    assert data(layer, 2).tolist() == [10, 21, 32]


def test_a_factor_behind_an_activation_stays() -> None:
    drawing = Drawing()
    drawing.layer(*ones())
    drawing.add("RELU")
    drawing.scaled("MUL", [1, -2, 3])
    assert [operation.kind for operation in drawing.finished()] == ["FULLY_CONNECTED", "MUL"]


def test_a_summand_is_not_taken_from_a_layer_that_is_read_twice() -> None:
    drawing = Drawing()
    first = drawing.layer(*ones())
    drawing.scaled("ADD", [1, 2, 3])
    drawing.graph.outputs.append(("also", first.outputs[0]))
    assert len(drawing.finished()) == 2


def test_a_factor_before_layers_goes_into_all_their_weights() -> None:
    drawing = Drawing()
    drawing.scaled("MUL", [1, 2, 3, 4])
    scaled = drawing.tensor
    first = drawing.layer(*ones())
    second = Operation("FULLY_CONNECTED", [scaled, *first.inputs[1:]], [drawing.made(1, 3)], dict(first.options))
    drawing.graph.operations.append(second)
    drawing.graph.outputs.append(("also", second.outputs[0]))
    left, right = drawing.finished()
    assert data(left, 1)[0].tolist() == data(right, 1)[0].tolist() == [1, 2, 3, 4]
    assert left.inputs[0] is right.inputs[0] is drawing.graph.inputs[0][1]


def test_a_factor_sinks_through_a_reshape_into_the_layer_behind_it() -> None:
    drawing = Drawing(1, 2, 2)
    drawing.scaled("MUL", 0.5)
    drawing.add("RESHAPE", np.array([-1, 4], np.int32), sizes=(1, 4))
    drawing.layer(*ones())
    reshape, layer = drawing.finished()
    assert reshape.kind == "RESHAPE"
    assert data(layer, 1)[0].tolist() == [0.5] * 4


def test_an_activation_goes_into_the_operation_before_it() -> None:
    drawing = Drawing()
    drawing.layer(*ones())
    drawing.add("RELU6")
    (layer,) = drawing.finished()
    assert layer.options["fusedActivationFunction"] == Activation.RELU6
    assert layer.outputs[0] is drawing.graph.outputs[0][1]


def test_reshapes_of_reshapes_are_one_and_those_that_change_nothing_none() -> None:
    drawing = Drawing()
    drawing.add("RESHAPE", np.array([-1, 2, 2], np.int32), sizes=(1, 2, 2))
    drawing.add("RESHAPE", np.array([-1, 4], np.int32), sizes=(1, 4))
    drawing.add("ABS")
    assert [operation.kind for operation in drawing.finished()] == ["ABS"]


def test_what_leads_to_no_output_is_left_out() -> None:
    drawing = Drawing()
    before = drawing.tensor
    drawing.add("EXP")
    drawing.tensor = before
    drawing.add("ABS")
    assert [operation.kind for operation in drawing.finished()] == ["ABS"]
