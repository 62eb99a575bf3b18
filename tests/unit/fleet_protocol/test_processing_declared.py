"""Processing in the manifest: what may be declared, and that manifests without it are what they were."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from fleet_protocol.errors import MalformedMessage, ProtocolError
from fleet_protocol.manifest import Manifest, decode_manifest, encode_manifest
from fleet_protocol.processing import (
    Arrange,
    Audio,
    Bytes,
    Cast,
    Clip,
    Dct,
    Decode,
    Ends,
    FitLength,
    Frames,
    InputProcessing,
    Log,
    Mel,
    Normalise,
    Pieces,
    Processing,
    Reshape,
    Resize,
    ResultProcessing,
    Scale,
    Spectrum,
    Tensor,
    TopK,
    Transpose,
    Window,
    decode_processing,
)
from fleet_protocol.processing_fit import check_processing
from fleet_protocol.tensors import TensorSpec
from tests.support.bundles import CONTENTS, bundle_of

GREY = TensorSpec(name="pixels", datatype="FP32", shape=(-1, 1, 8, 8))
SCORES = TensorSpec(name="scores", datatype="FP32", shape=(-1, 10))
FOUND = TensorSpec(name="found", datatype="FP32", shape=(1, 84, 8400))

TOML = """
[[inputs]]
tensor = "pixels"
steps = [
    { step = "decode", colour = "grey" },
    { step = "resize", height = 8, width = 8 },
    { step = "scale", divide = 15 },
    { step = "layout", order = "NCHW" },
]

