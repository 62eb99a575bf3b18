"""Our pixels are Pillow's, and OpenCV's, where the page says so."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fleet_protocol.processing import Arrange as Layout
from fleet_protocol.processing import Boxes, CentreCrop, Decode, InputProcessing, Normalise, Processing, Resize, ResizeShorter
from fleet_protocol.tensors import TensorSpec
from runtime.processing import Processor
from runtime.processing.boxes import find, suppress, to_corners
from runtime.processing.decoding import decode, from_array
from runtime.processing.numbers import softmax
from runtime.processing.resampling import resize

OPENCV = Path(__file__).parents[2] / "support" / "opencv_golden.npz"
SIZES = [(1, 1), (7, 5), (20, 31), (33, 48), (64, 50), (224, 224), (3, 200)]


def picture(height: int = 33, width: int = 48, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def encoded(pixels: np.ndarray, form: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **options)
    return file.getvalue()


def by_pillow(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Across first, whichever order this Pillow itself would take."""
    across = Image.fromarray(pixels).resize((width, pixels.shape[0]), Image.Resampling.BILINEAR)
    return np.asarray(across.resize((width, height), Image.Resampling.BILINEAR))


@pytest.fixture(scope="module")
def opencv() -> dict[str, np.ndarray]:
    with np.load(OPENCV) as stored:
        return dict(stored)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("came", [(33, 48), (480, 640), (2, 3), (1, 1)])
def test_bilinear_with_antialias_is_pillows_to_the_bit(came: tuple[int, int], size: tuple[int, int]) -> None:
    pixels = picture(*came)
    np.testing.assert_array_equal(resize(pixels, *size, filter="bilinear", antialias=True), by_pillow(pixels, *size))


@pytest.mark.parametrize("size", SIZES)
def test_nearest_is_pillows_to_the_bit(size: tuple[int, int]) -> None:
    pixels = picture()
    wanted = np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.NEAREST))
    np.testing.assert_array_equal(resize(pixels, *size, filter="nearest", antialias=True), wanted)


@pytest.mark.parametrize("size", ["7x5", "20x31", "33x48", "64x50"])
def test_bilinear_without_antialias_is_opencvs_to_one_step(size: str, opencv: dict[str, np.ndarray]) -> None:
    height, width = map(int, size.split("x"))
    ours = resize(opencv["picture"], height, width, filter="bilinear", antialias=False)
    assert np.abs(ours.astype(int) - opencv[f"linear/{size}"]).max() <= 1


@pytest.mark.parametrize("size", ["7x5", "20x31", "33x48", "64x50"])
def test_nearest_is_opencvs_exact_one(size: str, opencv: dict[str, np.ndarray]) -> None:
    height, width = map(int, size.split("x"))
    ours = resize(opencv["picture"], height, width, filter="nearest", antialias=False)
    np.testing.assert_array_equal(ours, opencv[f"nearest/{size}"])


def test_a_whole_chain_is_opencvs_blob(opencv: dict[str, np.ndarray]) -> None:
    spec = TensorSpec(name="x", datatype="FP32", shape=(1, 3, 24, 24))
    steps = (
        Decode(colour="rgb"),
        Resize(height=24, width=24, antialias=False),
        Normalise(mean=(123.0, 117.0, 104.0), std=(58.0,)),
        Layout(order="NCHW"),
    )
    processor = Processor(Processing(inputs=(InputProcessing(tensor="x", steps=steps),)), (spec,), ())
    [ours] = processor.prepare([opencv["picture"][..., ::-1]]).inputs.values()  # OpenCV's own pictures are BGR
    assert np.abs(ours - opencv["blob"]).max() <= 1.01 / 58


