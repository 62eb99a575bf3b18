"""Reads an ONNX file that somebody else made: size, structure, outside references and NaN are checked before an engine sees it.

External data (weights in files beside the model) is read only from the model's own folder and put into the model, because a
bundle's variant is one file. Nothing here runs the model; whether an engine takes it is found out by the conversion.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np
import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx import external_data_helper, numpy_helper

from converters.errors import SourceRejected
from fleet_protocol.digests import digest_of

MODEL_BYTES: Final = 2**31 - 1
"""Protobuf's own limit on one message; a larger model cannot be one file."""

_FLOATS: Final = frozenset(
    {
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.DOUBLE,
        onnx.TensorProto.FLOAT16,
        onnx.TensorProto.BFLOAT16,
    }
)
_PACKED: Final = frozenset({onnx.TensorProto.INT4, onnx.TensorProto.UINT4, onnx.TensorProto.FLOAT4E2M1})
"""Several elements to a byte."""

_FAULT_LETTERS: Final = 300
"""So much of what onnx's checker says is shown: it may go on for pages."""

_IR_OF_CONSTANTS: Final = 4
"""From this version of ONNX's format on, weights need not be inputs."""

_FIRST_BYTE: Final = b"\x08"
"""Field 1 of ModelProto, `ir_version`, which every writer puts first."""


@dataclass(frozen=True)
class Source:
    """A float model, whole: `model` has all its weights inside. `digest` is that of the given file and its data files.

    `path` is what people call it. `tools` are the versions that turned it into ONNX; `classes` its classes' names.
    """

    path: Path
    model: onnx.ModelProto
    digest: str
    tools: Mapping[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] = ()

    def content(self) -> bytes:
        """The model as one ONNX file."""
        return self.model.SerializeToString(deterministic=True)


def read_onnx(path: Path) -> Source:
    """Read and check an ONNX model. Raises `SourceRejected`, which says what is wrong with which file."""
    content = _read(path)
    model = _parse(path, content)
    external = _embed_external_data(path, model)
    _fix_weights(model)
    check_model(path, model)
    digest = digest_of(content) if not external else digest_of("\n".join([digest_of(content), *external]).encode())
    return Source(path=path, model=model, digest=digest)


def check_model(path: Path, model: onnx.ModelProto) -> None:
    """Refuse a model that is not valid, too large for one file, or holds NaN. Raises `SourceRejected`, which names `path`."""
    _check(path, model)
    _refuse_nan(path, model)


def _read(path: Path) -> bytes:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise SourceRejected(f"{path} is a directory. Give the .onnx file itself.")
        if not stat.S_ISREG(status.st_mode):
            raise SourceRejected(f"{path} is not a plain file.")
        if status.st_size == 0:
            raise SourceRejected(f"{path} is empty. Export or copy the model again.")
        if status.st_size > MODEL_BYTES:
            raise SourceRejected(f"{path} has {status.st_size} bytes; one ONNX file holds at most {MODEL_BYTES}.")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise SourceRejected(f"{path} does not exist.") from error
    except OSError as error:
        raise SourceRejected(f"{path} cannot be read: {error.strerror or error}.") from error


def _parse(path: Path, content: bytes) -> onnx.ModelProto:
    looks_like_onnx = content[:1] == _FIRST_BYTE
    try:
        model = onnx.load_model_from_string(content)
    except DecodeError as error:
        if looks_like_onnx:
            raise SourceRejected(
                f"{path} starts like an ONNX file but breaks off or is damaged. Export or copy it again."
            ) from error
        raise SourceRejected(f"{path} is not an ONNX file. Export the model to ONNX first; see docs/convert.md.") from error
    if not model.ir_version or not model.graph.node:
        raise SourceRejected(f"{path} is not an ONNX file: it holds no graph. Export the model to ONNX first.")
    return model


def _check(path: Path, model: onnx.ModelProto) -> None:
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        fault = " ".join(str(error).replace("==> Context:", "").split()).rstrip(".")[:_FAULT_LETTERS]
        raise SourceRejected(f"{path} is not a valid ONNX model: {fault}. Export it again.") from error
    except (EncodeError, ValueError) as error:
        raise SourceRejected(f"{path} with its external data is too large for one file: {error}") from error


