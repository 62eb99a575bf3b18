"""Tells what a model is by its first bytes, never by its name alone; says what to do with those that cannot be read.

Opens nothing further than its first bytes and a zip's list of names.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Final, Literal

from converters.errors import SourceRejected
from converters.sources.exchange import Kind

FACTORY: Final = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
"""`package.module:factory`."""

_HDF5: Final = b"\x89HDF\r\n\x1a\n"
_ZIP: Final = b"PK\x03\x04"
_TFLITE: Final = b"TFL3"
_PICKLES: Final = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_COMPRESSED: Final = {b"\x78": ".joblib", b"\x1f\x8b": ".gz", b"BZh": ".bz2", b"\xfd7zXZ": ".xz", b"\x04\x22\x4d\x18": ".lz4"}
_JOBLIB_SUFFIXES: Final = frozenset({".joblib", ".pkl", ".pickle", ".gz", ".bz2", ".xz", ".z", ".lz4"})


def kind_of(location: str) -> Kind | Literal["onnx"]:
    """What lies at `location`. A file that is nothing known is `onnx`, whose reader says what is wrong.

    Raises `SourceRejected` for what is known and cannot be read, with what to do instead.
    """
    path = Path(location)
    if path.is_dir():
        return _directory(path)
    if not path.is_file():
        return "torch-factory" if FACTORY.fullmatch(location) else "onnx"
    return _file(path)


def _file(path: Path) -> Kind | Literal["onnx"]:
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError:
        return "onnx"
    if head.startswith(_HDF5):
        return "keras"
    if head[4:8] == _TFLITE:
        return "tflite"
    if head.startswith(_ZIP):
        return _archive(path)
    return "sklearn" if _is_pickle(path, head) else "onnx"


def _is_pickle(path: Path, head: bytes) -> bool:
    if head.startswith(_PICKLES):
        return True
    return path.suffix.lower() in _JOBLIB_SUFFIXES and head.startswith(tuple(_COMPRESSED))


def _directory(path: Path) -> Kind:
    if (path / "saved_model.pb").is_file():
        return "saved-model"
    if (path / "manifest.json").is_file():
        raise SourceRejected(f"{path} is a bundle already. Give the float model that it was made from.")
    raise SourceRejected(f"{path} is a directory without saved_model.pb. Give the model file, or a TensorFlow SavedModel.")


def _archive(path: Path) -> Kind:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise SourceRejected(f"{path} breaks off or is damaged: {error}. Copy or save it again.") from error
    ends = {name.rpartition("/")[2] for name in names}
    if {"config.json", "model.weights.h5"} <= ends:
        return "keras"
    if "schema.json" in ends:
        return "skops"
    if "archive_format" in ends or "serialized_exported_program.json" in ends:
        return "torch-export"
    if "data.pkl" in ends:
        raise SourceRejected(_of_torch(path, scripted="constants.pkl" in ends))
    if all(name.endswith(".npy") for name in names):
        raise SourceRejected(f"{path} holds arrays and no model. Give them as the data.")
    raise SourceRejected(f"{path} is a zip archive of no known kind of model. docs/convert.md lists what is read.")


def _of_torch(path: Path, *, scripted: bool) -> str:
    if scripted:
        return (
            f"{path} is TorchScript, which torch.onnx no longer reads. Save the module it was made from with "
            "torch.export.save(torch.export.export(model, (example,), dynamic_shapes=…), 'model.pt2')."
        )
    return (
        f"{path} holds a PyTorch module's weights, and not how it computes. Give the function that builds the module, and this "
        f"file as its state: edgeward convert package.module:factory --state {path}, or save with torch.export.save (.pt2)."
    )
