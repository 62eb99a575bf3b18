"""A graph's bytes: TFLite's flatbuffer, written with the schema module that ships in LiteRT. No TensorFlow.

The same graph gives the same bytes. Constants are aligned to 16 bytes, as the schema wants, because an engine reads them where
they lie; equal constants are stored once.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from converters.errors import RecipeFailed
from converters.tflite.graph import Array, Graph, Operation, Tensor
from converters.tflite.toolkit import schema

SIGNATURE: Final = "serving_default"

_IDENTIFIER: Final = b"TFL3"
_VERSION: Final = 3
_ALIGNMENT: Final = 16
_LARGEST: Final = 2**31 - 1

_TYPES: Final = {
    "float32": "FLOAT32",
    "int32": "INT32",
    "int64": "INT64",
    "bool": "BOOL",
    "int8": "INT8",
    "uint8": "UINT8",
    "int16": "INT16",
}

_OPTIONS: Final = {
    "ABS": "AbsOptions", "ADD": "AddOptions", "ARG_MAX": "ArgMaxOptions", "ARG_MIN": "ArgMinOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions", "BATCH_MATMUL": "BatchMatMulOptions", "BROADCAST_TO": "BroadcastToOptions",
    "CAST": "CastOptions", "CONCATENATION": "ConcatenationOptions", "CONV_2D": "Conv2DOptions", "COS": "CosOptions",
    "CUMSUM": "CumsumOptions", "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions", "DEPTH_TO_SPACE": "DepthToSpaceOptions",
    "DIV": "DivOptions", "EQUAL": "EqualOptions", "EXP": "ExpOptions", "FLOOR_MOD": "FloorModOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions", "GATHER": "GatherOptions", "GELU": "GeluOptions",
    "GREATER": "GreaterOptions", "GREATER_EQUAL": "GreaterEqualOptions", "HARD_SWISH": "HardSwishOptions",
    "LEAKY_RELU": "LeakyReluOptions", "LESS": "LessOptions", "LESS_EQUAL": "LessEqualOptions",
    "LOCAL_RESPONSE_NORMALIZATION": "LocalResponseNormalizationOptions", "LOGICAL_AND": "LogicalAndOptions",
    "LOGICAL_NOT": "LogicalNotOptions", "LOGICAL_OR": "LogicalOrOptions", "LOG_SOFTMAX": "LogSoftmaxOptions",
    "MAXIMUM": "MaximumMinimumOptions", "MAX_POOL_2D": "Pool2DOptions", "MEAN": "ReducerOptions",
    "MINIMUM": "MaximumMinimumOptions", "MIRROR_PAD": "MirrorPadOptions", "MUL": "MulOptions", "NEG": "NegOptions",
    "NOT_EQUAL": "NotEqualOptions", "PAD": "PadOptions", "PADV2": "PadV2Options", "POW": "PowOptions",
    "REDUCE_ALL": "ReducerOptions", "REDUCE_ANY": "ReducerOptions",
    "REDUCE_MAX": "ReducerOptions", "REDUCE_MIN": "ReducerOptions", "REDUCE_PROD": "ReducerOptions",
    "RESHAPE": "ReshapeOptions", "REVERSE_SEQUENCE": "ReverseSequenceOptions", "RESIZE_BILINEAR": "ResizeBilinearOptions",
    "RESIZE_NEAREST_NEIGHBOR": "ResizeNearestNeighborOptions", "SCATTER_ND": "ScatterNdOptions", "SELECT_V2": "SelectV2Options",
    "SHAPE": "ShapeOptions",
    "SIGN": "SignOptions", "SLICE": "SliceOptions", "SOFTMAX": "SoftmaxOptions", "SPACE_TO_DEPTH": "SpaceToDepthOptions",
    "SPLIT": "SplitOptions", "SPLIT_V": "SplitVOptions", "SQUARED_DIFFERENCE": "SquaredDifferenceOptions",
    "STRIDED_SLICE": "StridedSliceOptions", "SUB": "SubOptions", "SUM": "ReducerOptions", "TILE": "TileOptions",
    "TOPK_V2": "TopKV2Options",
    "TRANSPOSE": "TransposeOptions", "TRANSPOSE_CONV": "TransposeConvOptions",
}  # fmt: skip
"""Each kind's options table; kinds that are not here have none."""

_VERSIONS: Final = {"BROADCAST_TO": 2, "FULLY_CONNECTED": 5, "RESIZE_BILINEAR": 3, "RESIZE_NEAREST_NEIGHBOR": 3}
"""Where a field that we write came later than the operation itself."""


def serialise(graph: Graph) -> bytes:
    """The model file. Raises `RecipeFailed` for what the format does not hold."""
    return _Writer(graph).write()


