"""Each step on its own, pictures that are bad, and the way back from the model's frame to the picture."""

from __future__ import annotations

import io
import json
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fleet_protocol.processing import (
    Arrange,
    Boxes,
    Cast,
    CentreCrop,
    Decode,
    Dequantize,
    InputProcessing,
    InputStep,
    Letterbox,
    Normalise,
    OutputStep,
    Processing,
    Quantize,
    Resize,
    ResizeShorter,
    ResultProcessing,
    Scale,
    Sigmoid,
    Softmax,
    TopK,
)
from fleet_protocol.tensors import DataType, TensorSpec
from runtime.errors import InferenceFailed, InvalidInput, ModelRejected
from runtime.processing import Classes, Detections, Processor
from runtime.processing.boxes import find
from runtime.processing.decoding import PIXELS, decode
from runtime.processing.placing import Placement
from tests.unit.runtime.test_processing_golden import encoded, picture


def prepared(
    *steps: InputStep, shape: tuple[int, ...], datatype: DataType = "FP32", pixels: np.ndarray | None = None
) -> np.ndarray:
    spec = TensorSpec(name="x", datatype=datatype, shape=shape)
    processor = Processor(Processing(inputs=(InputProcessing(tensor="x", steps=steps),)), (spec,), ())
    array = processor.prepare([picture(4, 6) if pixels is None else pixels]).inputs["x"]
    assert array.flags.c_contiguous
    return array


def test_scaling_and_normalising_are_float32_arithmetic() -> None:
    pixels = picture(4, 6)
    scaled = prepared(Decode(), Scale(divide=127.5, add=-1.0), shape=(-1, 4, 6, 3))
    np.testing.assert_array_equal(scaled[0], pixels.astype(np.float32) / np.float32(127.5) + np.float32(-1))
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    both = prepared(Decode(), Scale(divide=255), Normalise(mean=mean, std=std), Arrange(order="NCHW"), shape=(-1, 3, 4, 6))
    plain = (pixels.astype(np.float32) / np.float32(255) - np.array(mean, np.float32)) / np.array(std, np.float32)
    np.testing.assert_array_equal(both[0], plain.transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("order", "shape"), [("NHWC", (-1, 4, 6, 1)), ("NCHW", (-1, 1, 4, 6)), ("NHW", (-1, 4, 6)), ("NF", (-1, 24))]
)
def test_every_layout_holds_the_same_pixels(order: str, shape: tuple[int, ...]) -> None:
    array = prepared(Decode(colour="grey"), Arrange(order=order), shape=shape, datatype="UINT8")  # type: ignore[arg-type]
    assert array.ravel().tolist() == decode(encoded(picture(4, 6)), "grey").ravel().tolist()


def test_quantizing_rounds_halves_to_even_and_stops_at_the_bounds() -> None:
    pixels = np.array([[1, 3, 5, 200]], np.uint8)
    steps = (Decode(colour="grey"), Quantize(scale=2.0, zero_point=-100, datatype="INT8"))
    array = prepared(*steps, shape=(-1, 1, 4, 1), datatype="INT8", pixels=pixels)
    assert array.ravel().tolist() == [-100, -98, -98, 0]
    far = prepared(Decode(colour="grey"), Quantize(scale=0.5), shape=(-1, 1, 4, 1), datatype="UINT8", pixels=pixels)
    assert far.ravel().tolist() == [2, 6, 10, 255]


@pytest.mark.parametrize(("datatype", "values"), [("INT8", [0, 2, 127]), ("FP16", [0.5, 1.5, 250]), ("INT64", [0, 2, 250])])
def test_casting_rounds_and_stops_at_the_bounds(datatype: DataType, values: list[float]) -> None:
    steps = (Decode(colour="grey"), Scale(divide=2.0), Scale(divide=0.5), Scale(divide=2.0), Cast(datatype=datatype))  # type: ignore[arg-type]  # three of them
    array = prepared(*steps, shape=(-1, 1, 3, 1), datatype=datatype, pixels=np.array([[1, 3, 255]], np.uint8))
    assert array.dtype == {"INT8": np.int8, "FP16": np.float16, "INT64": np.int64}[datatype]
    wanted = [*values[:2], 127 if datatype == "INT8" else 128 if datatype == "INT64" else 127.5]
    assert array.ravel().tolist() == wanted


