"""What a manifest may not say, and what the error tells the person who wrote it."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from fleet_protocol import codec, limits
from fleet_protocol.errors import MalformedMessage, ProtocolError
from fleet_protocol.manifest import Descriptor, Golden, Lineage, Manifest, Tolerance, Variant, decode_manifest, encode_manifest
from fleet_protocol.tensors import TensorSpec

DIGEST = "sha256:" + "0" * 64
OTHER_DIGEST = "sha256:" + "1" * 64


def a_file(path: str, **changes: Any) -> Descriptor:
    plain = Descriptor(path=path, media_type="x/y", digest=DIGEST, size=10, chunk_size=10, chunks=bytes(32))
    return msgspec.structs.replace(plain, **changes)


def a_variant(name: str = "int8", **changes: Any) -> Variant:
    plain = Variant(
        name=name,
        format="onnx",
        precision="int8-static",
        file=a_file(f"variants/{name}.onnx"),
        tolerance=Tolerance(min_sqnr_db=20.0),
    )
    return msgspec.structs.replace(plain, **changes)


def a_manifest(**changes: Any) -> Manifest:
    spec = TensorSpec(name="pixels", datatype="FP32", shape=(-1, 64))
    plain = Manifest(
        model="digits",
        version="1.0.0",
        inputs=(spec,),
        outputs=(spec,),
        variants=(a_variant(),),
        golden=Golden(file=a_file("golden.npz"), samples=1),
        profile=a_file("profile.json"),
        parity=a_file("parity.json"),
        lineage=Lineage(source=DIGEST, data=DIGEST),
    )
    return msgspec.structs.replace(plain, **changes)


def test_a_plain_manifest_is_taken() -> None:
    assert decode_manifest(encode_manifest(a_manifest())) == a_manifest()


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../x", "a/../../x", "a\\b", ".", "a//b", "a/", "./a", "a\nb", "a\x00b", "a\x1b[31mb", "manifest.json"],
)
def test_a_path_that_is_not_plain_and_inside_the_bundle_is_refused(path: str) -> None:
    with pytest.raises(MalformedMessage) as refusal:
        decode_manifest(codec.encode(a_manifest(profile=a_file(path))))
    assert "file" in str(refusal.value)


def test_one_path_for_two_different_files_is_refused() -> None:
    twice = a_manifest(profile=a_file("same.json"), parity=a_file("same.json", digest=OTHER_DIGEST))
    with pytest.raises(MalformedMessage, match="two different files"):
        decode_manifest(codec.encode(twice))
    decode_manifest(codec.encode(a_manifest(profile=a_file("same.json"), parity=a_file("same.json"))))


def test_a_variant_named_twice_is_refused() -> None:
    with pytest.raises(MalformedMessage, match="variant twice"):
        decode_manifest(codec.encode(a_manifest(variants=(a_variant(), a_variant()))))


@pytest.mark.parametrize("chunks", [b"", bytes(31), bytes(33), bytes(64)])
def test_a_chunk_list_of_the_wrong_length_is_refused(chunks: bytes) -> None:
    with pytest.raises(MalformedMessage, match="32 expected"):
        decode_manifest(codec.encode(a_manifest(parity=a_file("p.json", chunks=chunks))))


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "Digits"},
        {"version": "1.0"},
        {"variants": ()},
        {"inputs": ()},
        {"schema": "edgeward.manifest/2"},
        {"profile": a_file("p.json", size=limits.PROFILE_BYTES + 1, chunk_size=limits.CHUNK_BYTES, chunks=bytes(32 * 43))},
        {"parity": a_file("p.json", digest="sha256:x")},
        {"parity": a_file("p.json", size=-1)},
        {"parity": a_file("p.json", chunk_size=0)},
        {"parity": a_file("p.json", size=limits.BLOB_BYTES + 1)},
    ],
)
def test_a_wrong_value_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError, match="manifest"):
        decode_manifest(codec.encode(a_manifest(**changes)))


@pytest.mark.parametrize("value", [math.inf, math.nan, -math.inf])
def test_a_number_that_json_cannot_hold_is_refused_when_it_is_written(value: float) -> None:
    endless = a_variant(tolerance=Tolerance(min_sqnr_db=value))
    with pytest.raises(MalformedMessage, match="min_sqnr_db"):
        encode_manifest(a_manifest(variants=(endless,)))


def test_a_variant_is_found_by_its_name() -> None:
    manifest = a_manifest(variants=(a_variant("int8"), a_variant("float")))
    found = manifest.variant("float")
    assert found is not None
    assert found.name == "float"
    assert manifest.variant("int4") is None
