"""Reads Keras (`.keras`, and `.h5` of Keras 2 and 3) and TensorFlow SavedModels, by tf2onnx. Needs the extra `tensorflow`.

Layers that carry Python code (Lambda) run it when they are loaded, so they are refused unless the file is trusted. Names of
inputs become the data's, and what tf2onnx leaves of batch normalisation is folded into the layer before it.
"""

from __future__ import annotations

import json
import logging
import warnings
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx

from converters.errors import DataRejected, SourceRejected
from converters.sources.exchange import Array, Reading, Request, Samples, needed
from converters.sources.folding import fold
from converters.sources.layouts import fitting
from converters.sources.matching import free_first_axis, match, rename, sort_nodes

_OPSET: Final = 17
_SIGNATURE: Final = "serving_default"
_BATCH: Final = 32
_CONFIG_BYTES: Final = 2**26


@dataclass(frozen=True)
class Saved:
    """A SavedModel's one signature: TensorFlow's function, which must not outlive the object it came from."""

    owner: Any
    function: Any
    inputs: Mapping[str, Any]
    outputs: tuple[str, ...]


def load(request: Request) -> Any:  # noqa: ANN401  # TensorFlow is not always installed
    """The Keras model, or the SavedModel's signature. Raises `SourceRejected`, `ReaderMissing`."""
    tensorflow = needed("tensorflow", "tensorflow", "a Keras model or a SavedModel")
    _silence()
    if request.kind == "saved-model":
        return _saved(tensorflow, Path(request.location))
    keras = needed("keras", "tensorflow", "a Keras model")
    path = Path(request.location)
    if not request.trust_pickle:
        _refuse_code(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return keras.models.load_model(
                path, compile=False, safe_mode=not request.trust_pickle, custom_objects=_of_keras_2(keras)
            )
    except Exception as error:  # Keras raises whatever its layers do
        raise SourceRejected(
            f"{path} cannot be loaded by Keras {keras.__version__}: {_first(error)} Save it again from the version "
            "that made it, with model.save('model.keras'), or give a SavedModel (model.export)."
        ) from error


def read(model: Any, samples: Samples, *, stages: bool) -> Reading:  # noqa: ANN401
    """Turn a Keras model or a SavedModel's signature into ONNX. Raises `SourceRejected`, `DataRejected`, `ReaderMissing`."""
    tensorflow = needed("tensorflow", "tensorflow", "a Keras model")
    tf2onnx = needed("tf2onnx", "tensorflow", "a Keras model")
    _silence()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        saved = model if isinstance(model, Saved) else _signature(tensorflow, model, samples)
        feeds = match(list(saved.inputs), samples, "The model")
        arrays = {name: _fitting(samples[feeds[name]], spec, feeds[name]) for name, spec in saved.inputs.items()}
        made = _to_onnx(tensorflow, tf2onnx, saved)
        before = _answers(saved, arrays)
        seen = [] if not stages or isinstance(model, Saved) else _stages(model, arrays)
    names = dict(zip((value.name for value in made.graph.input), (feeds[name] for name in saved.inputs), strict=True))
    names |= dict(zip((value.name for value in made.graph.output), saved.outputs, strict=True))
    rename(made, names)
    fold(made)
    return Reading(model=made, before=before, tools=_tools(tensorflow, tf2onnx, model), stages=seen)


def _tools(tensorflow: Any, tf2onnx: Any, model: Any) -> dict[str, str]:  # noqa: ANN401
    found = {"tensorflow": str(tensorflow.__version__), "tf2onnx": str(tf2onnx.__version__)}
    if not isinstance(model, Saved):
        found["keras"] = str(needed("keras", "tensorflow", "a Keras model").__version__)
    return found


def _refuse_code(path: Path) -> None:
    """Keras opens `.h5` files without its own safe mode: look for code before anything is loaded."""
    text = _config(path)
    try:
        found = _lambdas(json.loads(text))
    except ValueError as error:
        raise SourceRejected(f"{path}: its model_config is damaged: {error}. Save it again.") from error
    if found:
        raise SourceRejected(
            f"{path}: the layer {found[0]!r} is a Lambda, which holds Python code that runs when it is loaded. If you know who "
            "made it, add --trust-pickle; better: write it as a layer, or export a SavedModel (model.export)."
        )


def _config(path: Path) -> str | bytes:
    """The model's architecture as JSON, from either kind of file."""
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive, archive.open("config.json") as member:
                return member.read(_CONFIG_BYTES)
        except (KeyError, OSError, zipfile.BadZipFile, zlib.error) as error:
            raise SourceRejected(f"{path} breaks off or is damaged: {error}. Save it again.") from error
    h5py = needed("h5py", "tensorflow", "a Keras .h5 file")
    try:
        with h5py.File(path, "r") as file:
            text = file.attrs.get("model_config")
    except OSError as error:
        raise SourceRejected(f"{path} is no whole HDF5 file: {_first(error)} Copy or save it again.") from error
    if text is None:
        raise SourceRejected(
            f"{path} holds weights and no model. Save the whole model: model.save('model.keras'), not save_weights."
        )
    assert isinstance(text, str | bytes)
    return text


def _lambdas(config: Any) -> list[str]:  # noqa: ANN401  # whatever JSON holds
    """The names of all Lambda layers, however deep they lie."""
    if isinstance(config, list):
        return [name for each in config for name in _lambdas(each)]
    if not isinstance(config, dict):
        return []
    inner = [name for each in config.values() for name in _lambdas(each)]
    if config.get("class_name") == "Lambda":
        own = config.get("config")
        inner.insert(0, str(own.get("name", "lambda")) if isinstance(own, dict) else "lambda")
    return inner


def _of_keras_2(keras: Any) -> dict[str, Any]:  # noqa: ANN401
    """Layers whose Keras 2 configuration has fields that Keras 3 refuses, though they say nothing."""

    class DepthwiseConv2D(keras.layers.DepthwiseConv2D):  # type: ignore[misc]  # Keras is not always installed
        def __init__(self, *arguments: Any, groups: int = 1, **settings: Any) -> None:  # noqa: ANN401
            if groups != 1:
                raise ValueError(f"DepthwiseConv2D with groups={groups} has no form in Keras 3")
            super().__init__(*arguments, **settings)

    return {"DepthwiseConv2D": DepthwiseConv2D}


def _saved(tensorflow: Any, path: Path) -> Saved:  # noqa: ANN401
    try:
        owner = tensorflow.saved_model.load(str(path))
    except Exception as error:  # TensorFlow raises its own, and those of protobuf
        raise SourceRejected(f"{path} cannot be loaded by TensorFlow {tensorflow.__version__}: {_first(error)}") from error
    names = sorted(owner.signatures)
    chosen = _SIGNATURE if _SIGNATURE in names else next((name for name in names if not name.startswith("_")), None)
    if chosen is None:
        raise SourceRejected(
            f"{path} has no signature to call. Save it with model.export(path), or give tf.saved_model.save its signatures."
        )
    function = owner.signatures[chosen]
    specs = function.structured_input_signature[1]
    return Saved(owner, function, dict(specs), tuple(function.structured_outputs))


def _signature(tensorflow: Any, model: Any, samples: Samples) -> Saved:  # noqa: ANN401
    """A Keras model as a function of its inputs, by name, with a free first axis."""
    names, shapes = _keras_inputs(model, samples)
    specs = {
        name: tensorflow.TensorSpec([None, *shape[1:]], dtype, name=name)
        for name, (shape, dtype) in zip(names, shapes, strict=True)
    }

    def call(**arrays: Any) -> Any:  # noqa: ANN401
        values = [arrays[name] for name in names]
        answered = model(_as_taken(model, names, values), training=False)
        outputs = answered.values() if isinstance(answered, dict) else tensorflow.nest.flatten(answered)
        return {name: tensorflow.identity(value) for name, value in zip(_outputs(model, answered), outputs, strict=True)}

    function = tensorflow.function(call)
    concrete = function.get_concrete_function(**specs)
    return Saved(model, function, specs, tuple(_outputs(model, concrete.structured_outputs)))


def _keras_inputs(model: Any, samples: Samples) -> tuple[list[str], list[tuple[tuple[int | None, ...], str]]]:  # noqa: ANN401
    found = getattr(model, "inputs", None)
    if found:
        return [each.name for each in found], [(tuple(each.shape), each.dtype) for each in found]
    return list(samples), [((None, *values.shape[1:]), values.dtype.name) for values in samples.values()]


def _as_taken(model: Any, names: Sequence[str], values: Sequence[Any]) -> Any:  # noqa: ANN401
    """The arguments in the structure in which the model was built."""
    structure = getattr(model, "_inputs_struct", None)
    if isinstance(structure, dict):
        by_name = dict(zip(names, values, strict=True))
        return {key: by_name[tensor.name] for key, tensor in structure.items()}
    if isinstance(structure, list | tuple) or len(values) > 1:
        return list(values)
    return values[0]


def _outputs(model: Any, answered: Any) -> list[str]:  # noqa: ANN401
    if isinstance(answered, dict):
        return list(answered)
    names = getattr(model, "output_names", None)
    count = len(answered) if isinstance(answered, list | tuple) else 1
    if names and len(names) == count and len(set(names)) == count:
        return list(names)
    return ["output"] if count == 1 else [f"output_{at}" for at in range(count)]


def _fitting(values: Array, spec: Any, name: str) -> Array:  # noqa: ANN401
    fault = fitting(values, spec.dtype.name, tuple(spec.shape)[1:], name)
    if fault:
        raise DataRejected(fault)
    return values


def _to_onnx(tensorflow: Any, tf2onnx: Any, saved: Saved) -> onnx.ModelProto:  # noqa: ANN401
    names = list(saved.inputs)

    def call(*values: Any) -> list[Any]:  # noqa: ANN401
        answered = saved.function(**dict(zip(names, values, strict=True)))
        return [answered[name] for name in saved.outputs]

    flat = tensorflow.function(call)
    specs = [tensorflow.TensorSpec(spec.shape, spec.dtype, name=f"in{at}") for at, spec in enumerate(saved.inputs.values())]
    try:
        made, _ = tf2onnx.convert.from_function(flat, input_signature=specs, opset=_OPSET)
    except Exception as error:  # TensorFlow's and tf2onnx's own kinds, and bare ones
        raise SourceRejected(f"tf2onnx {tf2onnx.__version__} cannot convert the model: {_first(error)}") from error
    model = onnx.ModelProto.FromString(made.SerializeToString())
    strange = [node for node in model.graph.node if node.domain not in ("", "ai.onnx", "ai.onnx.ml")]
    if strange:
        raise SourceRejected(
            f"The node {strange[0].name!r} ({strange[0].op_type}) has no ONNX form. Build that part from other layers."
        )
    _order(model, len(specs))
    sort_nodes(model)
    free_first_axis(model)
    return model


def _order(model: onnx.ModelProto, count: int) -> None:
    """Inputs in the order of the signature: tf2onnx sorts as it likes."""
    inputs = {value.name.partition(":")[0]: value for value in model.graph.input}
    ordered = [onnx.ValueInfoProto.FromString(inputs[f"in{at}"].SerializeToString()) for at in range(count)]
    del model.graph.input[:]
    model.graph.input.extend(ordered)


def _answers(saved: Saved, arrays: Mapping[str, Array]) -> list[Array]:
    count = len(next(iter(arrays.values())))
    first = next(iter(saved.inputs.values())).shape[0]
    step = _BATCH if first is None else int(first)
    pieces: list[list[Array]] = [[] for _ in saved.outputs]
    owner = needed("tensorflow", "tensorflow", "a Keras model")
    for start in range(0, count - count % step if first is not None else count, step):
        values = {name: owner.constant(each[start : start + step]) for name, each in arrays.items()}
        answered = saved.function(**values)
        for at, name in enumerate(saved.outputs):
            pieces[at].append(np.asarray(answered[name]))
    return [np.concatenate(each) for each in pieces]


def _stages(model: Any, arrays: Mapping[str, Array]) -> list[tuple[str, Array]]:  # noqa: ANN401
    """What each layer of a functional or sequential model answers for one sample; nothing for other models."""
    keras = needed("keras", "tensorflow", "a Keras model")
    if not getattr(model, "inputs", None):
        return []
    layers = [layer for layer in model.layers if type(layer).__name__ != "InputLayer" and hasattr(layer, "output")]
    inner = keras.Model(model.inputs, [layer.output for layer in layers])
    answered = inner([values[:1] for values in arrays.values()], training=False)
    return [
        (f"{type(layer).__name__} {layer.name!r}", np.asarray(value))
        for layer, value in zip(layers, answered, strict=True)
        if not isinstance(value, list | tuple | dict)
    ]


def _silence() -> None:
    for name in ("tensorflow", "tf2onnx", "absl", "keras"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _first(error: BaseException) -> str:
    lines = (str(error).strip() or type(error).__name__).splitlines()
    return f"{lines[0][:300].rstrip('.')}."
