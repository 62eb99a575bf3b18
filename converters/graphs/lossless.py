"""Compression that costs nothing: dead channels go, names and notes go. Always on, and proved each time by equal answers.

Removal is tried in two strengths: first what cannot change while inner values stay within 1000 times of what the calibration
samples showed, then what no input at all can change. What does not prove itself on the samples is not applied.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import onnxruntime

from converters.errors import RecipeFailed
from converters.graphs.dead_channels import Removed, remove_dead_channels
from converters.graphs.graph_view import GraphView, has_subgraphs
from converters.graphs.observe import Batch, observe, session
from runtime import parity

PROOF_DB: Final = 90.0
"""Other orders of summation in float32 differ by less than this; a wrong channel by far more."""

_SAMPLES: Final = 32


@dataclass(frozen=True)
class Compressed:
    """A model that answers as the given one does. `proof_db` is the least likeness of any output on the samples."""

    model: onnx.ModelProto
    removed: tuple[Removed, ...] = ()
    proof_db: float = parity.SQNR_LIMIT_DB

    @property
    def channels(self) -> int:
        """How many channels went."""
        return sum(each.channels for each in self.removed)

    def describe(self) -> str:
        """For people: what went, and how it was proved; empty where nothing did."""
        if not self.removed:
            return ""
        of = sum(each.of for each in self.removed)
        proof = (
            "equal" if self.proof_db >= parity.SQNR_LIMIT_DB else f"equal within float32's rounding ({self.proof_db:.0f} dB)"
        )
        return (
            f"{self.channels} of the {of} channels of {len(self.removed)} layers answer the same for every input and were "
            f"removed; answers are {proof} on the calibration samples."
        )


def compress(model: onnx.ModelProto, batches: Sequence[Batch]) -> Compressed:
    """The model without its dead channels, or the model itself where there are none or the proof fails.

    `batches` are some calibration samples, at most `_SAMPLES` of which are used. The given model is left as it is.
    """
    samples = list(_first(batches))
    if has_subgraphs(model) or not samples:
        return Compressed(model)
    try:
        simple = simplify(model)
        largest = _largest(simple, samples)
        for known in (largest, {}):
            found = _attempt(model, simple, known, samples)
            if found is not None:
                return found
    except (RecipeFailed, onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return Compressed(model)  # what cannot be looked into is left as it is; the pipeline says what is wrong with it
    return Compressed(model)


def simplify(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model after onnxruntime's exact simplifications (batch normalisation folded), every shape inferred.

    Raises `RecipeFailed`.
    """
    with tempfile.TemporaryDirectory(prefix="edgeward-convert-") as work:
        target = Path(work) / "simplified.onnx"
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(target)
        options.log_severity_level = 3
        try:
            onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own classes have no common root but Exception
            raise RecipeFailed(f"cannot be simplified by onnxruntime: {str(error).splitlines()[0]}") from error
        simple = onnx.load_model(str(target))
    del simple.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(simple)


def strip_names(model: onnx.ModelProto) -> None:
    """Shorten, in place, the names of inner values and constants; drop those of nodes, and all notes. Inputs and outputs stay.

    The names are dealt out in order, so that two versions of one architecture have the same ones.
    """
    graph = model.graph
    for field in ("doc_string", "producer_name", "producer_version", "domain"):
        model.ClearField(field)
    del model.metadata_props[:]
    graph.ClearField("doc_string")
    graph.name = "g"
    for node in graph.node:
        node.ClearField("name")
        node.ClearField("doc_string")
        del node.metadata_props[:]
    for tensor in graph.initializer:
        tensor.ClearField("doc_string")
        del tensor.metadata_props[:]
    del graph.value_info[:]
    del graph.metadata_props[:]
    if not has_subgraphs(model) and not graph.sparse_initializer and not graph.quantization_annotation:
        _rename(graph)


def _rename(graph: onnx.GraphProto) -> None:
    fixed = {value.name for value in (*graph.input, *graph.output)}
    names = {name: name for name in fixed} | {"": ""}
    fresh = (name for name in _short_names() if name not in fixed)
    for node in graph.node:
        for values in (node.input, node.output):
            for at, name in enumerate(values):
                if name not in names:
                    names[name] = next(fresh)
                values[at] = names[name]
    for tensor in graph.initializer:
        tensor.name = names.setdefault(tensor.name, tensor.name)


def _short_names() -> Iterator[str]:
    letters = "abcdefghijklmnopqrstuvwxyz"
    count = 0
    while True:
        text, rest = "", count
        while True:
            text = letters[rest % 26] + text
            rest = rest // 26 - 1
            if rest < 0:
                break
        yield text
        count += 1


def _attempt(
    given: onnx.ModelProto, simple: onnx.ModelProto, largest: Mapping[str, float], samples: Sequence[Batch]
) -> Compressed | None:
    changed = onnx.ModelProto()
    changed.CopyFrom(simple)
    removed = remove_dead_channels(changed, largest)
    if not removed:
        return None
    onnx.checker.check_model(changed)
    proof = likeness(given, changed, samples)
    return Compressed(changed, tuple(removed), proof) if proof >= PROOF_DB else None


def likeness(before: onnx.ModelProto, after: onnx.ModelProto, samples: Sequence[Batch]) -> float:
    """How near the answers of two models are on the samples, in dB: the worst output counts. Raises `RecipeFailed`."""
    engines = [session(model.SerializeToString()) for model in (before, after)]
    worst = parity.SQNR_LIMIT_DB
    for batch in samples:
        try:
            answers = [engine.run(None, batch) for engine in engines]
        except Exception as error:
            raise RecipeFailed(f"fails on the data: {str(error).splitlines()[0]}") from error
        worst = min([worst, *(parity.likeness_db(one, other) for one, other in zip(*answers, strict=True))])
    return worst


def _largest(model: onnx.ModelProto, samples: Sequence[Batch]) -> dict[str, float]:
    """The largest magnitude of every layer's input that the samples showed."""
    view = GraphView(model)
    layers = [node for node in view.nodes if node.op_type in ("Conv", "Gemm", "MatMul")]
    values = [node.input[0] for node in layers if view.constant(node.input[0]) is None]
    found: dict[str, float] = {}
    for shown in observe(model, values, samples):
        for name, value in shown.items():
            if value.dtype == np.float32 and value.size:
                found[name] = max(found.get(name, 0.0), float(np.abs(value).max()))
    return found


def _first(batches: Sequence[Batch]) -> Iterator[Batch]:
    left = _SAMPLES
    for batch in batches:
        if left <= 0:
            return
        size = len(next(iter(batch.values())))
        yield batch
        left -= size
