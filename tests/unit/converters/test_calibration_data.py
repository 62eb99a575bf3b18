"""Reading samples safely, holding them against the model, and dealing them into parts that share none."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib import format as npy
from numpy.typing import NDArray

from converters.data.calibration import SAMPLES_AT_LEAST, Dataset, load_dataset, make_dataset, split
from converters.errors import DataRejected, SourceRejected
from fleet_protocol.tensors import TensorSpec

PIXELS = (TensorSpec(name="pixels", datatype="FP32", shape=(-1, 4)),)


def save(path: Path, **arrays: NDArray[Any]) -> Path:
    np.savez(path, allow_pickle=True, **arrays)
    return path


def pixels(count: int = 40) -> NDArray[np.float32]:
    return np.arange(count * 4, dtype=np.float32).reshape(count, 4)


def test_arrays_named_as_the_inputs_are_read_and_others_left_alone(tmp_path: Path) -> None:
    path = save(tmp_path / "d.npz", pixels=pixels(), label=np.zeros(40, np.int32), train_pixels=np.full((3, 9), np.nan))
    data = load_dataset(path, PIXELS)
    assert list(data.inputs) == ["pixels"]
    assert data.labels is not None
    assert data.labels.dtype == np.int64
    assert len(data) == 40


def test_data_without_labels_is_taken(tmp_path: Path) -> None:
    assert load_dataset(save(tmp_path / "d.npz", pixels=pixels()), PIXELS).labels is None


def test_arrays_in_memory_fit_as_files_do() -> None:
    assert len(make_dataset({"pixels": pixels(), "label": np.zeros(40, np.int64)}, PIXELS)) == 40


def test_the_digest_of_arrays_depends_on_their_content() -> None:
    changed = pixels()
    changed[3, 2] += 1
    digests = {make_dataset({"pixels": values}, PIXELS).digest for values in (pixels(), pixels(), changed)}
    assert len(digests) == 2


def test_several_inputs_must_have_as_many_samples_each() -> None:
    specs = (*PIXELS, TensorSpec(name="weight", datatype="FP32", shape=(-1, 1)))
    with pytest.raises(DataRejected, match=r"different numbers of samples: .*'pixels': 40, 'weight': 39"):
        make_dataset({"pixels": pixels(), "weight": np.ones((39, 1), np.float32)}, specs)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataRejected, match=r"d\.npz does not exist"):
        load_dataset(tmp_path / "d.npz", PIXELS)


def test_a_directory_is_not_data(tmp_path: Path) -> None:
    with pytest.raises(DataRejected, match="is a directory"):
        load_dataset(tmp_path, PIXELS)


def test_a_wrong_name_says_what_the_file_holds_and_the_nearest(tmp_path: Path) -> None:
    path = save(tmp_path / "d.npz", pixel=pixels(), other=pixels())
    with pytest.raises(DataRejected, match=r"no array 'pixels' .* holds 'other', 'pixel'\. Did you mean to name 'pixel' so"):
        load_dataset(path, PIXELS)


def test_a_wrong_type_says_how_to_store_it(tmp_path: Path) -> None:
    path = save(tmp_path / "d.npz", pixels=pixels().astype(np.float64))
    with pytest.raises(DataRejected, match=r"'pixels' is float64; .*FP32.*\.astype\('float32'\)"):
        load_dataset(path, PIXELS)


@pytest.mark.parametrize("shape", [(40, 5), (160,), (40, 2, 2), (0, 4)])
def test_a_wrong_shape_is_shown_beside_the_wanted_one(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = save(tmp_path / "d.npz", pixels=np.zeros(shape, np.float32))
    with pytest.raises(DataRejected, match=r"'pixels' (has shape|holds no samples)"):
        load_dataset(path, PIXELS)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite_samples_are_counted_and_the_first_is_named(bad: float) -> None:
    values = pixels()
    values[[7, 9], 1] = bad
    with pytest.raises(DataRejected, match=r"NaN or infinity in 2 of 40 samples, first in sample 7"):
        make_dataset({"pixels": values}, PIXELS)


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        (np.zeros(39, np.int64), r"has shape \[39\]; 40 samples need the shape \[40\]"),
        (np.zeros((40, 1), np.int64), r"has shape \[40, 1\]"),
        (np.zeros(40, np.float32), "is float32; class numbers are wanted"),
        (np.array(["seven"] * 40), "class numbers are wanted"),
        (np.full(40, -1), "holds -1; classes count from 0"),
        (np.full(40, 2**63, np.uint64), "holds 9223372036854775808; no model has so many classes"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: NDArray[Any], match: str) -> None:
    with pytest.raises(DataRejected, match=match):
        make_dataset({"pixels": pixels(), "label": labels}, PIXELS)


def test_too_few_samples_are_refused() -> None:
    data = make_dataset({"pixels": pixels(SAMPLES_AT_LEAST - 1)}, PIXELS)
    with pytest.raises(DataRejected, match=f"has {SAMPLES_AT_LEAST - 1} samples; at least {SAMPLES_AT_LEAST}"):
        split(data, None, seed=0)


class Trap:
    """Its pickle creates a file when it is opened."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


def test_a_pickle_is_refused_and_never_opened(tmp_path: Path) -> None:
    mark = tmp_path / "opened"
    path = tmp_path / "d.npz"
    path.write_bytes(pickle.dumps(Trap(mark)))
    with pytest.raises(DataRejected, match="is a pickle"):
        load_dataset(path, PIXELS)
    assert not mark.exists()


