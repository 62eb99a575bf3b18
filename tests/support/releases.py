"""Signed releases without a registry: small bundles, a TUF repository in memory, and the director's key."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from PIL import Image
from securesystemslib.signer import CryptoSigner

from fleet_io.bundle_directory import describe
from fleet_protocol.digests import digest_of
from fleet_protocol.manifest import Descriptor, Golden, Lineage, Manifest, Tolerance, Variant, encode_manifest
from fleet_protocol.processing import decode_processing
from fleet_protocol.states import Assignment
from fleet_protocol.tensors import TensorSpec
from model_registry import trust
from model_registry.errors import NotFound
from tests.support import models

_PROCESSING = b"""
[[inputs]]
tensor = "pixels"
steps = [
    { step = "decode", colour = "grey" },
    { step = "resize", height = 8, width = 8 },
    { step = "scale", divide = 1 },
    { step = "layout", order = "NF" },
]
"""
CHUNK = 1024
"""Small chunks, so that small models have many."""


@dataclass(frozen=True)
class Release:
    """A manifest, its bytes and the files that it names, by digest."""

    manifest: Manifest
    content: bytes
    files: dict[str, Path]

    @property
    def digest(self) -> str:
        return digest_of(self.content)

    @property
    def target(self) -> trust.ReleaseTarget:
        return trust.ReleaseTarget(self.manifest.model, self.manifest.version, self.digest, len(self.content))

    def assignment(self, *, attempt: int = 0) -> Assignment:
        return Assignment(model=self.manifest.model, version=self.manifest.version, manifest=self.digest, attempt=attempt)


def make_release(
    directory: Path,
    version: str,
    *,
    model: str = "digits",
    seed: int = 0,
    damages: Sequence[float] = (0.0,),
    answers_nan: bool = False,
    chunk_size: int = CHUNK,
    pictured: bool = False,
    hangs: bool = False,
) -> Release:
    """A release of a linear classifier. Each of `damages` gives a variant whose weights are damaged by that share; with
    `answers_nan` every answer is NaN; with `pictured` it takes pictures, as `picture` makes them; with `hangs` it never
    answers `HANGING`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    golden = models.linear_golden(directory / f"{version}-golden.npz", count=8, seed=seed)
    paths = [directory / f"{version}-{at}.onnx" for at in range(len(damages))]
    for path, damage in zip(paths, damages, strict=True):
        if answers_nan:
            models.not_a_number(path)
        elif hangs:
            models.hanging_classifier(path, seed=seed)
        else:
            models.linear_classifier(path, seed=seed, damage=damage)
    note = directory / f"{version}-note.json"
    note.write_text("{}")
    described = {path: _describe(path, chunk_size) for path in (*paths, golden, note)}
    manifest = Manifest(
        model=model,
        version=version,
        inputs=(TensorSpec(name="pixels", datatype="FP32", shape=(-1, models.FEATURES)),),
        outputs=(TensorSpec(name="scores", datatype="FP32", shape=(-1, models.CLASSES)),),
        variants=tuple(
            Variant(
                name=f"float-{at}",
                format="onnx",
                precision="float32",
                file=described[path],
                tolerance=Tolerance(min_sqnr_db=30.0, min_agreement=0.9),
            )
            for at, path in enumerate(paths)
        ),
        golden=Golden(file=described[golden], samples=8, has_labels=True, max_regression=1.0),
        profile=described[note],
        parity=described[note],
        lineage=Lineage(source=digest_of(b"source"), data=digest_of(b"data")),
        processing=decode_processing(_PROCESSING) if pictured else msgspec.UNSET,
    )
    return Release(manifest, encode_manifest(manifest), {each.digest: path for path, each in described.items()})


def _describe(path: Path, chunk_size: int) -> Descriptor:
    return describe(path, name=path.name, media_type="application/octet-stream", chunk_size=chunk_size)


HANGING: Final = {"pixels": np.full((1, models.FEATURES), 1e9, np.float32)}
"""A request that a release that `hangs` never answers."""


def question(seed: int = 0) -> dict[str, np.ndarray]:
    """One good request to a release of `make_release`."""
    return {"pixels": models.samples(1, seed=seed)[0]}


def picture(seed: int = 0) -> tuple[bytes, np.ndarray]:
    """A picture for a release that is `pictured`, and the pixels that its model gets out of it: float32[1, 64]."""
    side = int(models.FEATURES**0.5)
    grey = np.random.default_rng(seed).integers(0, 256, (side, side), np.uint8)
    file = io.BytesIO()
    Image.fromarray(grey).save(file, "PNG")
    return file.getvalue(), grey.reshape(1, -1).astype(np.float32)


@dataclass
class Signers:
    """Every key of a fleet."""

    root: list[CryptoSigner] = field(default_factory=lambda: [CryptoSigner.generate_ed25519() for _ in range(3)])
    targets: CryptoSigner = field(default_factory=CryptoSigner.generate_ed25519)
    publisher: CryptoSigner = field(default_factory=CryptoSigner.generate_ed25519)
    snapshot: CryptoSigner = field(default_factory=CryptoSigner.generate_ed25519)
    timestamp: CryptoSigner = field(default_factory=CryptoSigner.generate_ed25519)
    director: CryptoSigner = field(default_factory=CryptoSigner.generate_ed25519)

    @property
    def online(self) -> trust.OnlineKeys:
        return trust.OnlineKeys(self.snapshot, self.timestamp)


class SignedMetadata:
    """A TUF repository in memory, signed with all keys at hand."""

    def __init__(self, signers: Signers, now: float) -> None:
        self._signers = signers
        root = trust.new_root(signers.root, signers.online, signers.targets, now)
        self.root = root.to_bytes()
        self.files = trust.new_repository(root, signers.online, signers.targets, now)

    def add(self, target: trust.ReleaseTarget, now: float) -> None:
        """Sign one release more."""
        before = trust.load_repository(self.files.get)
        uploaded = {}
        signers = self._signers
        if before.role(target.model) is None:
            top = trust.with_model(before.targets, target.model, signers.publisher, signers.targets, now)
            uploaded[trust.file_name(trust.TARGETS, top.signed.version)] = top.to_bytes()
        role = trust.with_release(before.role(target.model), target, signers.publisher, now)
        uploaded[trust.file_name(target.model, role.signed.version)] = role.to_bytes()
        self.files.update(trust.publish(trust.accept(before, uploaded, target, now), uploaded, signers.online, now))

    def read(self, name: str) -> bytes:
        """As a worker asks."""
        if name not in self.files:
            raise NotFound(f"no {name}")
        return self.files[name]
