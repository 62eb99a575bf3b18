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
    Cast,
    Decode,
    InputProcessing,
    Processing,
    Resize,
    ResultProcessing,
    Scale,
    TopK,
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


def test_means_are_one_for_each_channel() -> None:
    content = TOML.replace('{ step = "scale", divide = 15 }', '{ step = "normalise", mean = [1, 2, 3], std = [1] }')
    with pytest.raises(MalformedMessage, match="3 means and 1 stds for 1 channels"):
        check_processing(decode_processing(content.encode()), (GREY,), (SCORES,))


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"steps": [{"step": "top_k"}, {"step": "softmax"}]}, "must be its last step"),
        ({"tensor": "found", "steps": [{"step": "top_k"}]}, "wants .batch, classes.; found has 3"),
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