def test_a_pickled_array_inside_is_refused_and_never_opened(tmp_path: Path) -> None:
    mark = tmp_path / "opened"
    path = save(tmp_path / "d.npz", pixels=np.array([Trap(mark)], dtype=object))
    with pytest.raises(DataRejected, match="pickled Python objects"):
        load_dataset(path, PIXELS)
    assert not mark.exists()


def test_a_single_array_file_says_how_to_name_it(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", pixels())
    with pytest.raises(DataRejected, match=r"one array without a name.*numpy\.savez"):
        load_dataset(tmp_path / "d.npy", PIXELS)


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("1,2,3\n")
    with pytest.raises(DataRejected, match=r"is not an \.npz file"):
        load_dataset(tmp_path / "d.csv", PIXELS)


@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: float) -> None:
    path = save(tmp_path / "d.npz", pixels=pixels())
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(DataRejected, match="is damaged or not an"):
        load_dataset(path, PIXELS)


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = save(tmp_path / "d.npz", pixels=pixels())
    content = bytearray(path.read_bytes())
    content[300] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataRejected, match="damaged"):
        load_dataset(path, PIXELS)


def forged(path: Path, shape: tuple[int, ...]) -> Path:
    """An `.npz` whose header claims `shape` over 16 bytes of numbers."""
    buffer = io.BytesIO()
    npy.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("pixels.npy", buffer.getvalue() + bytes(16))
    return path


@pytest.mark.parametrize("shape", [(10**12, 4), (2**62, 2**62), (1000, 4)])
def test_a_header_that_claims_more_than_the_file_holds_is_refused_before_memory_is_asked_for(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    with pytest.raises(DataRejected, match="claims"):
        load_dataset(forged(tmp_path / "d.npz", shape), PIXELS)


def test_a_directory_entry_that_claims_more_than_deflate_can_hold_is_refused(tmp_path: Path) -> None:
    path = forged(tmp_path / "d.npz", (2**28, 4))
    content = bytearray(path.read_bytes())
    entry = content.rfind(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = (2**32 - 2).to_bytes(4, "little")  # uncompressed size
    path.write_bytes(content)
    with pytest.raises(DataRejected, match="claims 4294967294 bytes"):
        load_dataset(path, PIXELS)


def numbered(count: int) -> Dataset:
    values = np.arange(count, dtype=np.float32).repeat(4).reshape(count, 4)
    return make_dataset({"pixels": values, "label": np.arange(count)}, PIXELS)


def numbers(data: Dataset) -> list[int]:
    assert data.labels is not None
    assert data.inputs["pixels"][:, 0].astype(np.int64).tolist() == data.labels.tolist()
    return [int(number) for number in data.labels]


@given(count=st.integers(SAMPLES_AT_LEAST, 3000), seed=st.integers(0, 2**32))
def test_parts_share_no_sample_and_lose_none(count: int, seed: int) -> None:
    parts = split(numbered(count), None, seed=seed)
    dealt = [numbers(part) for part in (parts.calibration, parts.golden, parts.held_out)]
    assert sorted(number for part in dealt for number in part) == list(range(count))
    assert all(len(part) >= 4 for part in dealt)


def test_the_same_seed_deals_the_same_and_another_another() -> None:
    golden = [numbers(split(numbered(100), None, seed=seed).golden) for seed in (1, 1, 2)]
    assert golden[0] == golden[1] != golden[2]


def test_a_separate_evaluation_set_is_held_out_whole() -> None:
    evaluation = numbered(10)
    parts = split(numbered(100), evaluation, seed=0)
    assert parts.held_out is evaluation
    assert len(parts.golden) + len(parts.calibration) == 100


def test_large_samples_make_fewer_golden_ones() -> None:
    specs = (TensorSpec(name="x", datatype="UINT8", shape=(-1, -1)),)
    data = make_dataset({"x": np.zeros((40, 2**20), np.uint8)}, specs)
    assert len(split(data, None, seed=0).golden) == 8


def test_golden_answers_that_are_large_leave_room_for_fewer() -> None:
    data = numbered(400)
    assert [len(split(data, None, seed=0, answer_bytes=size).golden) for size in (0, 1024**2, 8 * 1024**2)] == [64, 7, 4]


def test_a_model_without_inputs_is_refused() -> None:
    with pytest.raises(SourceRejected, match="has no inputs"):
        make_dataset({"pixels": pixels()}, ())


def test_a_model_of_text_is_refused() -> None:
    with pytest.raises(SourceRejected, match="takes text"):
        make_dataset({"words": np.array(["a", "b"])}, (TensorSpec(name="words", datatype="BYTES", shape=(-1,)),))


@pytest.mark.parametrize(("shape", "said"), [((), "has no axis"), ((2, -1, 8), "fixes its first axis")])
def test_an_input_that_counts_no_samples_is_refused_whatever_the_data(shape: tuple[int, ...], said: str) -> None:
    """As a speech model's sample rate and state."""
    spec = TensorSpec(name="state", datatype="FP32", shape=shape)
    with pytest.raises(SourceRejected, match=said):
        make_dataset({"state": np.zeros((40, 4, 8), np.float32)}, (spec,))
