"""The manifest: what is in a bundle, by digest. It is the TUF target, so its own digest is the release's identity.

Layout of a bundle on disk (DESIGN.md §1): `manifest.json` beside the files that it describes. On a device and in the registry
files are stored by digest, so a descriptor's `path` only matters inside a bundle directory.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Final, Literal

import msgspec

from fleet_protocol import codec, limits
from fleet_protocol.digests import CHUNK_DIGEST_BYTES, Digest, chunk_count
from fleet_protocol.errors import MalformedMessage
from fleet_protocol.names import Name, Version
from fleet_protocol.processing import KNOWN_STEPS, Processing
from fleet_protocol.processing_fit import check_processing
from fleet_protocol.tensors import TensorSpec

MANIFEST_FILE: Final = "manifest.json"
SCHEMA: Final = "edgeward.manifest/1"

Format = Literal["onnx", "tflite"]
Fraction = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]


class Descriptor(msgspec.Struct, frozen=True, kw_only=True):
    """One file: media type, digest and size (OCI descriptor), its path in the bundle, and its signed chunk list."""

    path: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    media_type: Annotated[str, msgspec.Meta(max_length=100)]
    digest: Digest
    size: Annotated[int, msgspec.Meta(ge=0, le=limits.BLOB_BYTES)]
    chunk_size: Annotated[int, msgspec.Meta(ge=1, le=limits.CHUNK_BYTES)]
    chunks: bytes
    """SHA-256 of each chunk, concatenated (32 bytes a chunk)."""


class Tolerance(msgspec.Struct, frozen=True, kw_only=True):
    """How far a variant's outputs on a device may be from the golden outputs of the float model."""

    min_sqnr_db: float
    """Least signal-to-quantization-noise ratio over all golden outputs, in dB."""
    min_agreement: Fraction | None = None
    """Least share of golden samples whose arg-max agrees; None where outputs are not classes."""


class Accuracy(msgspec.Struct, frozen=True, kw_only=True):
    """A measured quality on held-out data."""

    metric: Annotated[str, msgspec.Meta(max_length=50)]
    value: float
    samples: Annotated[int, msgspec.Meta(ge=0)]


class Variant(msgspec.Struct, frozen=True, kw_only=True):
    """One form of the model: the same function, other numbers or another engine."""

    name: Name
    format: Format
    precision: Annotated[str, msgspec.Meta(max_length=50)]
    """Such as `float32`, `int8-static`, `int8-weights`."""
    file: Descriptor
    tolerance: Tolerance
    accuracy: Accuracy | None = None
    session_options: dict[str, str] = {}
    """Engine options without which this variant is slow or wrong, such as `session.disable_quant_qdq=1`."""
    recipe: dict[str, str] = {}
    """The conversion's choices, to get the variant again."""


class Golden(msgspec.Struct, frozen=True, kw_only=True):
    """The inputs and float outputs that a device tries before it activates.

    `file` is an `.npz`, never pickled: `input/<tensor>` and `output/<tensor>`, first axis the sample, and `label` (int64)
    where known.
    """

    file: Descriptor
    samples: Annotated[int, msgspec.Meta(ge=1)]
    has_labels: bool = False
    min_accuracy: Fraction | None = None
    """Least accuracy on the labels, where the publisher promised one."""
    max_regression: Fraction = 0.1
    """By how much accuracy on the labels may fall below that of the model that now runs on the device."""


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    """Where the bundle came from."""

    source: Digest
    data: Digest
    tools: dict[str, str] = {}
    seed: int = 0


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle. `model` and `version` name the release; `variants` are in order of preference."""

    schema: Literal["edgeward.manifest/1"] = SCHEMA
    model: Name
    version: Version
    inputs: Annotated[tuple[TensorSpec, ...], msgspec.Meta(min_length=1, max_length=limits.TENSORS)]
    outputs: Annotated[tuple[TensorSpec, ...], msgspec.Meta(min_length=1, max_length=limits.TENSORS)]
    labels: Annotated[tuple[str, ...], msgspec.Meta(max_length=limits.CLASSES)] = ()
    variants: Annotated[tuple[Variant, ...], msgspec.Meta(min_length=1, max_length=limits.VARIANTS)]
    golden: Golden
    profile: Descriptor
    parity: Descriptor
    lineage: Lineage
    processing: Processing | msgspec.UnsetType = msgspec.UNSET
    """What is done to inputs before, and to outputs after; a manifest without it has not even the key."""

    def files(self) -> tuple[Descriptor, ...]:
        """Every file of the bundle but the manifest itself."""
        return (*(variant.file for variant in self.variants), self.golden.file, self.profile, self.parity)

    def variant(self, name: str) -> Variant | None:
        """The variant of that name, or None."""
        return next((variant for variant in self.variants if variant.name == name), None)


def encode_manifest(manifest: Manifest) -> bytes:
    """The manifest's one byte form: what is written, hashed and signed.

    Raises `ProtocolError` for what `decode_manifest` would not take, such as a tolerance that is not finite.
    """
    content = codec.encode_readable(manifest)
    decode_manifest(content)
    return content


def decode_manifest(content: bytes) -> Manifest:
    """Read and check a manifest. Raises `ProtocolError`."""
    manifest = _read(content)
    names = [variant.name for variant in manifest.variants]
    if len(set(names)) != len(names):
        raise MalformedMessage(f"manifest names a variant twice: {', '.join(names)}")
    for descriptor in manifest.files():
        _check(descriptor)
    _check_paths(manifest.files())
    if manifest.golden.file.size > limits.GOLDEN_BYTES or manifest.profile.size > limits.PROFILE_BYTES:
        raise MalformedMessage("manifest's golden file or profile is larger than a device reads")
    if manifest.processing is not msgspec.UNSET:
        check_processing(manifest.processing, manifest.inputs, manifest.outputs)
    return manifest


def _read(content: bytes) -> Manifest:
    try:
        return codec.decode(content, Manifest, limit=limits.MANIFEST_BYTES, what="manifest")
    except MalformedMessage as error:
        if "$.processing" not in str(error):
            raise
        raise MalformedMessage(
            f"{error}: this release wants processing that this Edgeward does not know. {KNOWN_STEPS} Update Edgeward here"
        ) from error


def _check(descriptor: Descriptor) -> None:
    path = PurePosixPath(descriptor.path)
    if path.is_absolute() or ".." in path.parts or "\\" in descriptor.path:
        raise MalformedMessage(f"manifest names the file {descriptor.path!r}, which leaves its bundle")
    if not descriptor.path.isprintable() or str(path) != descriptor.path or descriptor.path in (".", MANIFEST_FILE):
        raise MalformedMessage(f"manifest names the file {descriptor.path!r}, which is not a plain path within its bundle")
    expected = chunk_count(descriptor.size, descriptor.chunk_size) * CHUNK_DIGEST_BYTES
    if len(descriptor.chunks) != expected:
        raise MalformedMessage(f"{descriptor.path}: chunk list has {len(descriptor.chunks)} bytes; {expected} expected")


def _check_paths(descriptors: tuple[Descriptor, ...]) -> None:
    """One path may be named twice, but only for the same bytes."""
    digests: dict[str, str] = {}
    for descriptor in descriptors:
        if digests.setdefault(descriptor.path, descriptor.digest) != descriptor.digest:
            raise MalformedMessage(f"manifest names two different files {descriptor.path!r}")
