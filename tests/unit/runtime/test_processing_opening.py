"""What numbers, audio and bytes may be given as, what becomes of their shape, and what is refused."""

from __future__ import annotations

import base64
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fleet_protocol import limits
from fleet_protocol.errors import MalformedMessage
from fleet_protocol.processing import (
    Audio,
    Boxes,
    Bytes,
    Cast,
    Clip,
    Decode,
    Ends,
    FitLength,
    Frames,
    InputProcessing,
    InputStep,
    Pieces,
    Processing,
    Quantize,
    Reshape,
    ResultProcessing,
    Scale,
    Spectrum,
    Tensor,
    Threshold,
    TopK,
    Transpose,
)
from fleet_protocol.processing_fit import check_processing
from fleet_protocol.tensors import DataType, TensorSpec
from runtime.errors import InvalidInput
from runtime.inputs import from_files, from_json, from_message
from runtime.processing import Classes, Detections, Processor
from runtime.processing.decoding import ENCODED_BYTES
from runtime.processing.steps import rows
from tests.support.sounds import tone, wav


def made(given: object, *steps: InputStep) -> np.ndarray:
    return rows(InputProcessing(tensor="x", steps=steps), given)


def processor(*steps: InputStep, shape: tuple[int, ...], datatype: DataType = "FP32") -> Processor:
    spec = TensorSpec(name="x", datatype=datatype, shape=shape)
    return Processor(Processing(inputs=(InputProcessing(tensor="x", steps=steps),)), (spec,), ())


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32])
def test_a_wav_file_of_any_width_is_the_same_sound(dtype: Any) -> None:
    half = np.iinfo(dtype).max // 2 + (0 if np.iinfo(dtype).min else 65)
    pcm = np.array([np.iinfo(dtype).min, half], dtype)
    [heard] = made(wav(pcm), Audio(rate=16_000))
    assert heard.dtype == np.float32
    np.testing.assert_allclose(heard, [-1.0, 0.5], atol=0.02)
    np.testing.assert_array_equal(made(pcm, Audio(rate=16_000)), [heard])


def test_24_bits_are_read_and_channels_are_averaged() -> None:
    deep = np.frombuffer(b"\x00\x00\x80" + b"\x00\x00\x40", "V3")
    assert made(wav(deep), Audio(rate=16_000)).tolist() == [[-1.0, 0.5]]
    stereo = np.array([[16384, 0], [-32768, -32768]], np.int16)
    assert made(wav(stereo), Audio(rate=16_000)).tolist() == [[0.25, -1.0]]


def test_audio_comes_as_a_file_as_text_as_numbers_and_several_at_once() -> None:
    pcm = tone(440, seconds=0.01)
    wanted = made(pcm, Audio(rate=16_000))
    text = base64.b64encode(wav(pcm)).decode()
    for given in (wav(pcm), text, {"b64": text}, (pcm / 32768).tolist(), pcm.astype(np.float64) / 32768):
        np.testing.assert_allclose(made(given, Audio(rate=16_000)), wanted, atol=1e-7)
    for several in ([text, text], [{"b64": text}] * 2, np.array([wav(pcm)] * 2, object), np.stack([pcm, pcm])):
        np.testing.assert_array_equal(made(several, Audio(rate=16_000)), np.concatenate([wanted, wanted]))


def test_audio_beyond_all_measure_is_infinite_without_a_warning() -> None:
    assert made([1e300, 0.5], Audio(rate=16_000)).tolist() == [[np.inf, 0.5]]