def _fix_weights(model: onnx.ModelProto) -> None:
    """Make constants of weights that stand among the inputs too, as ONNX wanted up to IR version 3: nobody gives them."""
    weights = {tensor.name for tensor in model.graph.initializer}
    given = [value for value in model.graph.input if value.name not in weights]
    if len(given) < len(model.graph.input):
        del model.graph.input[:]
        model.graph.input.extend(given)
        model.ir_version = max(model.ir_version, _IR_OF_CONSTANTS)


def _refuse_nan(path: Path, model: onnx.ModelProto) -> None:
    for tensor in _tensors(model.graph):
        if tensor.data_type not in _FLOATS:
            continue
        bad = int(np.isnan(numpy_helper.to_array(tensor).astype(np.float32)).sum())
        if bad:
            raise SourceRejected(
                f"{path}: the weights {tensor.name!r} hold {bad} NaN. The training broke; export a checkpoint from before."
            )


def _embed_external_data(path: Path, model: onnx.ModelProto) -> list[str]:
    """Put the weights that stand in other files into the model; return those files' digests, sorted by name."""
    folder = path.parent.resolve()
    files: dict[Path, str] = {}
    for tensor in _tensors(model.graph):
        if not external_data_helper.uses_external_data(tensor):
            continue
        file = _contained(path, folder, tensor)
        if file not in files:
            files[file] = _digest_of_file(path, file, tensor.name)
        try:
            external_data_helper.load_external_data_for_tensor(tensor, str(folder))
        except (OSError, ValueError, onnx.checker.ValidationError) as error:
            raise SourceRejected(f"{path}: the data of {tensor.name!r} in {file} cannot be read: {error}") from error
        _check_size(path, file, tensor)
    return [files[file] for file in sorted(files)]


def _contained(path: Path, folder: Path, tensor: onnx.TensorProto) -> Path:
    """The file of a tensor's external data, which must lie in the model's own folder, links followed."""
    location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
    inside = PurePosixPath(location)
    file = (folder / location).resolve()
    if not location or inside.is_absolute() or ".." in inside.parts or not file.is_relative_to(folder):
        raise SourceRejected(
            f"{path}: the weights {tensor.name!r} point to {location!r}, outside the model's folder. That is refused; put the "
            "data file beside the model, or export with the weights inside."
        )
    if not file.is_file():
        raise SourceRejected(f"{path}: the weights {tensor.name!r} stand in {location!r}, which is not beside the model.")
    return file


def _digest_of_file(path: Path, file: Path, name: str) -> str:
    try:
        if file.stat().st_size > MODEL_BYTES:
            raise SourceRejected(f"{path}: the data file {file.name} of {name!r} is too large for one ONNX file.")
        return digest_of(file.read_bytes())
    except OSError as error:
        raise SourceRejected(f"{path}: {file} cannot be read: {error.strerror or error}.") from error


def _check_size(path: Path, file: Path, tensor: onnx.TensorProto) -> None:
    """The engine would read past the end of too little data."""
    if tensor.data_type in _PACKED:
        return
    expected = int(np.prod(tensor.dims, dtype=np.int64)) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    if len(tensor.raw_data) != expected:
        raise SourceRejected(
            f"{path}: {file.name} gives {len(tensor.raw_data)} bytes for the weights {tensor.name!r}, which need {expected}. "
            "The data file breaks off or belongs to another model."
        )


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every dense tensor of a graph and of the graphs inside its nodes."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from _attribute_tensors(attribute)


def _attribute_tensors(attribute: onnx.AttributeProto) -> Iterable[onnx.TensorProto]:
    if attribute.type == onnx.AttributeProto.TENSOR:
        yield attribute.t
    elif attribute.type == onnx.AttributeProto.TENSORS:
        yield from attribute.tensors
    elif attribute.type == onnx.AttributeProto.GRAPH:
        yield from _tensors(attribute.g)
    elif attribute.type == onnx.AttributeProto.GRAPHS:
        for graph in attribute.graphs:
            yield from _tensors(graph)