@pytest.mark.parametrize(("across", "answer"), [(True, "kept"), (False, "apart")])
def test_the_boxes_that_remain_are_opencvs(across: bool, answer: str, opencv: dict[str, np.ndarray]) -> None:
    corners = to_corners(opencv["boxes"].astype(np.float32), "xywh")
    candidates = np.flatnonzero(opencv["scores"] >= 0.3)
    scores = opencv["scores"][candidates].astype(np.float32)
    classes = None if across else opencv["classes"][candidates]
    ours = candidates[suppress(corners[candidates], scores, classes, max_overlap=0.4, limit=1000)]
    assert ours.tolist() == opencv[answer].tolist()


@pytest.mark.parametrize("form", ["PNG", "BMP", "JPEG", "WEBP", "GIF"])
@pytest.mark.parametrize("colour", ["rgb", "bgr", "grey"])
def test_decoding_gives_pillows_pixels_in_the_colour_that_was_asked_for(form: str, colour: str) -> None:
    content = encoded(picture(), form)
    with Image.open(io.BytesIO(content)) as opened:
        wanted = np.asarray(opened.convert("L" if colour == "grey" else "RGB"))
    ours = decode(content, colour)  # type: ignore[arg-type]  # parametrised text
    np.testing.assert_array_equal(ours, {"grey": wanted[..., None], "rgb": wanted, "bgr": wanted[..., ::-1]}[colour])


@pytest.mark.parametrize("colour", ["rgb", "bgr", "grey"])
def test_a_decoded_picture_gives_what_its_encoded_form_gives(colour: str) -> None:
    np.testing.assert_array_equal(
        from_array(picture(), colour),  # type: ignore[arg-type]
        decode(encoded(picture()), colour),  # type: ignore[arg-type]
    )


def test_a_picture_that_lies_on_its_side_is_put_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    content = encoded(picture(10, 20), "JPEG", exif=exif)
    assert decode(content, "rgb").shape == (20, 10, 3)


@pytest.mark.parametrize("came", [(300, 500), (500, 300), (231, 640), (257, 256), (256, 256)])
def test_resizing_the_shorter_side_and_cropping_is_torchvisions(came: tuple[int, int]) -> None:
    # torchvision.transforms: Resize(256), CenterCrop(224) on a PIL image, spelt out with Pillow.
    height, width = came
    longer = int(256 * max(came) / min(came))
    resized = Image.fromarray(by_pillow(picture(*came), *((longer, 256) if width <= height else (256, longer))))
    top, left = round((resized.height - 224) / 2.0), round((resized.width - 224) / 2.0)
    wanted = np.asarray(resized.crop((left, top, left + 224, top + 224)))
    spec = TensorSpec(name="x", datatype="UINT8", shape=(-1, 224, 224, 3))
    steps = (Decode(), ResizeShorter(side=256), CentreCrop(height=224, width=224))
    processor = Processor(Processing(inputs=(InputProcessing(tensor="x", steps=steps),)), (spec,), ())
    np.testing.assert_array_equal(processor.prepare([picture(*came)]).inputs["x"][0], wanted)


def test_softmax_is_the_plain_formula_and_survives_large_numbers() -> None:
    logits = np.array([[1.0, 2.0, 3.0], [1e4, 0.0, -1e4]], np.float32)
    wanted = np.exp(logits[0].astype(np.float64))
    np.testing.assert_allclose(softmax(logits)[0], wanted / wanted.sum(), rtol=1e-6)
    np.testing.assert_array_equal(softmax(logits)[1], [1.0, 0.0, 0.0])


def test_a_detectors_columns_are_boxes_of_its_frame() -> None:
    # YOLOv8's form: [4 + classes, boxes], the box's middle and size.
    columns = np.array([[50, 20, 51], [40, 20, 40], [20, 10, 20], [10, 10, 10], [0.9, 0.1, 0.8], [0.05, 0.7, 0.1]], np.float32)
    found = find(Boxes(form="cxcywh", order="columns"), columns, None, (100, 100))
    np.testing.assert_allclose(found.boxes, [[40, 35, 60, 45], [15, 15, 25, 25]])
    assert found.classes.tolist() == [0, 1]
    np.testing.assert_allclose(found.scores, [0.9, 0.7], rtol=1e-6)