GOOD = wav(np.arange(100, dtype=np.int16))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (wav(tone(440), rate=8000), "has 8000 samples a second; the model takes 16000. Convert it with: ffmpeg"),
        (b"", "no WAV file of PCM: they break off"),
        (b"RIFF", "no WAV file of PCM"),
        (b"fLaC" + bytes(100), "no WAV file of PCM"),
        (GOOD[:20] + b"\x03\x00" + GOOD[22:], "unknown format: 3"),
        (GOOD[:34] + struct.pack("<H", 64) + GOOD[36:], "64 bits a sample|claims"),
        (GOOD[:-100], "claims 100 samples and holds 50"),
        (GOOD[:40] + struct.pack("<I", 0xFFFFFFF0) + GOOD[44:], f"at most {limits.SAMPLE_NUMBERS} are taken"),
        (wav(np.empty(0, np.int16)), "claims 0 samples"),
        ("no base64 either", "no WAV file of PCM"),
        ({"b64": "%"}, "is not base64"),
        ({"b64": 3}, "wanted {.b64.: .….}"),
        ({"base": ""}, "wanted {.b64.: .….}"),
        (bytes(ENCODED_BYTES + 1), f"It has {ENCODED_BYTES + 1} bytes; at most {ENCODED_BYTES} are opened"),
        ([], "wanted .samples., mono, 1 to"),
        ([0, 200, -300], "Audio is int64; wanted int16 or int32 PCM, or floats"),
        ([0.5, "a"], "Audio is <U|Audio is str"),
        ([[0.5], [0.5, 0.25]], "differ after processing"),
        (0.5, "It has 0 dimensions; one sample has 1"),
        (None, "It has 0 dimensions"),
        ([[[0.5]]], "It has 3 dimensions"),
        (np.array([3], object), "It holds a int"),
    ],
)
def test_what_is_no_audio_is_refused_with_its_reason(given: object, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        made(given, Audio(rate=16_000))


def test_bytes_come_as_they_are_as_text_and_as_numbers() -> None:
    for given in (
        b"hi\xff",
        {"b64": base64.b64encode(b"hi\xff").decode()},
        [104, 105, 255],
        np.array([104, 105, 255], np.uint8),
    ):
        assert made(given, Bytes()).tolist() == [[104, 105, 255]]
    assert made("cafe", Bytes()).tolist() == [list(b"cafe")]  # which base64 would be as well
    assert made(["é", "ab"], Bytes()).tolist() == [[0xC3, 0xA9], [97, 98]]
    for bad in ([256], [-1], [0.5], [[[1]]], 7):
        with pytest.raises(InvalidInput):
            made(bad, Bytes())


def test_numbers_are_one_sample_or_a_batch_of_them() -> None:
    one, many = Tensor(shape=(2,)), np.arange(6).reshape(3, 2)
    assert made([1, 2], one).tolist() == [[1, 2]]
    assert made(many, one, Scale(divide=2)).tolist() == (many / 2).tolist()
    assert made(many.tolist(), one).dtype == np.float32
    assert made(5, Tensor(shape=())).tolist() == [5]
    assert made([5, 6], Tensor(shape=(), datatype="INT8")).tolist() == [5, 6]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([1, 2, 3], r"One sample has the shape \[3\]; wanted x: FP32\[2\]"),
        (["a", "b"], "Input x cannot be made of this"),
        ("text", "It has 0 dimensions; one sample has 1"),
        ({"b64": "AAAA"}, "It has 0 dimensions"),
        ([[1, 2], [3]], r"the shape \[1\]"),
        ([1e300, 0], "Input x cannot be made of this: overflow"),
        ([10**400, 0], "Input x cannot be made of this"),
        ([[[[1, 2]]]], "It has 4 dimensions"),
        ([], r"One sample has the shape \[0\]"),
        ([[]], r"One sample has the shape \[0\]"),
    ],
)
def test_numbers_of_another_kind_are_refused(given: object, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        made(given, Tensor(shape=(2,)))


def test_whole_numbers_that_do_not_fit_are_refused_not_wrapped() -> None:
    with pytest.raises(InvalidInput, match=r"Input x cannot be made of this: .*INT8"):
        made([300], Tensor(shape=(1,), datatype="INT8"))


@pytest.mark.parametrize(
    ("at", "longer", "shorter"),
    [("end", [1, 2, 3, 9, 9], [1, 2]), ("start", [9, 9, 1, 2, 3], [2, 3]), ("both", [9, 1, 2, 3, 9], [1, 2])],
)
def test_a_length_is_filled_up_and_cut_where_it_was_said(at: Any, longer: list[int], shorter: list[int]) -> None:
    values = Tensor(shape=(-1,))
    assert made([1, 2, 3], values, FitLength(length=5, fill=9, at=at)).tolist() == [longer]
    assert made([1, 2, 3], values, FitLength(length=2, at=at)).tolist() == [shorter]
    assert made([1, 2, 3], values, FitLength(length=3, at=at)).tolist() == [[1, 2, 3]]
    wide = made([[1, 2, 3], [4, 5, 6]], Tensor(shape=(2, -1)), FitLength(length=4, axis=1, at=at))
    assert wide.shape == (1, 2, 4)


def test_a_long_sample_is_cut_into_rows_and_nothing_of_it_is_lost() -> None:
    values = Tensor(shape=(-1,))
    assert made([1, 2, 3, 4, 5], values, Pieces(length=3, hop=2)).tolist() == [[1, 2, 3], [3, 4, 5]]
    assert made([1, 2, 3, 4, 5, 6], values, Pieces(length=3, hop=2, fill=9)).tolist() == [[1, 2, 3], [3, 4, 5], [5, 6, 9]]
    assert made([1, 2], values, Pieces(length=3, hop=1), Scale(divide=0.5)).tolist() == [[2, 4, 0]]
    assert made([[1, 2], [3]], values, Pieces(length=1, hop=1)).tolist() == [[1], [2], [3]]
    assert made([[1, 2], [3, 4], [5, 6]], Tensor(shape=(-1, 2)), Pieces(length=2, hop=2)).shape == (2, 2, 2)
    assert made(tone(440, seconds=2.5), Audio(rate=16_000), Pieces(length=16_000, hop=8000)).shape == (4, 16_000)
    with pytest.raises(InvalidInput, match="numbers; at most"):
        made(np.zeros(1_000_000, np.float32), values, Pieces(length=1000, hop=1))


def test_shapes_and_types_change_as_declared() -> None:
    assert made([[1, 2, 3], [4, 5, 6]], Tensor(shape=(2, 3)), Transpose(axes=(1, 0))).tolist() == [[[1, 4], [2, 5], [3, 6]]]
    assert made([1, 2, 3, 4], Tensor(shape=(4,)), Reshape(shape=(2, -1))).tolist() == [[[1, 2], [3, 4]]]
    assert made([-5, 0.5, 5], Tensor(shape=(3,)), Clip(low=-1, high=1)).tolist() == [[-1, 0.5, 1]]
    assert made([-5, 5], Tensor(shape=(2,)), Clip(high=1)).tolist() == [[-5, 1]]
    quantized = made([-1e9, 0.5, 1e9], Tensor(shape=(3,)), Quantize(scale=0.5, zero_point=-3, datatype="INT8"))
    assert quantized.dtype == np.int8
    assert quantized.tolist() == [[-128, -2, 127]]
    huge = made([1e30, -1e30, 0.5], Tensor(shape=(3,)), Cast(datatype="INT64"))
    assert huge.tolist() == [[2**63 - 1024, -(2**63), 0]]
    with pytest.raises(InvalidInput, match="cannot become"):
        made([1, 2, 3], Tensor(shape=(-1,)), Reshape(shape=(2, -1)))


def test_a_number_that_is_missing_becomes_no_whole_number() -> None:
    for step in (Cast(datatype="INT32"), Quantize(scale=1)):
        with pytest.raises(InvalidInput, match="holds NaN, which is no"):
            made(np.array([np.nan]), Tensor(shape=(1,)), step)


def test_only_the_ends_of_bytes_are_kept() -> None:
    content = b"  0123456789  "
    assert made(content, Bytes(), Ends(first=3, last=2, fill=-1)).tolist() == [list(b"01289")]
    assert made(b" ab ", Bytes(), Ends(first=3, last=3, fill=-1)).tolist() == [[97, 98, 32, 32, 97, 98]]
    assert made(b"a", Bytes(), Ends(first=2, last=2, fill=256)).tolist() == [[97, 256, 256, 97]]
    assert made(content, Bytes(), Ends(first=3, last=0, strip=False)).tolist() == [list(b"  0")]


def test_what_would_grow_beyond_measure_is_refused_before_memory_is_asked_for() -> None:
    free = Tensor(shape=(-1,))
    signal = np.zeros(1_000_000, np.float32)
    for steps in ((Frames(length=65536, hop=1),), (Frames(length=1, hop=1), Spectrum(size=65536))):
        with pytest.raises(InvalidInput, match="numbers; at most"):
            made(signal, free, *steps)
    with pytest.raises(InvalidInput, match="numbers; at most"):
        made(np.zeros(limits.SAMPLE_NUMBERS + 1, np.uint8), Tensor(shape=(-1,), datatype="UINT8"))
    with pytest.raises(InvalidInput, match="numbers; at most"):
        made(np.zeros((4, 5000), np.float32), Tensor(shape=(-1, -1)), FitLength(length=10_000, axis=0))


@pytest.mark.parametrize(("pad", "least"), [("none", 6), ("reflect", 4), ("zeros", 1)])
def test_a_signal_that_is_shorter_than_its_frames_is_refused_or_padded(pad: Any, least: int) -> None:
    framed = Frames(length=6, hop=2, pad=pad)
    assert made(list(range(least)), Tensor(shape=(-1,)), framed).shape[2] == 6
    with pytest.raises(InvalidInput, match=f"There are {least - 1} samples; frames of 6 take {least} at least"):
        made(np.zeros(least - 1), Tensor(shape=(-1,)), framed)
    assert made(list(range(least)), Tensor(shape=(least,)), framed).shape[2] == 6
    check_processing(declared(framed, first=least), (TensorSpec(name="x", datatype="FP32", shape=(1, -1, 6)),), ())
    with pytest.raises(MalformedMessage, match=f"makes frames of 6 out of {least - 1} samples"):
        check_processing(declared(framed, first=least - 1), (TensorSpec(name="x", datatype="FP32", shape=(1, -1, 6)),), ())


def declared(step: InputStep, *, first: int) -> Processing:
    return Processing(inputs=(InputProcessing(tensor="x", steps=(Tensor(shape=(first,)), step)),))


def test_json_goes_through_the_steps_and_a_request_of_the_protocol_only_when_it_asks() -> None:
    scaled = processor(Tensor(shape=(2,)), Scale(divide=10), shape=(-1, 2))
    specs = (TensorSpec(name="x", datatype="FP32", shape=(-1, 2)),)
    for content in (b"[10, 20]", b'{"x": [10, 20]}', b'{"x": [[10, 20]]}'):
        assert from_json(content, specs, scaled)["x"].tolist() == [[1, 2]]
    tensor = b'"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [10, 20]}]'
    assert from_json(b"{" + tensor + b"}", specs, scaled)["x"].tolist() == [[10, 20]]
    assert from_json(b'{"parameters": {"processing": true}, ' + tensor + b"}", specs, scaled)["x"].tolist() == [[1, 2]]
    assert from_json(b"[10, 20]", specs)["x"].tolist() == [[10, 20]]
    with pytest.raises(InvalidInput, match=f"The JSON has more than {ENCODED_BYTES} bytes"):
        from_json(bytes(ENCODED_BYTES + 1), specs)
    with pytest.raises(InvalidInput, match="asks for processing, and the model declares none"):
        from_json(b'{"parameters": {"processing": true}, ' + tensor + b"}", specs)


def test_a_message_is_json_or_what_the_model_opens() -> None:
    heard = processor(Audio(rate=16_000), shape=(-1, -1))
    specs = (TensorSpec(name="x", datatype="FP32", shape=(-1, -1)),)
    assert from_message(wav(tone(440)), specs, heard).inputs["x"].shape == (1, 16_000)
    assert from_message(b" [0.5, 0.25]", specs, heard).inputs["x"].tolist() == [[0.5, 0.25]]
    looked = processor(Bytes(), Cast(datatype="INT32"), shape=(-1, -1), datatype="INT32")
    assert from_message(b"[1]", specs, looked).inputs["x"].tolist() == [list(b"[1]")]
    warmth = processor(Tensor(shape=()), Reshape(shape=(1,)), Scale(divide=10), shape=(-1, 1))
    assert from_message(b"21.5", specs, warmth).inputs["x"].tolist() == [[np.float32(2.15)]]
    with pytest.raises(InvalidInput, match="The JSON cannot be read"):
        from_message(b"warm", specs, warmth)
    with pytest.raises(InvalidInput, match="Nothing says how this becomes"):
        from_message(b"RIFF", specs, None)


def test_files_are_tensors_or_what_the_model_opens(tmp_path: Path) -> None:
    np.save(tmp_path / "raw.npy", np.array([10, 20]))
    (tmp_path / "clip.wav").write_bytes(wav(tone(440)))
    specs = (TensorSpec(name="x", datatype="FP32", shape=(-1, 2)),)
    scaled = processor(Tensor(shape=(2,)), Scale(divide=10), shape=(-1, 2))
    assert from_files([tmp_path / "raw.npy"], specs, scaled).inputs["x"].tolist() == [[1, 2]]
    heard = processor(Audio(rate=16_000), shape=(-1, -1))
    assert from_files([tmp_path / "clip.wav"] * 2, specs, heard).inputs["x"].shape == (2, 16_000)
    looked = processor(Bytes(), Ends(first=6, last=0), shape=(-1, 6), datatype="INT32")
    assert from_files([tmp_path / "raw.npy"], specs, looked).inputs["x"].tolist() == [list(b"\x93NUMPY")]
    for file, message in ((tmp_path / "clip.wav", "Nothing says how"), (tmp_path / "none.npy", "No such file")):
        with pytest.raises(InvalidInput, match=message):
            from_files([file], specs, None)
    with pytest.raises(InvalidInput, match="holds tensors, and goes alone"):
        from_files([tmp_path / "raw.npy"] * 2, specs, scaled)


@pytest.mark.parametrize("size", [0, 1, 5, 8, 9, 15, 16, 17, 2**30])
def test_only_the_ends_of_a_file_are_read_where_only_these_are_looked_at(size: int, tmp_path: Path) -> None:
    with (tmp_path / "disk.img").open("wb") as file:
        file.truncate(size)
        file.seek(max(0, size - 3))
        file.write(bytes(range(1, 1 + min(3, size))))
    steps = (Bytes(), Ends(first=6, last=4, block=8, strip=False))
    [seen] = from_files([tmp_path / "disk.img"], (), processor(*steps, shape=(-1, 10), datatype="INT32")).inputs["x"]
    content = bytes(max(0, min(size, 20) - 3)) + bytes(range(1, 1 + min(3, size)))
    [wanted] = made(content, *steps)
    np.testing.assert_array_equal(seen, wanted)


def test_a_decoded_picture_is_still_the_models_own_tensor_in_files() -> None:
    pictured = processor(Decode(), shape=(-1, -1, -1, 3), datatype="UINT8")
    assert not pictured.opens("x", np.zeros((1, 2, 2, 3), np.uint8))
    assert not pictured.opens("x", [[[[0, 0, 0]]]])
    assert pictured.opens("x", "iVBO")
    assert not pictured.opens("y", "iVBO")


def outcome(*steps: Any, outputs: np.ndarray, rank: int = 2) -> list[Any]:
    spec = TensorSpec(name="y", datatype="FP32", shape=(-1,) * rank)
    declared = Processing(results=(ResultProcessing(name="r", tensor="y", steps=steps),))
    made = Processor(declared, (), (spec,), ("yes", "maybe")).results({"y": outputs}, [])
    return [each["r"] for each in made]


def test_every_class_above_a_threshold_is_told_best_first() -> None:
    scores = np.array([[0.5, 0.9, 0.7], [0.4, 0.1, 0.2]], np.float32)
    assert outcome(Threshold(at=0.5), outputs=scores) == [
        Classes(classes=[1, 2, 0], scores=[float(each) for each in scores[0, [1, 2, 0]]], labels=["maybe", "2", "yes"]),
        Classes(classes=[], scores=[], labels=[]),
    ]
    assert outcome(TopK(k=1), outputs=scores)[0].labels == ["maybe"]


@pytest.mark.parametrize("units", ["pixels", "fraction"])
def test_boxes_without_a_picture_are_as_the_model_has_them(units: Any) -> None:
    [found] = outcome(Boxes(form="xyxy", units=units), outputs=np.array([[[-0.5, 0.1, 2.5, 0.9, 0.8]]], np.float32), rank=3)
    assert isinstance(found, Detections)
    assert found.boxes == [[-0.5, 0.1, 2.5, 0.9]]
