"""A bundle as a directory: written whole or not at all, and opened only when every byte is as the manifest says.

Layout (DESIGN.md §1): `manifest.json` beside the files that it describes. Files that the manifest does not name, such as
`parity.html`, are notes for people: they are never published and nobody trusts them.

Here stand files, digests and one rename. What a bundle means stands in `fleet_protocol.manifest`; how one is made, in
`converters`. Both sides that touch bundles (the converters that write, the registry's publishing that reads) use this module.
"""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fleet_io import durable
from fleet_io.errors import BundleDamaged, BundleExists, BundleUnwritable
from fleet_protocol import limits
from fleet_protocol.digests import chunk_digests, digest_of, digest_of_stream
from fleet_protocol.errors import ProtocolError
from fleet_protocol.manifest import MANIFEST_FILE, Descriptor, Manifest, decode_manifest, encode_manifest

_READ_BYTES: Final = limits.CHUNK_BYTES


@dataclass(frozen=True)
class Bundle:
    """A whole, verified bundle. `digest` is its manifest's: the identity of the release."""

    directory: Path
    manifest: Manifest
    digest: str

    def path(self, descriptor: Descriptor) -> Path:
        """Where one of the manifest's files lies."""
        return self.directory / descriptor.path

    def notes(self) -> tuple[Path, ...]:
        """Files in the directory that the manifest does not name, sorted."""
        named = {self.path(descriptor) for descriptor in self.manifest.files()} | {self.directory / MANIFEST_FILE}
        return tuple(sorted(path for path in self.directory.rglob("*") if path.is_file() and path not in named))


def describe(path: Path, *, name: str, media_type: str, chunk_size: int = limits.CHUNK_BYTES) -> Descriptor:
    """Measure one file: its digest, size and chunk list; `name` is its path inside the bundle. Raises `OSError`."""
    return Descriptor(
        path=name,
        media_type=media_type,
        digest=digest_of_stream(_pieces(path, _READ_BYTES)),
        size=path.stat().st_size,
        chunk_size=chunk_size,
        chunks=chunk_digests(_pieces(path, chunk_size)),
    )


def write_bundle(
    out: Path, manifest: Manifest, files: Mapping[str, Path], *, notes: Mapping[str, bytes] | None = None
) -> Bundle:
    """Make the directory `out` hold exactly this bundle, durably and in one step.

    `files` says where the content of each of the manifest's paths lies now; `notes` are further files by name. A kill at any
    moment leaves `out` as it was, and at most a directory `.part-…` beside it, which may be deleted. Where `out` already holds
    this very bundle, nothing is written. Raises `BundleExists`, `BundleUnwritable`, `BundleDamaged` (a file does not match).
    """
    content = encode_manifest(manifest)
    try:
        durable.make_directory(out.parent)
        staging = Path(tempfile.mkdtemp(dir=out.parent, prefix=f"{durable.TEMPORARY_PREFIX}{out.name}-"))
    except OSError as error:
        raise BundleUnwritable(f"{out} cannot be written: {error.strerror or error}.") from error
    try:
        _fill(staging, content, manifest, files, notes or {})
        _put(staging, out, digest_of(content))
    except OSError as error:
        raise BundleUnwritable(f"{out} cannot be written: {error.strerror or error}. Nothing was left behind.") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return open_bundle(out)


def open_bundle(directory: Path) -> Bundle:
    """Read a bundle and verify every file against its manifest. Raises `BundleDamaged`, which names the file."""
    content = _read_manifest(directory)
    try:
        manifest = decode_manifest(content)
    except ProtocolError as error:
        raise BundleDamaged(f"{directory / MANIFEST_FILE} is not a manifest: {error}. Convert or fetch it again.") from error
    for descriptor in manifest.files():
        _verify(directory / descriptor.path, descriptor)
    return Bundle(directory=directory, manifest=manifest, digest=digest_of(content))


def _fill(
    staging: Path, manifest_content: bytes, manifest: Manifest, files: Mapping[str, Path], notes: Mapping[str, bytes]
) -> None:
    """Everything into the staging directory, each file and each directory synced; the manifest last."""
    for descriptor in manifest.files():
        target = staging / descriptor.path
        durable.make_directory(target.parent)
        with durable.replacing(target) as file, files[descriptor.path].open("rb") as source:
            shutil.copyfileobj(source, file)
        _verify(target, descriptor)
    for name, note in notes.items():
        durable.write_bytes(staging / name, note)
    durable.write_bytes(staging / MANIFEST_FILE, manifest_content)
    staging.chmod(0o755)


def _put(staging: Path, out: Path, digest: str) -> None:
    """Rename into place. The system refuses to put a directory over one that is not empty, so nothing can be lost."""
    try:
        durable.rename(staging, out)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        if not holds(out, digest):
            raise BundleExists(f"{out} already exists and holds something else. Choose another --out, or remove it.") from error


def holds(directory: Path, digest: str) -> bool:
    """Whether a whole bundle of this manifest digest lies there already."""
    try:
        return open_bundle(directory).digest == digest
    except BundleDamaged:
        return False


def _read_manifest(directory: Path) -> bytes:
    if not directory.exists():
        raise BundleDamaged(f"{directory} does not exist. Make a bundle with `edgeward convert`.")
    if not directory.is_dir():
        raise BundleDamaged(f"{directory} is a file; a bundle is a directory with a {MANIFEST_FILE}.")
    path = directory / MANIFEST_FILE
    try:
        with path.open("rb") as file:
            return file.read(limits.MANIFEST_BYTES + 1)
    except FileNotFoundError as error:
        raise BundleDamaged(f"{directory} has no {MANIFEST_FILE}, so it is not a bundle.") from error
    except OSError as error:
        raise BundleDamaged(f"{path} cannot be read: {error.strerror or error}.") from error


def _verify(path: Path, descriptor: Descriptor) -> None:
    """One file against its descriptor: first that it is one, then its size, then its content."""
    if path.is_symlink() or not path.is_file():
        raise BundleDamaged(f"{path} is missing or not a plain file. Convert or fetch the bundle again.")
    try:
        size = path.stat().st_size
        if size != descriptor.size:
            raise _changed(path, f"it has {size} bytes, and the manifest names {descriptor.size}")
        found = describe(path, name=descriptor.path, media_type=descriptor.media_type, chunk_size=descriptor.chunk_size)
    except OSError as error:
        raise BundleDamaged(f"{path} cannot be read: {error.strerror or error}.") from error
    if found.digest != descriptor.digest:
        raise _changed(path, f"its digest is {found.digest}, and the manifest names {descriptor.digest}")
    if found != descriptor:
        raise _changed(path, "its chunk list in the manifest does not fit its content")


def _changed(path: Path, what: str) -> BundleDamaged:
    return BundleDamaged(f"{path} was changed after the bundle was made: {what}. Convert or fetch the bundle again.")


def _pieces(path: Path, size: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(size):
            yield piece
