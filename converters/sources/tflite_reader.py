"""Reads float TFLite files: each operator becomes ONNX, from the flatbuffer itself. Needs LiteRT only, no TensorFlow.

Here stand the file, its checks, and what LiteRT answers; how one operator is said in ONNX stands in `tflite_operators`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx

from converters.errors import DataRejected, SourceRejected
from converters.sources.exchange import Array, Reading, Request, Samples, needed
from converters.sources.layouts import fitting
from converters.sources.matching import match
from converters.sources.tflite_graph import Operator, Tensor, Writer
from converters.sources.tflite_operators import emit

_LARGEST: Final = 2**31 - 1
_SHAPED_BY_OUTPUT: Final = frozenset({"RESHAPE", "SQUEEZE", "EXPAND_DIMS"})
"""Their result's shape stands in the file, so what computes it is not needed."""


class Model:
    """A parsed file: tensors and operators of its one graph, by number."""

    def __init__(self, path: Path, content: bytes) -> None:
        fb = needed("ai_edge_litert.schema_py_generated", "convert", "a TFLite model")
        self.path, self.content = path, content
        try:
            model = fb.ModelT.InitFromPackedBuf(content, 0)
            kinds = {value: name for name, value in vars(fb.BuiltinOperator).items() if not name.startswith("_")}
            codes = [kinds.get(max(each.builtinCode, each.deprecatedBuiltinCode), "unknown") for each in model.operatorCodes]
            types = {value: name for name, value in vars(fb.TensorType).items() if not name.startswith("_")}
            graph = model.subgraphs[0]
            self.tensors = [_tensor(at, each, model.buffers, types) for at, each in enumerate(graph.tensors)]
            self.operators = [_operator(at, each, codes) for at, each in enumerate(graph.operators)]
            self.inputs, self.outputs = [int(each) for each in graph.inputs], [int(each) for each in graph.outputs]
            self.graphs = len(model.subgraphs)
        except (struct.error, IndexError, TypeError, ValueError, AttributeError, KeyError, UnicodeDecodeError) as error:
            raise SourceRejected(
                f"{path} breaks off or is damaged: it is no whole TFLite file. Copy or export it again."
            ) from error


def load(request: Request) -> Model:
    """The parsed file. Raises `SourceRejected`, `ReaderMissing`."""
    path = Path(request.location)
    if path.stat().st_size > _LARGEST:
        raise SourceRejected(f"{path} is larger than a TFLite file can be.")
    model = Model(path, path.read_bytes())
    quantized = next((each for each in model.tensors if each.dtype in ("int8", "uint8", "int16") and each.scaled), None)
    if quantized is not None:
        raise SourceRejected(
            f"{path} is quantized already: {quantized.name!r} is {quantized.dtype}. Give the float model that it was made from."
        )
    loops = [each.kind for each in model.operators if each.kind in ("IF", "WHILE", "CALL", "CUSTOM")]
    if loops:
        raise SourceRejected(
            f"{path} has the operator {loops[0]}, which is not read. Give the model that the file was made from."
        )
    return model


def read(model: Model, samples: Samples, *, stages: bool) -> Reading:
    """Turn the file into ONNX. Raises `SourceRejected`, `DataRejected`, `ReaderMissing`."""
    names = [model.tensors[at].name for at in model.inputs]
    feeds = match(names, samples, str(model.path))
    arrays = [
        _checked(samples[feeds[name]], model.tensors[at], feeds[name]) for name, at in zip(names, model.inputs, strict=True)
    ]
    made = _to_onnx(model, [feeds[name] for name in names])
    before, seen = _answers(model, arrays, stages=stages)
    return Reading(model=made, before=before, tools={"ai-edge-litert": metadata.version("ai-edge-litert")}, stages=seen)


def _tensor(at: int, given: Any, buffers: Sequence[Any], types: Mapping[int, str]) -> Tensor:  # noqa: ANN401
    dtype = types[given.type].lower()
    shape = () if given.shape is None else tuple(int(each) for each in given.shape)
    content = buffers[given.buffer].data
    data = None
    if content is not None and len(content):
        data = np.frombuffer(np.asarray(content, np.uint8).tobytes(), np.dtype(dtype)).reshape(shape)
    scale = None if given.quantization is None else given.quantization.scale
    name = given.name.decode() if isinstance(given.name, bytes) else str(given.name)
    return Tensor(at, name, shape, dtype, data, scaled=scale is not None and len(scale) > 0)


def _operator(at: int, given: Any, codes: Sequence[str]) -> Operator:  # noqa: ANN401
    inputs, outputs = (tuple(int(each) for each in part) for part in (given.inputs, given.outputs))
    return Operator(at, codes[given.opcodeIndex], inputs, outputs, given.builtinOptions)


def _checked(values: Array, tensor: Tensor, name: str) -> Array:
    fault = fitting(values, tensor.dtype, tensor.shape[1:], name)
    if fault:
        raise DataRejected(fault)
    if not tensor.shape or tensor.shape[0] != 1:
        raise SourceRejected(f"The input {tensor.name!r} has shape {list(tensor.shape)}; its first axis must be 1.")
    return values


def _to_onnx(model: Model, names: Sequence[str]) -> onnx.ModelProto:
    writer = Writer(model.tensors, model.inputs, names)
    wanted = _needed(model)
    for operator in model.operators:
        if operator.at in wanted:
            emit(writer, operator)
    return writer.finish(model.outputs)


def _needed(model: Model) -> set[int]:
    """The operators on which an output depends by its values, not only by its shape."""
    asked, found = set(model.outputs), set()
    for operator in reversed(model.operators):
        if asked & set(operator.outputs):
            found.add(operator.at)
            asked |= set(operator.inputs[:1] if operator.kind in _SHAPED_BY_OUTPUT else operator.inputs)
    return found


def _answers(model: Model, arrays: Sequence[Array], *, stages: bool) -> tuple[list[Array], list[tuple[str, Array]]]:
    """What LiteRT answers, sample by sample, and what its operators answer for the first."""
    litert = needed("ai_edge_litert.interpreter", "convert", "a TFLite model")
    try:
        interpreter = litert.Interpreter(model_content=model.content, num_threads=1, experimental_preserve_all_tensors=stages)
        interpreter.allocate_tensors()
        pieces: list[list[Array]] = [[] for _ in model.outputs]
        seen: list[tuple[str, Array]] = []
        for sample in range(len(arrays[0])):
            for at, values in zip(model.inputs, arrays, strict=True):
                interpreter.set_tensor(at, values[sample : sample + 1])
            interpreter.invoke()
            for piece, at in zip(pieces, model.outputs, strict=True):
                piece.append(interpreter.get_tensor(at).copy())
            if stages and not seen:
                seen = _stages(model, interpreter)
    except (ValueError, RuntimeError) as error:
        raise SourceRejected(f"{model.path} does not run in LiteRT: {' '.join(str(error).split())[:300]}") from error
    return [np.concatenate(piece) for piece in pieces], seen


def _stages(model: Model, interpreter: Any) -> list[tuple[str, Array]]:  # noqa: ANN401
    found = []
    for operator in model.operators:
        at = operator.outputs[0]
        if model.tensors[at].dtype == "float32":
            found.append((operator.describe(), interpreter.get_tensor(at).copy()))
    return found
