"""int8 from a float TFLite file, by ai-edge-quantizer: full integer, dynamic range, or weights only.

Weights get one scale an output channel; activations one scale and zero point each, from the true ranges of the calibration
samples. What the quantizer raises is mapped here to `RecipeFailed`. The same file, ranges and kind give the same bytes.
"""

from __future__ import annotations

import contextlib
import copy
import io
import warnings
from typing import Any, Final, Literal

import numpy as np

from converters.errors import RecipeFailed
from converters.tflite import toolkit
from converters.tflite.calibrate import Ranges
from converters.tflite.graph import Array
from converters.tflite.serialise import pack

Kind = Literal["static", "dynamic", "weights"]

KEPT_FLOAT: Final = ("SOFTMAX", "SQRT", "RSQRT", "SQUARED_DIFFERENCE", "DIV")
"""Operations that 8 bits cost 10 dB and more (measured), while they take a small part of the time.

DIV even fails where a divisor becomes 0 in 8 bits.
"""

_BITS: Final = 8
_BIAS_BITS: Final = 30
_NARROWEST: Final = 1e-7
_NO_QUANTIZE: Final = "no_quantize"


def quantise(content: bytes, kind: Kind, ranges: Ranges | None = None, *, integer_io: bool = False) -> bytes:
    """The int8 form of a float file. `static` needs `ranges`; with `integer_io` its inputs and outputs are int8 too.

    Raises `RecipeFailed`, also where nothing in the model has an int8 form.
    """
    try:
        made = _quantised(content, _recipe(kind, integer_io=integer_io), ranges)
    except RecipeFailed:
        raise
    except Exception as error:  # it raises anything from KeyError to its own
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RecipeFailed(f"cannot be quantized by ai-edge-quantizer: {first.rstrip('.')}") from error
    if made == content:
        raise RecipeFailed("changes nothing: none of the model's layers has an int8 form")
    return made


def _recipe(kind: Kind, *, integer_io: bool) -> list[dict[str, Any]]:
    operations = toolkit.quantizer("qtyping").TFLOperationName
    manager = toolkit.quantizer("recipe_manager").RecipeManager()
    if kind == "weights":
        manager.add_weight_only_config(".*", operations.ALL_SUPPORTED, _BITS)
    elif kind == "dynamic":
        manager.add_dynamic_config(".*", operations.ALL_SUPPORTED, _BITS)
    else:
        manager.add_static_config(".*", operations.ALL_SUPPORTED, _BITS, _BITS)
        manager.add_dynamic_config(".*", operations("EMBEDDING_LOOKUP"), _BITS)  # a table has no ranges to calibrate
        for name in () if integer_io else (*KEPT_FLOAT, "INPUT", "OUTPUT"):
            manager.add_quantization_config(".*", operations(name), algorithm_key=_NO_QUANTIZE)
    recipe: list[dict[str, Any]] = manager.get_quantization_recipe()
    return recipe


def _quantised(content: bytes, recipe: list[dict[str, Any]], ranges: Ranges | None) -> bytes:
    content = content if ranges is None else with_room_for_biases(content, ranges)
    quantizer = toolkit.quantizer("quantizer").Quantizer(bytearray(content), recipe)
    statistics = None if ranges is None else _statistics(content, ranges)
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):  # it draws progress bars, asked or not
        warnings.simplefilter("ignore", UserWarning)  # and opens an interpreter that warns of its memory
        result = quantizer.quantize(statistics, enable_progress_bar=False, enable_progress_report=False)
    return bytes(result.quantized_model)


def _statistics(content: bytes, ranges: Ranges) -> dict[str, dict[str, Any]]:
    """The ranges as the quantizer takes them: arrays with one element and as many axes as the tensor."""
    model = toolkit.schema().ModelT.InitFromPackedBuf(content, 0)
    found = {}
    for tensor in model.subgraphs[0].tensors:
        name = tensor.name.decode("utf-8")
        if name in ranges:
            ones = [1] * (0 if tensor.shape is None else len(tensor.shape))
            low, high = _wide_enough(*ranges[name])
            found[name] = {"min": np.full(ones, low, np.float32), "max": np.full(ones, high, np.float32)}
    return found


def _wide_enough(low: float, high: float) -> tuple[float, float]:
    """A tensor that was always 0 gets the scale of one up to 1: with none, the bias behind it would overflow."""
    return (low, high) if max(-low, high) > _NARROWEST else (0.0, 1.0)


