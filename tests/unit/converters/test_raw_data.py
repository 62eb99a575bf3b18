"""Data as users have them becomes what the model is given, from arrays, batches and directories alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from converters.data.calibration import LABEL, UNNAMED
from converters.data.raw import _room, class_names, process_arrays, read_directory
from converters.errors import DataRejected
from fleet_protocol.processing import (
    Audio,
    Bytes,
    Cast,
    Decode,
    FitLength,
    InputProcessing,
    InputStep,
    Opener,
    Pieces,
    Processing,
    Scale,
    Tensor,
)
from tests.support.sounds import tone, wav

RAW = np.arange(8).reshape(4, 2)


def declared(*steps: InputStep, tensor: str = "x") -> Processing:
    return Processing(inputs=(InputProcessing(tensor=tensor, steps=steps),))


HALVED = declared(Tensor(shape=(2,)), Scale(divide=2))


def test_arrays_go_through_the_steps_of_their_input() -> None:
    made = process_arrays({"x": RAW, "other": RAW, LABEL: np.arange(4)}, HALVED)
    assert made["x"].dtype == np.float32
    np.testing.assert_array_equal(made["x"], RAW / 2)
    np.testing.assert_array_equal(made["other"], RAW)
    np.testing.assert_array_equal(made[LABEL], np.arange(4))


def test_one_array_without_a_name_is_the_only_input_with_steps() -> None:
    assert list(process_arrays({UNNAMED: RAW}, HALVED)) == ["x"]
    two = Processing(inputs=(*HALVED.inputs, *declared(Tensor(shape=(2,)), tensor="y").inputs))
    assert list(process_arrays({UNNAMED: RAW}, two)) == [UNNAMED]


def test_arrays_for_pictures_and_without_processing_are_the_models_own() -> None:
    assert process_arrays({"x": RAW}, declared(Decode()))["x"] is RAW
    assert process_arrays({"x": RAW}, None)["x"] is RAW


def test_recordings_as_pcm_numbers_are_heard_as_their_files_are(tmp_path: Path) -> None:
    heard = declared(Audio(rate=16_000), FitLength(length=100))
    clips = [tone(hertz, seconds=0.01) for hertz in (200, 400)]
    for at, clip in enumerate(clips):
        (tmp_path / f"{at}.wav").write_bytes(wav(clip))
    (tmp_path / "notes.txt").write_text("no sample")
    np.testing.assert_array_equal(read_directory(tmp_path, heard, ())["x"], process_arrays({"x": np.stack(clips)}, heard)["x"])


@pytest.mark.parametrize(
    ("first", "suffix"),
    [(Bytes(), ".py"), (Bytes(), ""), (Tensor(shape=(2,), datatype="UINT8"), ".npy"), (Audio(rate=9), ".WAV")],
)
def test_files_in_directories_of_classes_are_labelled(first: Opener, suffix: str, tmp_path: Path) -> None:
    for name in ("low", "high"):
        (tmp_path / name).mkdir()
        file = tmp_path / name / f"a{suffix}"
        if isinstance(first, Tensor):
            np.save(file, np.array([1, 2]))
        else:
            file.write_bytes(wav(np.array([1, 2], np.int16), rate=9) if isinstance(first, Audio) else b"\1\2")
        (tmp_path / name / ".hidden").write_bytes(b"no sample")
    processing = declared(first, FitLength(length=2), Cast(datatype="FP32"))
    made = read_directory(tmp_path, processing, ())
    assert made["x"].shape == (2, 2)
    assert made[LABEL].tolist() == [0, 1]
    assert class_names(tmp_path, processing) == ("high", "low")


def test_a_sample_of_several_pieces_is_refused_since_it_has_one_class() -> None:
    with pytest.raises(DataRejected, match="Sample 0 of 'x' is cut into 3 pieces; here each sample must be one"):
        process_arrays({"x": np.zeros((40, 3))}, declared(Tensor(shape=(-1,)), Pieces(length=1, hop=1)))


def test_more_samples_than_memory_holds_are_refused_before_it_is_asked_for() -> None:
    with pytest.raises(DataRejected, match=r"1099511627776 samples take 4398046511104 bytes once processed; at most"):
        _room(2**40, np.zeros(1, np.float32))


def test_a_file_that_is_no_sample_is_named(tmp_path: Path) -> None:
    for name, content in (("a.npy", RAW[0]), ("b.npy", RAW)):
        np.save(tmp_path / name, content)
    with pytest.raises(DataRejected, match=r"b\.npy cannot be given to the model: One sample has the shape \[4, 2\]"):
        read_directory(tmp_path, HALVED, ())
    free = declared(Tensor(shape=(-1, 2)))
    np.save(tmp_path / "a.npy", RAW[:1])
    with pytest.raises(DataRejected, match=r"b\.npy becomes \[4, 2\], others \[1, 2\]: all must become alike"):
        read_directory(tmp_path, free, ())
    (tmp_path / "b.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(DataRejected, match=r"b\.npy cannot be given to the model: .*cannot be read as \.npy"):
        read_directory(tmp_path, free, ())
    with pytest.raises(DataRejected, match=r"holds 0 samples \(\.wav, \.wave\)"):
        read_directory(tmp_path, declared(Audio(rate=1)), ())