def test_a_letterbox_keeps_the_proportions_and_boxes_find_back() -> None:
    spec = TensorSpec(name="x", datatype="UINT8", shape=(1, 100, 100, 3))
    out = TensorSpec(name="found", datatype="FP32", shape=(1, -1, 6))
    processing = Processing(
        inputs=(InputProcessing(tensor="x", steps=(Decode(), Letterbox(height=100, width=100))),),
        results=(ResultProcessing(name="things", tensor="found", steps=(Boxes(form="xyxy", min_score=0.5),)),),
    )
    processor = Processor(processing, (spec,), (out,), ("cat", "dog"))
    made = processor.prepare([np.full((100, 200, 3), 255, np.uint8)])
    frame = made.inputs["x"][0]
    assert (frame[:25] == 114).all()
    assert (frame[25:75] == 255).all()
    assert (frame[75:] == 114).all()
    found = np.array([[[10, 30, 20, 40, 0.1, 0.9], [-5, 20, 50, 80, 0.8, 0.1], [0, 0, 9, 9, 0.4, 0.4]]], np.float32)
    [result] = processor.results({"found": found}, made.placements)
    things = result["things"]
    assert isinstance(things, Detections)
    assert things.boxes == [[20.0, 10.0, 40.0, 30.0], [0.0, 0.0, 100.0, 100.0]]  # the second was cut off at the picture's edge
    assert things.labels == ["dog", "cat"]


def test_boxes_find_back_through_a_resize_after_a_crop() -> None:
    lies = Placement(100, 200, (100, 200)).moved(50, 100, -25, -50).scaled(100, 100)
    assert lies.back(np.array([[0, 0, 100, 100]], np.float32)).tolist() == [[50, 25, 150, 75]]


def test_a_box_of_just_the_least_score_is_found_and_one_below_is_not() -> None:
    rows = np.array([[0, 0, 1, 1, 0.5], [5, 5, 6, 6, 0.499]], np.float32)
    assert find(Boxes(form="xyxy", min_score=0.5), rows, None, (10, 10)).boxes.tolist() == [[0, 0, 1, 1]]


def test_boxes_find_back_through_a_resize_and_a_crop() -> None:
    spec = TensorSpec(name="x", datatype="UINT8", shape=(1, 100, 100, 3))
    outputs = (
        TensorSpec(name="at", datatype="FP32", shape=(1, -1, 4)),
        TensorSpec(name="of", datatype="FP32", shape=(1, -1, 2)),
    )
    boxes = Boxes(form="yxyx", units="fraction", scores="of")
    processing = Processing(
        inputs=(InputProcessing(tensor="x", steps=(Decode(), ResizeShorter(side=100), CentreCrop(height=100, width=100))),),
        results=(ResultProcessing(name="things", tensor="at", steps=(boxes,)),),
    )
    processor = Processor(processing, (spec,), outputs)
    made = processor.prepare([picture(200, 400)])
    outcome = {"at": np.array([[[0.0, 0.0, 0.5, 0.25]]], np.float32), "of": np.array([[[0.1, 0.6]]], np.float32)}
    things = processor.results(outcome, made.placements)[0]["things"]
    assert isinstance(things, Detections)
    assert (things.boxes, things.classes, things.labels) == ([[100.0, 0.0, 150.0, 100.0]], [1], ["1"])


def test_boxes_of_a_pictures_request_are_in_that_pictures_pixels_as_texts() -> None:
    spec = TensorSpec(name="x", datatype="UINT8", shape=(-1, 100, 100, 3))
    out = TensorSpec(name="found", datatype="FP32", shape=(-1, -1, 5))
    processing = Processing(
        inputs=(InputProcessing(tensor="x", steps=(Decode(), Letterbox(height=100, width=100))),),
        results=(ResultProcessing(name="things", tensor="found", steps=(Boxes(form="xyxy"),)),),
    )
    processor = Processor(processing, (spec,), (out,), ("cat",))
    given = np.array([encoded(np.full((100, 200, 3), 255, np.uint8))], object)
    inputs, placements = processor.taken({"x": given}, raw=False)
    assert inputs["x"].shape == (1, 100, 100, 3)
    found = {"found": np.array([[[10, 30, 20, 40, 0.9]]], np.float32)}
    [text] = processor.texts(found, placements)["things"]
    assert json.loads(text)["boxes"] == [[20.0, 10.0, 40.0, 30.0]]
    own, placements = processor.taken(inputs, raw=True)  # numbers where pictures are opened are the model's tensor
    assert own["x"] is inputs["x"]
    [text] = processor.texts(found, placements)["things"]
    assert json.loads(text)["boxes"] == [[10.0, 30.0, 20.0, 40.0]]


def results(*steps: OutputStep, outputs: np.ndarray, labels: tuple[str, ...] = ()) -> list[Any]:
    spec = TensorSpec(name="y", datatype="FP32", shape=(-1, -1))
    processor = Processor(Processing(results=(ResultProcessing(name="r", tensor="y", steps=steps),)), (), (spec,), labels)
    return [each["r"] for each in processor.results({"y": outputs}, [])]


def test_the_best_classes_have_names_where_there_are_names() -> None:
    scores = np.array([[0.0, 2.0, 2.0], [3.0, 1.0, 2.0]], np.float32)
    assert results(TopK(k=2), outputs=scores, labels=("a", "b")) == [
        Classes(classes=[1, 2], scores=[2.0, 2.0], labels=["b", "2"]),
        Classes(classes=[0, 2], scores=[3.0, 2.0], labels=["a", "2"]),
    ]


