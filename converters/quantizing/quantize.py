"""Applies recipes: static int8 by onnxruntime.quantization, weight-only int8 by `weights.py`, LiteRT's by `tflite`.

Everything that onnxruntime's tools raise is mapped here to `RecipeFailed`: a recipe that does not fit a model costs one
variant, never the conversion. The same model, samples and recipe give the same bytes.
"""

from __future__ import annotations

import itertools
import re
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

from converters.errors import RecipeFailed
from converters.graphs.equalize import equalize
from converters.graphs.graph_view import GraphView, has_subgraphs, layer_weights
from converters.graphs.lossless import PROOF_DB, likeness, simplify, strip_names
from converters.graphs.smooth import smooth
from converters.graphs.terse import strip_defaults, strip_zero_points
from converters.graphs.weights import halve_named, halve_rest, halve_weights, quantize_tables, quantize_weights
from converters.quantizing.bias import correct_biases, shift_biases
from converters.quantizing.ranges import Ranges
from converters.quantizing.sensitivity import NodeNoise, node_noise
from converters.recipe import (
    PRODUCTS,
    DynamicRecipe,
    FloatRecipe,
    HalfRecipe,
    Recipe,
    StaticRecipe,
    TfliteRecipe,
    TrainedRecipe,
    WeightsRecipe,
)
from converters.sources import Source
from converters.tflite.variants import TfliteMaker

Batch = dict[str, NDArray[Any]]

_ACTIVATIONS: Final = ("Relu", "Clip")
_NO_INTEGER_FORM: Final = "changes nothing: none of the model's operators has an integer form"
_AXIS_OPSET: Final = 13
"""The first opset whose DequantizeLinear has one scale a channel."""