def with_room_for_biases(content: bytes, ranges: Ranges) -> bytes:
    """The float model with one weight raised in each channel whose bias drowns all of them.

    A bias is stored in steps of the input's scale times the channel's. Where a channel's weights are next to nothing (a factor
    of a batch normalisation that training drove to 0), so are its steps, their count does not fit into the bias' 32 bits, and
    the channel would answer anything. The raised weight makes the steps large enough, and adds 3e-5 of the bias at most.
    """
    model = toolkit.schema().ModelT.InitFromPackedBuf(content, 0)
    codes, graph, changed = toolkit.schema().BuiltinOperator, model.subgraphs[0], False
    axes = {codes.CONV_2D: 0, codes.FULLY_CONNECTED: 0, codes.DEPTHWISE_CONV_2D: 3}
    for operator in graph.operators:
        axis = axes.get(model.operatorCodes[operator.opcodeIndex].builtinCode)
        source = graph.tensors[operator.inputs[0]].name.decode("utf-8")
        if axis is None or source not in ranges or len(operator.inputs) < 3:
            continue
        weights, bias = (_constant(model, operator.inputs[at]) for at in (1, 2))
        raised = None if weights is None or bias is None else _raised(np.moveaxis(weights, axis, 0), bias, ranges[source])
        if raised is not None:
            operator.inputs = [operator.inputs[0], _added(model, operator.inputs[1], np.moveaxis(raised, 0, axis)),
                               *operator.inputs[2:]]  # fmt: skip
            changed = True
    return pack(model) if changed else content


def _raised(weights: Array, bias: Array, bounds: tuple[float, float]) -> Array | None:
    """float32[channels, …] in which each channel's largest weight is large enough; None where all are."""
    low, high = _wide_enough(*bounds)
    step = (max(high, 0.0) - min(low, 0.0)) / (2**_BITS - 1)
    least = np.abs(bias.astype(np.float64)) / 2**_BIAS_BITS / step * (2 ** (_BITS - 1) - 1)
    rows = weights.reshape(len(weights), -1).copy()
    faint = np.abs(rows).max(axis=1) < least
    rows[faint, 0] = least[faint]
    return rows.reshape(weights.shape) if faint.any() else None


def _constant(model: Any, index: int) -> Array | None:  # noqa: ANN401  # the schema has no types
    """A float32 constant, or None for what is none."""
    tensor = model.subgraphs[0].tensors[index] if index >= 0 else None
    if tensor is None or tensor.type != toolkit.schema().TensorType.FLOAT32 or model.buffers[tensor.buffer].data is None:
        return None
    return np.frombuffer(bytes(model.buffers[tensor.buffer].data), np.float32).reshape(tensor.shape)


def _added(model: Any, like: int, values: Array) -> int:  # noqa: ANN401  # the schema has no types
    """A new constant beside the one that others may read too."""
    tensors = model.subgraphs[0].tensors
    made, buffer = copy.copy(tensors[like]), toolkit.schema().BufferT()
    buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
    made.buffer, made.name = len(model.buffers), f"{tensors[like].name.decode('utf-8')}/kept{len(tensors)}"
    model.buffers.append(buffer)
    tensors.append(made)
    return len(tensors) - 1


def slim(content: bytes) -> bytes:
    """The same model without what no engine reads: inner tensors' names, notes. Constants are aligned again.

    Outputs that the quantizer made anew get back the free axis of what they are made from.
    """
    model = toolkit.schema().ModelT.InitFromPackedBuf(content, 0)
    _take_in(model, content)
    model.metadata, model.metadataBuffer = [], []
    graph = model.subgraphs[0]
    outside = {*(int(each) for each in graph.inputs), *(int(each) for each in graph.outputs)}
    for at, tensor in enumerate(graph.tensors):
        if at not in outside:
            tensor.name = None
    _repair_signatures(model)
    return pack(model)


def _take_in(model: Any, content: bytes) -> None:  # noqa: ANN401  # the schema has no types
    """Put constants inside that the quantizer, for files of about a megabyte and more, appends behind the flatbuffer."""
    for buffer in model.buffers:
        if buffer.offset > 1:  # 0 and 1 say that it lies inside
            buffer.data = np.frombuffer(content, np.uint8, count=buffer.size, offset=buffer.offset)
            buffer.offset = buffer.size = 0


def _repair_signatures(model: Any) -> None:  # noqa: ANN401  # the schema has no types
    codes = toolkit.schema().BuiltinOperator
    graph = model.subgraphs[0]
    for operator in graph.operators:
        if model.operatorCodes[operator.opcodeIndex].builtinCode in (codes.QUANTIZE, codes.DEQUANTIZE):
            source, result = graph.tensors[operator.inputs[0]], graph.tensors[operator.outputs[0]]
            if source.shapeSignature is not None and result.shapeSignature is None:
                result.shapeSignature = source.shapeSignature