def test_numbers_are_dequantized_and_squashed_in_order() -> None:
    raw = np.array([[10, 12]], np.int8)
    assert results(Dequantize(scale=0.5, zero_point=10), outputs=raw) == [[0.0, 1.0]]
    [row] = results(Dequantize(scale=0.5, zero_point=10), Softmax(), outputs=raw)
    assert row == pytest.approx([1 / (1 + np.e), np.e / (1 + np.e)])
    [row] = results(Sigmoid(), outputs=np.array([[0.0, 1000.0, -1000.0]], np.float32))
    assert row == [0.5, 1.0, 0.0]


def test_an_output_that_is_no_list_of_boxes_is_the_models_fault() -> None:
    spec = TensorSpec(name="y", datatype="FP32", shape=(-1, -1, -1))
    steps = (Boxes(form="xyxy"),)
    processor = Processor(Processing(results=(ResultProcessing(name="r", tensor="y", steps=steps),)), (), (spec,))
    made = Processor(
        Processing(inputs=(InputProcessing(tensor="x", steps=(Decode(),)),)),
        (TensorSpec(name="x", datatype="UINT8", shape=(-1, -1, -1, 3)),),
        (),
    ).prepare([picture()])
    with pytest.raises(InferenceFailed, match="at least 5 numbers"):
        processor.results({"y": np.zeros((1, 3, 4), np.float32)}, made.placements)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb(side: int) -> bytes:
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no picture of a known format"),
        (b"GIF89a", "."),
        (b"<svg/>", "no picture of a known format"),
        (encoded(picture())[:200], "cannot be decoded"),
        (encoded(picture(), "JPEG")[:300], "cannot be decoded"),
        (encoded(picture(), "TIFF"), "no picture of a known format"),
        (encoded(np.zeros((4, 4), np.uint16)), "more than 8 bits a channel"),
        (bomb(8_001), f"8001 × 8001 pixels; at most {PIXELS}"),
        (bomb(9_900), "at most|exceeds limit"),
        (bomb(60_000), "at most|exceeds limit"),
    ],
)
def test_bytes_that_are_no_good_picture_are_refused_with_their_reason(content: bytes, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        decode(content, "rgb")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), "is float32"),
        (np.zeros((4,), np.uint8), "wanted uint8"),
        (np.zeros((4, 4, 4), np.uint8), "has 4 channels"),
        (np.broadcast_to(np.uint8(0), (8_001, 8_001)), "8001 × 8001 pixels; at most"),
        (np.zeros((0, 4, 3), np.uint8), "wanted uint8"),
    ],
)
def test_an_array_that_is_no_picture_is_refused(array: np.ndarray, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        prepared(Decode(), shape=(-1, -1, -1, 3), datatype="UINT8", pixels=array)


def test_a_picture_smaller_than_its_crop_and_a_batch_of_many_sizes_are_refused() -> None:
    with pytest.raises(InvalidInput, match="6 × 4 pixels where 5 × 5 are cut out"):
        prepared(Decode(), CentreCrop(height=5, width=5), shape=(-1, 5, 5, 3), datatype="UINT8")
    spec = TensorSpec(name="x", datatype="UINT8", shape=(-1, -1, -1, 3))
    processor = Processor(Processing(inputs=(InputProcessing(tensor="x", steps=(Decode(),)),)), (spec,), ())
    with pytest.raises(InvalidInput, match="differ after processing"):
        processor.prepare([picture(4, 4), picture(4, 5)])
    with pytest.raises(InvalidInput, match="got nothing"):
        processor.prepare([])


def test_a_picture_that_is_a_line_does_not_grow_without_bound() -> None:
    with pytest.raises(InvalidInput, match="too long and thin"):
        prepared(
            Decode(), ResizeShorter(side=8192), shape=(-1, -1, -1, 3), datatype="UINT8", pixels=np.zeros((1, 5000, 3), np.uint8)
        )


def test_processing_that_does_not_fit_the_model_is_refused_at_once() -> None:
    spec = TensorSpec(name="x", datatype="FP32", shape=(-1, 3, 8, 8))
    processing = Processing(inputs=(InputProcessing(tensor="x", steps=(Decode(), Resize(height=8, width=8))),))
    with pytest.raises(ModelRejected, match=r"ends with x: UINT8\[\?, 8, 8, 3\]; the model wants x: FP32\[\?, 3, 8, 8\]"):
        Processor(processing, (spec,), ())


def test_transparency_is_dropped_and_palettes_are_looked_up() -> None:
    see_through = np.dstack([picture(4, 4), np.full((4, 4), 7, np.uint8)])
    np.testing.assert_array_equal(decode(encoded(see_through), "rgb"), picture(4, 4))
    file = io.BytesIO()
    Image.fromarray(picture(4, 4)).quantize(8).save(file, "PNG")
    assert decode(file.getvalue(), "bgr").shape == (4, 4, 3)
