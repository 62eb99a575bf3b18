"""Small TFLite models, written with the schema that ai-edge-litert ships: TensorFlow is not needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from tests.support import models

_FLOAT32 = schema.TensorType.FLOAT32


def linear_classifier(path: Path, *, seed: int = 0, features: int = models.FEATURES, classes: int = models.CLASSES) -> Path:
    """The same function as `models.linear_classifier(seed=seed)`: `pixels` float32[?, features] to `scores`."""
    weights, bias = models.linear_weights(seed, features, classes)
    graph = _Graph()
    pixels = graph.tensor("pixels", (1, features), signature=(-1, features))
    logits = graph.tensor("logits", (1, classes), signature=(-1, classes))
    scores = graph.tensor("scores", (1, classes), signature=(-1, classes))
    operands = [pixels, graph.constant("weights", weights), graph.constant("bias", bias)]
    dense = schema.FullyConnectedOptionsT()
    graph.operator(
        schema.BuiltinOperator.FULLY_CONNECTED, operands, [logits], schema.BuiltinOptions.FullyConnectedOptions, dense
    )
    softmax = schema.SoftmaxOptionsT()
    softmax.beta = 1.0
    graph.operator(schema.BuiltinOperator.SOFTMAX, [logits], [scores], schema.BuiltinOptions.SoftmaxOptions, softmax)
    return graph.save(path, [pixels], [scores])


def two_inputs(path: Path) -> Path:
    """`left` and `right` float32[?, 2] to `total` float32[?, 2]."""
    graph = _Graph()
    left, right, total = (graph.tensor(name, (1, 2), signature=(-1, 2)) for name in ("left", "right", "total"))
    graph.operator(schema.BuiltinOperator.ADD, [left, right], [total], schema.BuiltinOptions.AddOptions, schema.AddOptionsT())
    return graph.save(path, [left, right], [total])


def custom_operator(path: Path) -> Path:
    """Uses an operator that no engine has."""
    graph = _Graph()
    before, after = graph.tensor("x", (1, 4)), graph.tensor("y", (1, 4))
    graph.custom("Launch", [before], [after])
    return graph.save(path, [before], [after])


def lookup(path: Path) -> Path:
    """`rows` int32[?] to `found` float32[?, 4]: those rows of a table of five."""
    graph = _Graph()
    rows = graph.tensor("rows", (1,), signature=(-1,), kind=schema.TensorType.INT32)
    found = graph.tensor("found", (1, 4), signature=(-1, 4))
    table = graph.constant("table", np.arange(20, dtype=np.float32).reshape(5, 4))
    graph.operator(schema.BuiltinOperator.EMBEDDING_LOOKUP, [rows, table], [found])
    return graph.save(path, [rows], [found])


def answers_what_it_is_given(path: Path) -> Path:
    """`x` float32[?, 4] to itself, and to `y`, where what is below 0 is 0."""
    graph = _Graph()
    given, answer = (graph.tensor(name, (1, 4), signature=(-1, 4)) for name in ("x", "y"))
    graph.operator(schema.BuiltinOperator.RELU, [given], [answer])
    return graph.save(path, [given], [given, answer])


def answers_of_any_size(path: Path) -> Path:
    """`x` float32[1, 4] to `places` int64[?, 2]: where it is above 0."""
    graph = _Graph()
    given, zeros = graph.tensor("x", (1, 4)), graph.constant("zeros", np.zeros((1, 4), np.float32))
    above = graph.tensor("above", (1, 4), kind=schema.TensorType.BOOL)
    places = graph.tensor("places", (), kind=schema.TensorType.INT64)
    options = schema.GreaterOptionsT()
    graph.operator(schema.BuiltinOperator.GREATER, [given, zeros], [above], schema.BuiltinOptions.GreaterOptions, options)
    graph.operator(schema.BuiltinOperator.WHERE, [above], [places], schema.BuiltinOptions.WhereOptions, schema.WhereOptionsT())
    return graph.save(path, [given], [places])


class _Graph:
    """One subgraph under construction; tensors are named by index."""

    def __init__(self) -> None:
        self._tensors: list[Any] = []
        self._operators: list[Any] = []
        self._codes: list[Any] = []
        self._buffers: list[Any] = [schema.BufferT()]  # buffer 0 is empty by convention

    def tensor(
        self, name: str, shape: tuple[int, ...], *, signature: tuple[int, ...] | None = None, kind: int = _FLOAT32
    ) -> int:
        made = schema.TensorT()
        made.name, made.shape, made.type = name, list(shape), kind
        made.shapeSignature = None if signature is None else list(signature)
        self._tensors.append(made)
        return len(self._tensors) - 1

    def constant(self, name: str, value: NDArray[np.float32]) -> int:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(value.tobytes(), np.uint8)
        self._buffers.append(buffer)
        index = self.tensor(name, value.shape)
        self._tensors[index].buffer = len(self._buffers) - 1
        return index

    def operator(self, builtin: int, inputs: list[int], outputs: list[int], kind: int = 0, options: Any = None) -> None:
        code = schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = builtin, min(builtin, 127), 1
        self._add(code, inputs, outputs, kind, options)

    def custom(self, name: str, inputs: list[int], outputs: list[int]) -> None:
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
        code.customCode = name
        self._add(code, inputs, outputs, 0, None)

    def _add(self, code: Any, inputs: list[int], outputs: list[int], kind: int, options: Any) -> None:
        made = schema.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = len(self._codes), inputs, outputs
        made.builtinOptionsType, made.builtinOptions = kind, options
        self._codes.append(code)
        self._operators.append(made)

    def save(self, path: Path, inputs: list[int], outputs: list[int]) -> Path:
        subgraph = schema.SubGraphT()
        subgraph.tensors, subgraph.operators = self._tensors, self._operators
        subgraph.inputs, subgraph.outputs, subgraph.name = inputs, outputs, "main"
        model = schema.ModelT()
        model.version, model.subgraphs, model.operatorCodes, model.buffers = 3, [subgraph], self._codes, self._buffers
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        path.write_bytes(bytes(builder.Output()))
        return path
