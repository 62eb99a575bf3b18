"""Golden files come from outside: what is read, and what is refused before it costs anything."""

from __future__ import annotations

import contextlib
import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleet_protocol import limits
from runtime import golden
from runtime.errors import InvalidGolden
from tests.support import models


def good() -> dict[str, np.ndarray]:
    return {
        "input/x": np.ones((3, 2), np.float32),
        "output/y": np.ones((3, 4), np.float32),
        "label": np.arange(3, dtype=np.int64),
    }


def write(path: Path, **changes: np.ndarray | None) -> Path:
    arrays = good() | {name.replace("__", "/"): value for name, value in changes.items()}
    with path.open("wb") as file:
        np.savez(file, **{name: value for name, value in arrays.items() if value is not None})  # type: ignore[arg-type]
    return path


def with_header(path: Path, header: bytes, data: bytes = b"") -> Path:
    """A golden file whose input has a header of our own making."""
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("input/x.npy", content)
    return path


def test_a_golden_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    read = golden.read(write(tmp_path / "g.npz"))
    assert (set(read.inputs), set(read.outputs), read.samples) == ({"x"}, {"y"}, 3)
    np.testing.assert_array_equal(read.inputs["x"], np.ones((3, 2)))
    assert read.labels is not None
    assert read.labels.tolist() == [0, 1, 2]


def test_a_compressed_file_without_labels_is_read(tmp_path: Path) -> None:
    with (tmp_path / "g.npz").open("wb") as file:
        np.savez_compressed(file, **{name: value for name, value in good().items() if name != "label"})  # type: ignore[arg-type]
    assert golden.read(tmp_path / "g.npz").labels is None


def test_the_golden_file_of_the_test_models_is_read(tmp_path: Path) -> None:
    assert golden.read(models.linear_golden(tmp_path / "g.npz", count=5)).samples == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input__x": None}, "wanted input"),
        ({"output__y": None}, "wanted input"),
        ({"secret": np.ones(3)}, "secret"),
        ({"input__x": np.ones((2, 2), np.float32)}, r"arrays of \[2, 3\] samples"),
        ({"input__x": np.float32(1)}, r"arrays of \[0, 3\] samples"),
        ({"label": np.ones(3)}, "labels of type float64"),
        ({"label": np.ones((3, 1), np.int64)}, "labels of type int64"),
        ({"output__y": np.full((3, 4), np.nan, np.float32)}, "NaN or infinity in output y"),
        ({"output__y": np.ones((3, 4), np.complex64)}, "complex64"),
        ({"output__y": np.asfortranarray(np.ones((3, 4), np.float32))}, "Fortran order"),
    ],
)
def test_a_file_of_another_make_is_refused(tmp_path: Path, changes: dict[str, np.ndarray | None], message: str) -> None:
    with pytest.raises(InvalidGolden, match=message):
        golden.read(write(tmp_path / "g.npz", **changes))


def test_no_samples_at_all_are_refused(tmp_path: Path) -> None:
    empty = {name: array[:0] for name, array in good().items()}
    with pytest.raises(InvalidGolden, match=r"arrays of \[0\] samples"):
        golden.read(write(tmp_path / "g.npz", **{name.replace("/", "__"): array for name, array in empty.items()}))


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidGolden, match="holds object"):
        golden.read(write(tmp_path / "g.npz", input__x=np.array([object, 1, 2], object)))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 1099511627776)}\n", "and holds 4"),
        (b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}\n", "claims -4 bytes and holds 4"),
        (b"{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}\n", "claims 12 bytes and holds 4"),
        (b"{'descr': '<f2', 'fortran_order': False, 'shape': (1,)}\n", "claims 2 bytes and holds 4"),
        (b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}\n", "holds object"),
        (b"{'descr': '<f4', 'fortran_order': False}\n", "no npy header"),
        (b"__import__('os').abort()\n", "no npy header"),
        (b"{" * 500 + b"\n", "no npy header"),
        (b"\xff\xff\n", "no npy header"),
    ],
)
def test_a_header_that_lies_is_refused_before_anything_is_allocated(tmp_path: Path, header: bytes, message: str) -> None:
    with pytest.raises(InvalidGolden, match=message):
        golden.read(with_header(tmp_path / "g.npz", header, b"1234"))


def test_a_file_that_inflates_too_far_is_refused(tmp_path: Path) -> None:
    target = zipfile.ZipFile(tmp_path / "g.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1)
    with target as archive, archive.open("input/x.npy", "w") as member:
        piece = bytes(16 * limits.MIB)
        for _ in range(golden.INFLATED_BYTES // len(piece) + 1):
            member.write(piece)
    with pytest.raises(InvalidGolden, match="inflates to"):
        golden.read(tmp_path / "g.npz")


def test_a_file_that_is_too_large_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "g.npz").open("wb") as file:
        file.truncate(limits.GOLDEN_BYTES + 1)
    with pytest.raises(InvalidGolden, match="at most"):
        golden.read(tmp_path / "g.npz")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidGolden, match="No such file"):
        golden.read(tmp_path / "g.npz")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damage_raises_anything_but_its_own_error(tmp_path: Path, data: st.DataObject) -> None:
    whole = bytearray(_sample())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    del whole[data.draw(st.integers(len(whole) // 2, len(whole))) :]
    (tmp_path / "damaged.npz").write_bytes(whole)
    with contextlib.suppress(InvalidGolden):
        golden.read(tmp_path / "damaged.npz")


def _sample() -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **good())  # type: ignore[arg-type]
    return file.getvalue()
