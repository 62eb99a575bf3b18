"""int8 from a float TFLite file, by ai-edge-quantizer: full integer, dynamic range, or weights only.

Weights get one scale an output channel; activations one scale and zero point each, from the true ranges of the calibration
samples. What the quantizer raises is mapped here to `RecipeFailed`. The same file, ranges and kind give the same bytes.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from typing import Any, Final, Literal

import numpy as np

from converters.errors import RecipeFailed
from converters.tflite import toolkit
from converters.tflite.calibrate import Ranges
from converters.tflite.extremes import masking, wide_enough, with_room_for_biases
from converters.tflite.serialise import pack

Kind = Literal["static", "dynamic", "weights"]

KEPT_FLOAT: Final = ("SOFTMAX", "SQRT", "RSQRT", "SQUARED_DIFFERENCE", "DIV", "EQUAL", "NOT_EQUAL")
"""Operations that 8 bits cost 10 dB and more (measured), while they take a small part of the time.

DIV even fails where a divisor becomes 0 in 8 bits, and what is equal in 8 bits need not be.
"""

_BITS: Final = 8
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


def _kept_float(names: list[str]) -> list[dict[str, Any]]:
    """Recipes that leave the operations with these results as they are."""
    operations, manager = toolkit.quantizer("qtyping").TFLOperationName, toolkit.quantizer("recipe_manager").RecipeManager()
    for name in names:
        manager.add_quantization_config(f"^{re.escape(name)}(;|$)", operations.ALL_SUPPORTED, algorithm_key=_NO_QUANTIZE)
    recipe: list[dict[str, Any]] = manager.get_quantization_recipe()
    return recipe


def _quantised(content: bytes, recipe: list[dict[str, Any]], ranges: Ranges | None) -> bytes:
    if ranges is not None:
        content = with_room_for_biases(content, ranges)
        recipe = [*recipe, *_kept_float(masking(content, ranges))]
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
            low, high = wide_enough(*ranges[name])
            found[name] = {"min": np.full(ones, low, np.float32), "max": np.full(ones, high, np.float32)}
    return found


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