[[results]]
name = "digit"
tensor = "scores"
steps = [{ step = "softmax" }, { step = "top_k", k = 3 }]
"""


@pytest.fixture
def manifest(tmp_path: Any) -> Manifest:
    plain, _ = bundle_of(tmp_path, CONTENTS)
    return msgspec.structs.replace(plain, inputs=(GREY,), outputs=(SCORES,))


def test_a_manifest_without_processing_has_not_even_the_key(manifest: Manifest) -> None:
    assert "processing" not in json.loads(encode_manifest(manifest))


def test_processing_comes_back_from_the_manifest_as_it_went_in(manifest: Manifest) -> None:
    declared = decode_processing(TOML.encode())
    content = encode_manifest(msgspec.structs.replace(manifest, processing=declared))
    assert decode_manifest(content).processing == declared
    assert encode_manifest(decode_manifest(content)) == content


def changed(manifest: Manifest, change: Callable[[dict[str, Any]], None]) -> bytes:
    tree = json.loads(encode_manifest(msgspec.structs.replace(manifest, processing=decode_processing(TOML.encode()))))
    change(tree["processing"])
    return json.dumps(tree).encode()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tree: tree["inputs"][0]["steps"][1].update(step="warp"), "'warp'.*does not know.*letterbox.*Update Edgeward"),
        (lambda tree: tree["inputs"][0]["steps"][1].update(cubic=True), "unknown field `cubic`"),
        (lambda tree: tree.update(schema="edgeward.processing/2"), "edgeward.processing/2"),
        (lambda tree: tree["inputs"][0]["steps"][1].update(height=9000), "<= 8192"),
        (lambda tree: tree["inputs"][0]["steps"][2].update(divide=0), "> 0"),
        (lambda tree: tree["inputs"][0].update(steps=tree["inputs"][0]["steps"] * 5), "length <= 16"),
        (lambda tree: tree["results"][0].update(steps=[]), "length >= 1"),
        (lambda tree: tree["results"][0].update(tensor="logits"), "output 'logits'; the model has scores"),
        (lambda tree: tree["inputs"][0].update(tensor="picture"), "input 'picture'; the model has pixels"),
    ],
)
def test_what_cannot_be_declared_is_refused_when_the_manifest_is_read(
    change: Callable[[dict[str, Any]], None], message: str, manifest: Manifest
) -> None:
    with pytest.raises(MalformedMessage, match=message):
        decode_manifest(changed(manifest, change))


def check(*steps: Any, spec: TensorSpec = GREY) -> None:
    check_processing(Processing(inputs=(InputProcessing(tensor=spec.name, steps=steps),)), (spec,), ())


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ((Resize(height=8, width=8),), "must begin with the step 'decode'"),
        ((Decode(), Decode()), "comes first and not twice"),
        ((Decode(), Scale(divide=1), Resize(height=8, width=8)), "works on pixels"),
        ((Decode(), Arrange(order="NCHW"), Resize(height=8, width=8)), "works on pixels"),
        ((Decode(), Arrange(order="NCHW"), Scale(divide=2)), "must come before 'layout'"),
        ((Decode(), Cast(datatype="INT8"), Scale(divide=2)), "must come before 'layout'"),
        ((Decode(), Arrange(order="NCHW"), Arrange(order="NHWC")), "comes twice"),
        ((Decode(), Arrange(order="NHW")), "room for one channel; there are 3"),
        (
            (Decode(), Resize(height=8, width=8), Scale(divide=1), Arrange(order="NCHW")),
            r"FP32\[\?, 3, 8, 8\]; the model wants",
        ),
        ((Decode(colour="grey"), Resize(height=9, width=8), Scale(divide=1), Arrange(order="NCHW")), r"FP32\[\?, 1, 9, 8\]"),
        ((Decode(colour="grey"), Resize(height=8, width=8), Arrange(order="NCHW")), r"UINT8\[\?, 1, 8, 8\]; the model wants"),
        ((Decode(colour="grey"), Scale(divide=1), Arrange(order="NF")), r"pixels: FP32\[\?, \?\]; the model wants"),
    ],
)
def test_steps_that_do_not_lead_to_the_models_input_are_refused(steps: tuple[Any, ...], message: str) -> None:
    with pytest.raises(MalformedMessage, match=message):
        check(*steps)


ANY = TensorSpec(name="x", datatype="FP32", shape=(-1, -1))
TWO = TensorSpec(name="x", datatype="FP32", shape=(-1, -1, -1))
SOUND = Audio(rate=16_000)
MATRIX = Tensor(shape=(3, 4))


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ((Scale(divide=2),), "must begin with the step 'decode', 'tensor', 'audio' or 'bytes'"),
        ((SOUND, Tensor(shape=(2,))), "opens what comes, so it comes first"),
        ((Tensor(shape=(-1, 20_000_000)),), "at most 16777216 numbers"),
        ((SOUND, Resize(height=8, width=8)), "is for pictures, which begin with the step 'decode'"),
        ((SOUND, Arrange(order="NCHW")), "is for pictures; take 'transpose' or 'reshape'"),
        ((Decode(), FitLength(length=3)), "axes of a picture are ordered with 'layout'"),
        ((Decode(), Log()), "is for numbers, audio and bytes"),
        ((SOUND, Clip()), "wants 'low', 'high' or both"),
        ((SOUND, Clip(low=1, high=1)), "the lower one first; it has 1"),
        ((SOUND, Normalise(mean=(1, 2), std=(1,))), "2 means and 1 stds for . places"),
        ((MATRIX, Normalise(mean=(1, 2, 3), std=(1,))), "3 means and 1 stds for 4 places"),
        ((SOUND, FitLength(length=3, axis=1)), "names the axis 1; there are 1, counted from 0"),
        ((SOUND, Scale(divide=2), Pieces(length=3, hop=1)), "'pieces', must come right after 'audio'"),
        ((Tensor(shape=()), Pieces(length=3, hop=1)), "names the axis 0; there are 0"),
        ((Decode(), Pieces(length=3, hop=1)), "is for numbers, audio and bytes"),
        ((Bytes(), Pieces(length=3, hop=1, fill=256)), "fills with 256, which is no UINT8"),
        ((Bytes(), FitLength(length=3, fill=256)), "fills with 256, which is no UINT8"),
        ((Bytes(), FitLength(length=3, fill=0.5)), "fills with 0.5, which is no UINT8"),
        ((Tensor(shape=(-1,), datatype="INT64"), FitLength(length=3, fill=0.5)), "which is no INT64"),
        ((MATRIX, Reshape(shape=(-1, -1))), "leaves 2 sizes open"),
        ((MATRIX, Reshape(shape=(5, -1))), r"cannot make \[5, -1\] of \[3, 4\], which has 12 numbers"),
        ((MATRIX, Reshape(shape=(3, 3))), r"cannot make \[3, 3\]"),
        ((MATRIX, Reshape(shape=(0, -1))), r"cannot make \[0, -1\]"),
        ((MATRIX, Transpose(axes=(0, 0))), r"names the axes \[0, 0\]; there are 2, each to be named once"),
        ((SOUND, Ends(first=1, last=1)), "is for bytes, so it must come right after 'bytes'"),
        ((Bytes(), Cast(datatype="INT32"), Ends(first=1, last=1)), "must come right after 'bytes'"),
        ((Bytes(), Ends(first=0, last=0)), "keeps 0 and 0 bytes"),
        ((Bytes(), Ends(first=5000, last=0)), "none beyond 'block'"),
        ((MATRIX, Frames(length=2, hop=1)), "works on samples of 1 dimensions"),
        ((SOUND, Window()), "works on frames of 2 dimensions"),
        ((Tensor(shape=(3,)), Frames(length=4, hop=1)), "makes frames of 4 out of 3 samples"),
        ((Tensor(shape=(2,)), Frames(length=4, hop=1, pad="reflect")), "makes frames of 4 out of 2 samples"),
        ((Tensor(shape=(1_000_000,)), Frames(length=65_536, hop=1)), "at most 16777216 numbers"),
        ((MATRIX, Window(length=5)), "a window of 5 where there is room for 4"),
        ((MATRIX, Spectrum(size=5)), "has the size 5; wanted an even one"),
        ((MATRIX, Spectrum(size=2)), "a frame of 4 where there is room for 2"),
        ((Tensor(shape=(3, -1)), Spectrum()), "has the size -1"),
        ((SOUND, Frames(length=4, hop=1), Spectrum(), Mel(rate=8000, bands=2)), "a rate of 8000, and the audio has 16000"),
        ((Tensor(shape=(3, 1)), Mel(rate=8000, bands=2)), "must come after 'spectrum'"),
        ((MATRIX, Mel(rate=8000, bands=2, low=4000)), "reaches from 4000 to 4000 Hz; a rate of 8000 has 4000"),
        ((MATRIX, Mel(rate=8000, bands=2, high=4001)), "reaches from 0 to 4001"),
        ((MATRIX, Log(floor=0)), "wants a 'floor' or 'add' above 0"),
        ((MATRIX, Dct(coefficients=5)), "a number of coefficients of 5 where there is room for 4"),
        ((Tensor(shape=(3, 65_538)), Spectrum()), "frames of at most 65536 numbers; they have 65538"),
        ((Tensor(shape=(3, 65_536)), Dct(coefficients=17)), "17 numbers out of 65536: a matrix of more than 1048576"),
        ((Tensor(shape=(3, 32_769)), Mel(rate=8000, bands=33)), "33 numbers out of 32769: a matrix"),
        ((Tensor(shape=(3,), datatype="FP64"), Scale(divide=2)), r"x: FP64\[., 3\]; the model wants"),
        ((MATRIX, Cast(datatype="FP64")), r"x: FP64\[., 3, 4\]; the model wants"),
    ],
)
def test_steps_on_numbers_and_signals_that_do_not_belong_together_are_refused(steps: tuple[Any, ...], message: str) -> None:
    with pytest.raises(MalformedMessage, match=message):
        check(*steps, spec=TWO if MATRIX in steps else ANY)


@pytest.mark.parametrize(
    ("steps", "spec"),
    [
        ((SOUND,), ANY),
        ((Tensor(shape=(5,), datatype="FP64"), Normalise(mean=(1, 2, 3, 4, 5), std=(1,)), Cast(datatype="FP32")), ANY),
        (
            (SOUND, FitLength(length=16_000), Frames(length=480, hop=320)),
            TensorSpec(name="x", datatype="FP32", shape=(1, 49, 480)),
        ),
        ((MATRIX, Reshape(shape=(-1, 2))), TensorSpec(name="x", datatype="FP32", shape=(-1, 6, 2))),
        ((Bytes(), Ends(first=3, last=4)), TensorSpec(name="x", datatype="INT32", shape=(-1, 7))),
        ((Tensor(shape=()),), TensorSpec(name="x", datatype="FP32", shape=(-1,))),
    ],
)
def test_steps_that_lead_to_the_models_input_are_taken(steps: tuple[Any, ...], spec: TensorSpec) -> None:
    check(*steps, spec=spec)


def test_means_are_one_for_each_channel() -> None:
    content = TOML.replace('{ step = "scale", divide = 15 }', '{ step = "normalise", mean = [1, 2, 3], std = [1] }')
    with pytest.raises(MalformedMessage, match="3 means and 1 stds for 1 channels"):
        check_processing(decode_processing(content.encode()), (GREY,), (SCORES,))


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"steps": [{"step": "top_k"}, {"step": "softmax"}]}, "must be its last step"),
        ({"tensor": "found", "steps": [{"step": "top_k"}]}, "wants .batch, classes.; found has 3"),
        ({"tensor": "found", "steps": [{"step": "threshold", "at": 0}]}, "'threshold' wants .batch, classes."),
        ({"steps": [{"step": "threshold", "at": 0}, {"step": "softmax"}]}, "'threshold' must be its last step"),
        ({"tensor": "scores", "steps": [{"step": "boxes", "form": "xyxy"}]}, "3 dimensions"),
        ({"tensor": "found", "steps": [{"step": "boxes", "form": "xyxy", "scores": "nothing"}]}, "'nothing'"),
        (
            {"tensor": "found", "steps": [{"step": "boxes", "form": "xyxy", "scores": "found", "objectness": True}]},
            "no objectness",
        ),
    ],
)
def test_results_that_cannot_be_made_are_refused(result: dict[str, Any], message: str) -> None:
    declared = msgspec.convert({"name": "r", "tensor": "scores", **result}, ResultProcessing)
    with pytest.raises(MalformedMessage, match=message):
        check_processing(Processing(results=(declared,)), (), (SCORES, FOUND))


def test_one_result_is_named_once() -> None:
    twice = ResultProcessing(name="r", tensor="scores", steps=(TopK(),))
    with pytest.raises(MalformedMessage, match="twice"):
        check_processing(Processing(results=(twice, twice)), (), (SCORES,))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff", "is not TOML"),
        (b"[[inputs", "is not TOML"),
        (b"x = 1", "unknown field `x`.*Steps of inputs: decode"),
        (b"a = 1979-05-27", "unknown field"),
        (b"#" * 270_000, "at most 262144"),
        (b"schema = 'edgeward.processing/9'", "edgeward.processing/9"),
        (b"[[inputs]]\ntensor='x'\nsteps=[{step='scale', divide=inf}]", "processing"),
    ],
)
def test_a_file_that_declares_nothing_sound_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        decode_processing(content)
