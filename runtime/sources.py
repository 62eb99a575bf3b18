"""What a person points at, a bundle directory or a bare model file, as something that can be loaded.

A bundle's file is loaded only when it is the one that its manifest names: size, then digest, then the engine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fleet_protocol import digests, limits
from fleet_protocol.errors import ProtocolError
from fleet_protocol.manifest import MANIFEST_FILE, Descriptor, Manifest, Tolerance, decode_manifest
from fleet_protocol.processing import Processing
from runtime.device_facts import usable_cores
from runtime.engine import Engine, format_of, open_engine
from runtime.engines.providers import CPU
from runtime.errors import ModelRejected
from runtime.hosting.abreast import abreast
from runtime.hosting.batching import batched
from runtime.hosting.host import ModelIdentity
from runtime.model import Model, load

UNRELEASED: Final = "0.0.0"
"""The version of a bare file, which is of no release."""

_PIECE_BYTES: Final = 1024 * 1024
_COPIED_BYTES: Final = 64 * 1024 * 1024
"""Of a model file, for a second engine, which holds what stands in it once or twice more. Weights in another file, as those of
prepared forms, are mapped and do not count."""


@dataclass(frozen=True, slots=True)
class Source:
    """A model file that was found, who it is, and how it wants to be opened."""

    path: Path
    identity: ModelIdentity
    session_options: Mapping[str, str] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    processing: Processing | None = None
    digest: str = ""
    """Of the file as it was found."""
    provider: str | None = None
    delegate: Path | None = None
    """Where it runs, as `runtime.load` takes it."""
    compiled: Path | None = None
    """The directory of a TFLite model's packed weights (`runtime.tuning.prepared`), or of what the provider compiled of an ONNX
    model (`runtime.tuning.compiled`)."""
    threads: int | None = None
    """Threads of one run, at most; None: as many as the engine takes."""
    batch: int = 1
    """Samples of requests that wait are run together, at most (`runtime.hosting.batching`); 1: they are not."""
    pads: bool = False
    """Sequences of different lengths may be run together (`runtime.hosting.padding`)."""

    def check_unchanged(self) -> None:
        """Raises `ModelRejected` when the file is not any more what was found."""
        if self.digest and _digest(self.path) != self.digest:
            raise ModelRejected(f"{self.path} has changed since it was found. Start again, to serve what it is now.")

    def load(self, *, threads: int | None = None) -> Model:
        """Open it, on no more `threads` than it says itself. Raises `ModelRejected`."""
        model = load(
            self.path,
            session_options=self.session_options,
            threads=self.fewest(threads),
            provider=self.provider,
            delegate=self.delegate,
            compiled=self.compiled,
            processing=self.processing,
            labels=self.labels,
        )
        return batched(model, most=self.batch, pads=self.pads)

    def load_for_many(self, *, threads: int | None = None) -> Model:
        """The same for who asks it again before it has answered: runs in a crowd share the cores (`runtime.hosting.abreast`).

        That takes a second engine, so it is done where that is no large copy. Where memory is counted by the model, `load` it.
        """
        model, cores = self.load(threads=threads), usable_cores()
        on_cpu = self.provider in (None, CPU) and format_of(self.path) == "onnx"
        several = cores > 1 and self.fewest(threads) != 1 and self.batch == 1
        if not several or not on_cpu or self.path.stat().st_size > _COPIED_BYTES:
            return model
        return abreast(model, self._on_one_thread, cores=cores)

    def _on_one_thread(self) -> Engine:
        self.check_unchanged()
        return open_engine(self.path, session_options=self.session_options, threads=1, provider=self.provider)

    def fewest(self, threads: int | None) -> int | None:
        """The threads of one run where the caller allows so many (None: any number)."""
        return min((each for each in (self.threads, threads) if each is not None), default=None)


def find(path: Path, *, variant: str | None = None) -> Source:
    """The named variant of a bundle directory (None: the one that the publisher prefers), or a bare model file.

    Raises `ModelRejected`.
    """
    if (path / MANIFEST_FILE).is_file():
        return _from_bundle(path, variant)
    if path.is_dir():
        raise ModelRejected(f"{path} is a directory without {MANIFEST_FILE}. Give a bundle directory or a model file.")
    if variant is not None:
        raise ModelRejected(f"{path} is a bare model file, which has no variants. Leave out the variant, or give a bundle.")
    form = format_of(path)
    name = re.sub(r"[^a-z0-9_-]+", "-", path.stem.lower()).strip("-_")[:63] or "model"
    digest = _digest(path)
    return Source(path, ModelIdentity(name, UNRELEASED, digest, form), digest=digest)


@dataclass(frozen=True, slots=True)
class Contender:
    """One variant with what its answers are held against. A bare file is named by its format, and has nothing of the kind."""

    name: str
    source: Source
    tolerance: Tolerance | None = None
    golden: Path | None = None
    golden_samples: int = 0


def contenders(path: Path) -> tuple[Contender, ...]:
    """Every variant of a bundle directory, the publisher's preferred first, or the one bare file. Raises `ModelRejected`."""
    if not (path / MANIFEST_FILE).is_file():
        source = find(path)
        return (Contender(source.identity.variant, source),)
    manifest, _ = _manifest(path)
    golden = _checked_file(path, manifest.golden.file)
    return tuple(
        Contender(each.name, find(path, variant=each.name), each.tolerance, golden, manifest.golden.samples)
        for each in manifest.variants
    )


def _from_bundle(directory: Path, name: str | None) -> Source:
    manifest, content = _manifest(directory)
    variant = manifest.variants[0] if name is None else manifest.variant(name)
    if variant is None:
        there = ", ".join(each.name for each in manifest.variants)
        raise ModelRejected(f"{directory} has no variant {name!r}. It has: {there}.")
    identity = ModelIdentity(manifest.model, manifest.version, digests.digest_of(content), variant.name)
    file = _checked_file(directory, variant.file)
    return Source(
        file, identity, variant.session_options, manifest.labels, manifest.processing or None, digest=variant.file.digest
    )


def _manifest(directory: Path) -> tuple[Manifest, bytes]:
    path = directory / MANIFEST_FILE
    try:
        with path.open("rb") as file:
            content = file.read(limits.MANIFEST_BYTES + 1)
        return decode_manifest(content), content
    except OSError as error:
        raise ModelRejected(f"{path} cannot be read: {error.strerror}.") from error
    except ProtocolError as error:
        raise ModelRejected(f"{path} is not a manifest: {error}. Convert or fetch the bundle again.") from error


def _checked_file(directory: Path, file: Descriptor) -> Path:
    path = directory / file.path
    if not path.resolve().is_relative_to(directory.resolve()):
        raise ModelRejected(f"{path} leads out of its bundle. Fetch the bundle again.")
    format_of(path)
    size = path.stat().st_size
    if size != file.size:
        raise ModelRejected(f"{path} has {size} bytes; the manifest says {file.size}. Fetch the bundle again.")
    if _digest(path) != file.digest:
        raise ModelRejected(f"{path} is not the file that the manifest names: its digest differs. Fetch the bundle again.")
    return path


def _digest(path: Path) -> str:
    def pieces() -> Iterator[bytes]:
        with path.open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                yield piece

    try:
        return digests.digest_of_stream(pieces())
    except OSError as error:
        raise ModelRejected(f"{path} cannot be read: {error.strerror}.") from error
