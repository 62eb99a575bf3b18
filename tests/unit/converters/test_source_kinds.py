"""What a model is, told by its content; and what to do with what cannot be read."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from converters.errors import SourceRejected
from converters.sources.kinds import kind_of


def zipped(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return path


def test_content_decides_and_not_the_name(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x89HDF\r\n\x1a\n")
    assert kind_of(str(path)) == "keras"
    path.write_bytes(b"\x1c\0\0\0TFL3")
    assert kind_of(str(path)) == "tflite"
    path.write_bytes(pickle.dumps({"a": 1}))
    assert kind_of(str(path)) == "sklearn"
    assert kind_of(str(zipped(path, "config.json", "metadata.json", "model.weights.h5"))) == "keras"
    assert kind_of(str(zipped(path, "schema.json", "1.npy"))) == "skops"
    assert kind_of(str(zipped(path, "m/archive_format", "m/models/model.json"))) == "torch-export"


def test_a_saved_model_is_a_directory_with_its_graph(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"")
    assert kind_of(str(tmp_path)) == "saved-model"


def test_a_factory_is_what_is_no_file_and_spelled_so(tmp_path: Path) -> None:
    assert kind_of("package.module:build") == "torch-factory"
    assert kind_of(str(tmp_path / "missing.onnx")) == "onnx"


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("m/data.pkl", "m/data/0"), r"package\.module:factory --state"),
        (("m/data.pkl", "m/constants.pkl"), "TorchScript"),
        (("a.npy", "b.npy"), "holds arrays and no model"),
        (("readme.txt",), "no known kind"),
    ],
)
def test_an_archive_that_cannot_be_read_is_told_what_to_do(names: tuple[str, ...], said: str, tmp_path: Path) -> None:
    with pytest.raises(SourceRejected, match=said):
        kind_of(str(zipped(tmp_path / "m.zip", *names)))


def test_a_broken_archive_is_told(tmp_path: Path) -> None:
    path = zipped(tmp_path / "m.keras", "config.json", "model.weights.h5")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(SourceRejected, match="breaks off or is damaged"):
        kind_of(str(path))


def test_a_directory_that_is_no_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceRejected, match=r"without saved_model\.pb"):
        kind_of(str(tmp_path))
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(SourceRejected, match="a bundle already"):
        kind_of(str(tmp_path))


def test_arrays_in_numpys_own_archive_are_no_model(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.zeros(3))
    with pytest.raises(SourceRejected, match="Give them as the data"):
        kind_of(str(tmp_path / "data.npz"))
