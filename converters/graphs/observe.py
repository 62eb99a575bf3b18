"""Runs a model so that its inner values can be seen: what each layer was given and what it answered.

Graph optimizations are off, so that every value exists and quantized graphs compute what their nodes say. One thread, so that
the same samples give the same numbers. Values are handed out batch by batch and never kept here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

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
        yield dict(zip(wanted, _run(engine, wanted, batch), strict=True))  # under no name: it may go before the next run


def _run(engine: onnxruntime.InferenceSession, wanted: Sequence[str], batch: Batch) -> list[Array]:
    try:
        return list(engine.run(wanted, batch))
    except Exception as error:
        raise RecipeFailed(f"fails on the data: {str(error).splitlines()[0]}") from error


def inner_bytes(model: onnx.ModelProto, sample: Mapping[str, Array]) -> int:
    """How much all values of the graph take together for these inputs. Raises `RecipeFailed`."""
    names = [name for node in model.graph.node for name in node.output if name]
    return sum(value.nbytes for shown in observe(model, names, [dict(sample)]) for value in shown.values())


def pieces(batches: Iterable[Batch], size: int, *, at_most: int | None = None) -> Iterator[Batch]:
    """The same samples, at most `size` at a time, for those who want whole activations; only the first `at_most` of them."""
    left = at_most
    for batch in batches:
        count = len(next(iter(batch.values())))
        end = count if left is None else min(count, left)
        for at in range(0, end, size):
            yield {name: values[at : min(at + size, end)] for name, values in batch.items()}
        left = None if left is None else left - end
        if left == 0:
            return
