"""Runs a model so that its inner values can be seen: what each layer was given and what it answered.

Graph optimizations are off, so that every value exists and quantized graphs compute what their nodes say. One thread, so that
the same samples give the same numbers. Values are handed out batch by batch and never kept here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import onnx
import onnxruntime
from onnx import helper

from converters.errors import RecipeFailed
from converters.graphs.graph_view import Array

Batch = dict[str, Array]


def session(content: bytes) -> onnxruntime.InferenceSession:
    """An engine that computes the graph as it stands. Raises `RecipeFailed`."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes have no common root but Exception
        raise RecipeFailed(f"cannot be run with its inner values shown: {str(error).splitlines()[0]}") from error


def observe(model: onnx.ModelProto, names: Sequence[str], batches: Iterable[Batch]) -> Iterator[Batch]:
    """For each batch the values `names`, inputs and constants of the graph excepted. Raises `RecipeFailed`."""
    wanted = list(dict.fromkeys(names))
    if not wanted:
        return
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    there = {value.name for value in shown.graph.output}
    shown.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in wanted if name not in there)
    engine = session(shown.SerializeToString())
    for batch in batches:
        try:
            values = engine.run(wanted, batch)
        except Exception as error:
            raise RecipeFailed(f"fails on the data: {str(error).splitlines()[0]}") from error
        yield dict(zip(wanted, values, strict=True))
