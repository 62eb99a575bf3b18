"""Requests that a person wrote into a file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fleet_protocol.tensors import DataType, TensorSpec
from runtime import InvalidInput, inputs
from runtime.errors import MalformedRequest

ONE = (TensorSpec(name="x", datatype="FP32", shape=(-1, 3)),)
TWO = (*ONE, TensorSpec(name="n", datatype="INT64", shape=(-1,)))
WANTED = [[1.0, 2.0, 3.0]]


def saved(path: Path, value: object) -> Path:
    if path.suffix == ".npy":
        np.save(path, value)  # type: ignore[arg-type]  # each test brings an array
    elif path.suffix == ".npz":
        np.savez(path, **value)  # type: ignore[arg-type]  # each test brings arrays by name
    else:
        path.write_text(json.dumps(value))
    return path


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x.npy", np.array(WANTED, np.float32)),
        ("x.npy", np.array(WANTED[0], np.float64)),
        ("x.npy", np.array(WANTED, np.int16)),
        ("X.JSON", WANTED),
        ("x.npz", {"x": np.array(WANTED)}),
        ("x.json", WANTED),
        ("x.json", WANTED[0]),
        ("x.json", {"x": WANTED}),
        ("x.json", {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}),
    ],
)
def test_every_way_to_write_one_input_gives_the_same_array(tmp_path: Path, name: str, value: object) -> None:
    got = inputs.read(saved(tmp_path / name, value), ONE)["x"]
    assert (got.dtype.name, got.tolist()) == ("float32", WANTED)


def test_several_inputs_are_told_apart_by_name(tmp_path: Path) -> None:
    got = inputs.read(saved(tmp_path / "x.npz", {"x": np.ones((2, 3)), "n": np.array([1, 2], np.int32)}), TWO)
    assert (got["x"].dtype.name, got["n"].dtype.name) == ("float32", "int64")
    with pytest.raises(InvalidInput, match="one array and the model has the inputs x, n"):
        inputs.read(saved(tmp_path / "x.npy", np.ones((2, 3))), TWO)


def test_nothing_is_converted_that_would_lose_its_meaning(tmp_path: Path) -> None:
    got = inputs.read(saved(tmp_path / "x.npz", {"n": np.array([1.5])}), TWO)
    assert got["n"].dtype == np.float64


@pytest.mark.parametrize(
    ("datatype", "name", "value"),
    [
        ("INT64", "x.json", [1.5]),
        ("INT8", "x.npy", np.array([300])),
        ("BOOL", "x.json", ["no"]),
        ("FP32", "x.npy", np.array([1e39])),
    ],
)
def test_a_value_that_the_type_cannot_hold_is_refused(tmp_path: Path, datatype: DataType, name: str, value: object) -> None:
    path = saved(tmp_path / name, value)
    with pytest.raises(InvalidInput, match="Input x cannot be made of this"):
        inputs.read(path, (TensorSpec(name="x", datatype=datatype, shape=(-1,)),))


def test_an_unknown_name_is_left_for_the_model_to_refuse(tmp_path: Path) -> None:
    assert set(inputs.read(saved(tmp_path / "x.json", {"y": [1]}), ONE)) == {"y"}


NPY_OF_A_PEBIBYTE = (
    b"\x93NUMPY\x01\x00\x76\x00" + b"{'descr': '<f4', 'fortran_order': False, 'shape': (281474976710656,), }".ljust(117) + b"\n"
)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.npy", b"nothing", "cannot be read as .npy"),
        ("x.npy", NPY_OF_A_PEBIBYTE, "cannot be read as .npy"),
        ("x.npz", b"nothing", "cannot be read as .npz"),
        ("x.npz", NPY_OF_A_PEBIBYTE, "cannot be read as .npz: it is no archive of arrays"),
        ("x.npz", b"PK\x03\x04" + bytes(50), "cannot be read as .npz"),
        ("x.json", b"{", "cannot be read as .json"),
        ("x.json", b"[[1, 2], [3]]", "Input x cannot be made of this"),
        ("x.json", b'["a"]', "Input x cannot be made of this"),
        ("x.json", b'{"x": {"y": 1}}', "Input x cannot be made of this"),
        ("x.json", b'{"inputs": [{"name": "x"}]}', "missing required field"),
        ("x.png", b"", "none of .npy, .npz and .json"),
        ("x", b"", "none of .npy, .npz and .json"),
    ],
)
def test_a_file_that_is_no_request_is_said_so(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises((InvalidInput, MalformedRequest), match=message):
        inputs.read(tmp_path / name, ONE)


def test_a_missing_file_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="No such file"):
        inputs.read(tmp_path / "x.npy", ONE)
    with pytest.raises(InvalidInput, match=r"x\.png cannot be read: No such file"):
        inputs.from_files([tmp_path / "x.png"], ONE, None)


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([object], object), allow_pickle=True)
    with pytest.raises(InvalidInput, match="allow_pickle"):
        inputs.read(tmp_path / "x.npy", ONE)