class Quantizer:
    """Makes the variants of one model. `prepared` folds constants and normalisation, and evens channels out, once for all."""

    def __init__(self, source: Source, *, batches: Callable[[], Iterable[Batch]]) -> None:
        self._source = source
        self._batches = batches
        self._prepared: onnx.ModelProto | None = None
        self._tflite: TfliteMaker | None = None
        self._ranges: dict[float | None, Ranges] = {}
        self._last: tuple[StaticRecipe, onnx.ModelProto] | None = None

    def apply(self, recipe: Recipe) -> bytes:
        """The variant's file, of the recipe's format. Raises `RecipeFailed`."""
        if isinstance(recipe, TrainedRecipe):
            return self.apply(recipe.then)
        if isinstance(recipe, TfliteRecipe):
            return self._for_litert().apply(recipe)
        try:
            model = self._made(recipe)
            strip_names(model)
            strip_defaults(model)
            strip_zero_points(model)
            onnx.checker.check_model(model)
        except (RecipeFailed, OSError):  # a full disk is no fault of the recipe
            raise
        except Exception as error:  # the tools below raise anything from AssertionError to their own
            raise RecipeFailed(f"cannot be made from this model: {_first_line(error)}") from error
        return model.SerializeToString(deterministic=True)

    def noise(self, recipe: StaticRecipe) -> list[NodeNoise]:
        """What each node of the simplified model adds to the noise under a recipe, worst first. Raises `RecipeFailed`."""
        if self._last is None or self._last[0] != recipe:
            self._static(recipe)
        assert self._last is not None
        return node_noise(self._for(recipe), self._last[1], self._batches())

    def noisy_weights(self, recipe: WeightsRecipe) -> list[str]:
        """Layers whose 8-bit weights add noise, by name, most for what they would cost first. Raises `RecipeFailed`."""
        sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in self.prepared().graph.initializer}
        costs = {
            node.name: sizes[node.input[1]]
            for node in self.prepared().graph.node
            if len(node.input) > 1 and sizes.get(node.input[1], 0) >= recipe.smallest
        }
        noise = [each for each in node_noise(self.prepared(), self._weights(recipe), self._batches()) if each.node in costs]
        return [each.node for each in sorted(noise, key=lambda each: -each.added / costs[each.node] ** 0.5)]

    def _made(self, recipe: FloatRecipe | StaticRecipe | DynamicRecipe | WeightsRecipe | HalfRecipe) -> onnx.ModelProto:
        if isinstance(recipe, FloatRecipe):
            return _copy(self._source.model)
        if isinstance(recipe, DynamicRecipe):
            return self._dynamic(recipe)
        if isinstance(recipe, HalfRecipe):
            return self._half()
        return self._static(recipe) if isinstance(recipe, StaticRecipe) else self._weights(recipe)

    def _for_litert(self) -> TfliteMaker:
        if self._tflite is None:
            self._tflite = TfliteMaker(self.prepared(), batches=self._batches)
        return self._tflite

    def _static(self, recipe: StaticRecipe) -> onnx.ModelProto:
        model = self._for(recipe)
        if not any(node.op_type in recipe.operators for node in model.graph.node):
            raise RecipeFailed(_NO_INTEGER_FORM)
        with tempfile.TemporaryDirectory(prefix="edgeward-convert-") as work:
            prepared, target = Path(work) / "prepared.onnx", Path(work) / "static.onnx"
            options = self._options(recipe, model)
            if not options["TensorQuantOverrides"]:
                raise RecipeFailed("changes nothing: no value that its operators take or give is float32 and varies")
            _declare(model, options["TensorQuantOverrides"])
            add_pre_process_metadata(model)
            prepared.write_bytes(model.SerializeToString(deterministic=True))
            quantize_static(
                prepared,
                target,
                _Reader(self._one_sample()),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=sorted(recipe.operators),
                per_channel=recipe.per_channel,
                reduce_range=recipe.reduce_range,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
                calibration_providers=["CPUExecutionProvider"],
                nodes_to_exclude=_with_partners(model, recipe.excluded),
                extra_options=options,
            )
            made = onnx.load_model(str(target))
        if not any(node.op_type == "QuantizeLinear" for node in made.graph.node):
            raise RecipeFailed(_NO_INTEGER_FORM)
        if recipe.corrected and not correct_biases(model, made, self._batches()):
            raise RecipeFailed("changes nothing: no layer has a bias to correct, or there are too many layers")
        quantize_tables(made)
        self._last = (recipe, _copy(_slim(made)))
        return made

    def _options(self, recipe: StaticRecipe, model: onnx.ModelProto) -> dict[str, Any]:
        """The ranges are our own, from all samples: onnxruntime's calibrator would measure them anew for each recipe."""
        key = recipe.smooth
        if key not in self._ranges:
            self._ranges[key] = Ranges(model, self._batches)
        view = GraphView(model)
        computed = {
            name
            for node in view.nodes
            if node.op_type in recipe.operators
            for name in (*node.input, *node.output)
            if view.maker(name) is not None or name in view.inputs
        }
        ranges = self._ranges[key].of(sorted(computed), recipe.clipping)
        options: dict[str, Any] = {
            "ActivationSymmetric": recipe.symmetric,
            "TensorQuantOverrides": {
                name: [{"rmin": np.float32(low), "rmax": np.float32(high)}] for name, (low, high) in ranges.items()
            },
        }
        if recipe.smooth is not None:
            options["OpTypesToExcludeOutputQuantization"] = list(PRODUCTS)
        return options

    def _one_sample(self) -> list[Batch]:
        """What onnxruntime's calibrator is shown, which wants to see something."""
        return [{name: values[:1] for name, values in batch.items()} for batch in itertools.islice(self._batches(), 1)]

    def _for(self, recipe: StaticRecipe) -> onnx.ModelProto:
        """The simplified model as this recipe wants it: smoothed where it asks for that. A copy."""
        model = _copy(self.prepared())
        if recipe.smooth is not None:
            if not smooth(model, list(self._batches()), recipe.smooth):
                raise RecipeFailed("changes nothing: the model has no products with constant weights to smooth")
            model = onnx.shape_inference.infer_shapes(model)
        return model

    def _dynamic(self, recipe: DynamicRecipe) -> onnx.ModelProto:
        with tempfile.TemporaryDirectory(prefix="edgeward-convert-") as work:
            prepared, target = Path(work) / "prepared.onnx", Path(work) / "dynamic.onnx"
            model = _copy(self.prepared())
            if recipe.smooth is not None:
                smooth(model, list(self._batches()), recipe.smooth)
            add_pre_process_metadata(model)
            prepared.write_bytes(model.SerializeToString(deterministic=True))
            quantize_dynamic(
                prepared, target, op_types_to_quantize=list(PRODUCTS),
                per_channel=True, reduce_range=True, weight_type=QuantType.QInt8,
            )  # fmt: skip
            made = onnx.load_model(str(target))
        if not any(node.op_type == "DynamicQuantizeLinear" for node in made.graph.node):
            raise RecipeFailed("changes nothing: the model has no products with constant weights")
        quantize_tables(made)
        return _slim(made)

    def _weights(self, recipe: WeightsRecipe) -> onnx.ModelProto:
        model = _copy(self.prepared())
        halve_named(model, {node.input[1] for node in model.graph.node if node.name in recipe.halved})
        if not has_subgraphs(model):
            shift_biases(model, self._batches(), smallest=recipe.smallest)
        if not quantize_weights(model, smallest=recipe.smallest):
            raise RecipeFailed(f"changes nothing: no layer of the model has {recipe.smallest} float32 weights or more")
        halve_rest(model)
        return _slim(model)

    def _half(self) -> onnx.ModelProto:
        model = _copy(self.prepared())
        if not halve_weights(model):
            raise RecipeFailed("changes nothing: the model has no float32 weights that 16-bit floats can hold")
        return _slim(model)

    def prepared(self) -> onnx.ModelProto:
        """The model after onnxruntime's exact graph simplifications, shapes known where they can be, every node named."""
        if self._prepared is None:
            model = onnx.shape_inference.infer_shapes(_modern(_slim(simplify(self._source.model))))
            for node in model.graph.node:
                node.name = node.name or next(name for name in node.output if name)
            _flatten_biases(model)
            self._prepared = self._evened(model)
        return self._prepared

    def _evened(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """The model with the channels between its layers evened out, where it then answers the same."""
        even = _copy(model)
        samples = list(itertools.islice(self._batches(), 2))
        try:
            changed = not has_subgraphs(model) and bool(samples) and equalize(even, samples) > 0
            return even if changed and likeness(model, even, samples) >= PROOF_DB else model
        except RecipeFailed:  # what cannot be looked into is left as it is; the recipes say what is wrong with it
            return model


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
    """Hands the calibration batches to onnxruntime, one at a time."""

    def __init__(self, batches: Iterable[Batch]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> Batch | None:
        """The next batch, or None after the last."""
        return next(self._batches, None)


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    return copied


def _with_partners(model: onnx.ModelProto, excluded: Iterable[str]) -> list[str]:
    """These nodes, the layers whose activation they are, and the activations of the layers among them."""
    view, wanted = GraphView(model), set(excluded)
    for node in view.nodes:
        maker = view.maker(node.input[0]) if node.op_type in _ACTIVATIONS and node.input else None
        if maker is not None and layer_weights(maker) is not None and wanted & {node.name, maker.name}:
            wanted |= {node.name, maker.name}
    return sorted(wanted)


def _declare(model: onnx.ModelProto, names: Iterable[str]) -> None:
    """Say that these values are float32 where shape inference could not: the tools know no others, and behind an operator of
    another domain, such as scikit-learn's scaler, it knows nothing.
    """
    graph = model.graph
    known = {value.name for value in (*graph.value_info, *graph.input, *graph.output)}
    fresh = [name for name in names if name not in known]
    graph.value_info.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in fresh)


def _flatten_biases(model: onnx.ModelProto) -> None:
    """Store biases of products [1, outputs], as scikit-learn's exporter gives them, as [outputs]: the tools take no others."""
    view = GraphView(model)
    for node in view.nodes:
        bias = view.operand(node, 2) if node.op_type == "Gemm" else None
        if bias is not None and bias.ndim == 2 and bias.shape[0] == 1 and len(view.readers(node.input[2])) == 1:
            tensor = next(each for each in model.graph.initializer if each.name == node.input[2])
            tensor.CopyFrom(numpy_helper.from_array(bias[0], tensor.name))


def _first_line(error: Exception) -> str:
    """What a tool says, without the names of this run's temporary files: reports are the same in every run."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return re.sub(r"\S*/(edgeward-convert-|ort\.quant\.)\S*", "the model", text).rstrip(".")


def _slim(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop what no engine reads: tools' notes, inner shapes, imports of operator sets that no node uses."""
    del model.metadata_props[:]
    del model.graph.value_info[:]
    model.ClearField("doc_string")
    model.graph.ClearField("doc_string")
    del model.graph.metadata_props[:]
    for tensor in model.graph.initializer:
        del tensor.metadata_props[:]
    for node in model.graph.node:
        del node.metadata_props[:]
        node.ClearField("doc_string")
    used = _domains(model.graph) | {"", "ai.onnx"}
    kept = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    return model


def _domains(graph: onnx.GraphProto) -> set[str]:
    found = {node.domain for node in graph.node}
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                found |= _domains(inner)
    return found


def _modern(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in the first opset that knows one scale a channel, where it was in an older one."""
    return model if _opset(model) >= _AXIS_OPSET else onnx.version_converter.convert_version(model, _AXIS_OPSET)


def _opset(model: onnx.ModelProto) -> int:
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
