"""Proves the emitted float model: LiteRT answers on calibration samples what ONNX Runtime does, or the first node is named.

To find that node, the model is emitted once more with every tensor of the ONNX graph as an output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import onnx
import onnxruntime

from converters.errors import RecipeFailed
from converters.tflite import toolkit
from converters.tflite.emitter import emit
from converters.tflite.graph import Array
from converters.tflite.serialise import SIGNATURE
from converters.tflite.source import Prepared
from runtime import parity

LEAST_DB: Final = 60.0
"""Float arithmetic in another order costs some of float32's 140 dB; less than this is another function."""

_SAME: Final = 0.95
"""Share of integers and truth values that must be equal: a near tie may fall the other way."""

_SHARES: Final = ("Sigmoid", "Softmax")
_NO_SHARE: Final = 1e-6
"""Shares of 1 that differ by less are the same, even where all are next to nothing (to a text detector, a page without)."""

Arrays = Mapping[str, Array]


def prove(model: onnx.ModelProto, prepared: Prepared, content: bytes, samples: Arrays) -> None:
    """Hold `content` against `model` on `samples`. Raises `RecipeFailed`, which names the first node that differs."""
    wanted = run_onnx(model, samples, prepared.outputs)
    got = run_tflite(content, samples)
    makers = {name: node.op for node in prepared.nodes for name in node.outputs}
    bad = [name for name in prepared.outputs if not _agrees(wanted[name], got[name], makers.get(name))]
    if bad:
        raise RecipeFailed(
            f"differs from ONNX on the calibration data: {_distance(wanted[bad[0]], got[bad[0]])} at the output {bad[0]!r}; "
            f"{first_difference(model, prepared, samples)}. Please report the model, and ship ONNX variants only"
        )


def first_difference(model: onnx.ModelProto, prepared: Prepared, samples: Arrays) -> str:
    """Which node is the first whose result differs, in words."""
    known = {name for node in model.graph.node for name in node.output}
    made = [(node, name) for node in prepared.nodes for name in node.outputs if name in known and node.op != "Constant"]
    watch = [name for _, name in made if name in prepared.shapes]
    wanted = run_onnx(model, samples, watch)
    got = run_tflite(emit(prepared, watch=watch), samples)
    for node, name in made:
        if name in wanted and not _agrees(wanted[name], got[name], node.op):
            return f"the first node that differs is {node.describe()} ({_distance(wanted[name], got[name])} at {name!r})"
    return "each node alone agrees, so that it is their order that differs"


def run_onnx(model: onnx.ModelProto, samples: Arrays, names: Sequence[str]) -> dict[str, Array]:
    """What ONNX Runtime computes for these tensors, inner ones too, without fusing any."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    present = {output.name for output in watched.graph.output}
    watched.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names if name not in present)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(list(names), dict(samples)), strict=True))


def run_tflite(content: bytes, samples: Arrays) -> dict[str, Array]:
    """What LiteRT computes, by the names of the signature. Raises `RecipeFailed`."""
    try:
        interpreter = toolkit.interpreter().Interpreter(model_content=content, num_threads=1)
        answers: dict[str, Array] = interpreter.get_signature_runner(SIGNATURE)(**samples)
    except (ValueError, RuntimeError) as error:
        raise RecipeFailed(f"does not run in LiteRT: {' '.join(str(error).split())}") from error
    return answers


def _agrees(wanted: Array, got: Array, op: str | None = None) -> bool:
    """Whether these are the same; `op` says what made them."""
    if wanted.shape != got.shape or wanted.dtype != got.dtype:
        return False
    if wanted.dtype.kind != "f":
        return bool(np.mean(wanted == got) >= _SAME) if wanted.size else True
    if op in _SHARES and np.abs(wanted - got).max(initial=0) <= _NO_SHARE:
        return True
    finite = np.isfinite(wanted)
    if not np.array_equal(wanted[~finite], got[~finite], equal_nan=True):
        return False
    return parity.sqnr_db(np.where(finite, wanted, 0), np.where(finite, got, 0)) >= LEAST_DB


def _distance(wanted: Array, got: Array) -> str:
    """How far apart, in words."""
    if wanted.shape != got.shape:
        return f"the shape {list(got.shape)} where {list(wanted.shape)} is wanted"
    if wanted.dtype != got.dtype:
        return f"{got.dtype} where {wanted.dtype} is wanted"
    if wanted.dtype.kind != "f":
        return f"{np.mean(wanted == got):.1%} equal"
    if not (np.isfinite(wanted).all() and np.isfinite(got).all()):
        return "NaN or infinity"
    return f"{parity.sqnr_db(wanted, got):.0f} dB, where {LEAST_DB:.0f} are wanted"