def pack(model: Any) -> bytes:  # noqa: ANN401  # the schema has no types
    """The bytes of a schema `ModelT`, its constants aligned."""
    builder = _builder()
    builder.Finish(model.Pack(builder), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


class _Writer:
    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._schema = schema()
        self._tensors = list(graph.tensors())
        self._index = {id(tensor): at for at, tensor in enumerate(self._tensors)}
        self._buffers: list[Any] = [self._schema.BufferT()]
        self._stored: dict[bytes, int] = {}
        self._codes: dict[str, int] = {}

    def write(self) -> bytes:
        held = sum(tensor.data.nbytes for tensor in self._tensors if tensor.data is not None)
        if held > _LARGEST:
            raise RecipeFailed(f"has {held} bytes of constants, and one TFLite file holds at most {_LARGEST}")
        fb = self._schema
        subgraph = fb.SubGraphT()
        subgraph.name = "main"
        subgraph.tensors = [self._tensor(tensor, name) for tensor, name in zip(self._tensors, self._names(), strict=True)]
        subgraph.inputs = [self._index[id(tensor)] for _, tensor in self._graph.inputs]
        subgraph.outputs = [self._index[id(tensor)] for _, tensor in self._graph.outputs]
        subgraph.operators = [self._operator(operation) for operation in self._graph.operations]
        model = fb.ModelT()
        model.version = _VERSION
        model.description = "Edgeward"
        model.subgraphs = [subgraph]
        model.buffers = self._buffers
        model.operatorCodes = [self._code(kind) for kind in self._codes]
        model.signatureDefs = [self._signature()]
        return pack(model)

    def _names(self) -> list[str]:
        """Unique names; inputs and outputs keep theirs."""
        wanted = {id(tensor): name for name, tensor in (*self._graph.outputs, *self._graph.inputs)}
        taken = set(wanted.values())
        names = []
        for tensor in self._tensors:
            name = wanted.get(id(tensor))
            if name is None:
                name, count = tensor.name, 1
                while name in taken:
                    count += 1
                    name = f"{tensor.name};{count}"
                taken.add(name)
            names.append(name)
        return names

    def _tensor(self, tensor: Tensor, name: str) -> Any:  # noqa: ANN401
        made = self._schema.TensorT()
        made.name = name
        made.shape = np.array(tensor.shape.sizes, np.int32)
        if not tensor.shape.is_fixed:
            made.shapeSignature = np.array(tensor.shape.signature, np.int32)
        made.type = getattr(self._schema.TensorType, _type_name(tensor))
        made.hasRank = True
        made.buffer = 0 if tensor.data is None else self._buffer(tensor.data)
        return made

    def _buffer(self, data: Array) -> int:
        content = np.ascontiguousarray(data).tobytes()
        if content not in self._stored:
            made = self._schema.BufferT()
            made.data = np.frombuffer(content, np.uint8)
            self._stored[content] = len(self._buffers)
            self._buffers.append(made)
        return self._stored[content]

    def _operator(self, operation: Operation) -> Any:  # noqa: ANN401
        made = self._schema.OperatorT()
        made.opcodeIndex = self._codes.setdefault(operation.kind, len(self._codes))
        made.inputs = [-1 if tensor is None else self._index[id(tensor)] for tensor in operation.inputs]
        made.outputs = [self._index[id(tensor)] for tensor in operation.outputs]
        table = _OPTIONS.get(operation.kind)
        if table is None:
            assert not operation.options, f"{operation.kind} has no options table"
            return made
        options = getattr(self._schema, f"{table}T")()
        for key, value in operation.options.items():
            assert hasattr(options, key), f"{table} has no field {key}"
            setattr(options, key, value)
        made.builtinOptions = options
        made.builtinOptionsType = getattr(self._schema.BuiltinOptions, table)
        return made

    def _code(self, kind: str) -> Any:  # noqa: ANN401
        made = self._schema.OperatorCodeT()
        made.builtinCode = getattr(self._schema.BuiltinOperator, kind)
        made.deprecatedBuiltinCode = min(made.builtinCode, 127)
        made.version = _VERSIONS.get(kind, 1)
        return made

    def _signature(self) -> Any:  # noqa: ANN401
        made = self._schema.SignatureDefT()
        made.signatureKey = SIGNATURE
        made.subgraphIndex = 0
        made.inputs = [self._named(name, tensor) for name, tensor in self._graph.inputs]
        made.outputs = [self._named(name, tensor) for name, tensor in self._graph.outputs]
        return made

    def _named(self, name: str, tensor: Tensor) -> Any:  # noqa: ANN401
        made = self._schema.TensorMapT()
        made.name, made.tensorIndex = name, self._index[id(tensor)]
        return made


def _type_name(tensor: Tensor) -> str:
    found = _TYPES.get(tensor.dtype.name)
    if found is None:
        raise RecipeFailed(
            f"holds {tensor.name!r} as {tensor.dtype.name}, which TFLite does not compute with; export as float32"
        )
    return found


def _builder() -> Any:  # noqa: ANN401  # flatbuffers has no types
    import flatbuffers

    class Aligned(flatbuffers.Builder):  # type: ignore[misc]  # flatbuffers has no types
        """Puts byte vectors, which hold the constants, on 16-byte boundaries: the schema's `force_align`, unknown to Python."""

        def CreateNumpyVector(self, x: Array) -> int:  # noqa: N802  # flatbuffers' name
            if x.dtype == np.uint8:
                self.Prep(_ALIGNMENT, x.nbytes)
            return int(super().CreateNumpyVector(x))

    return Aligned(1024)
