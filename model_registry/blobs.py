"""Content by digest: the `BlobStore` interface and the one that uses a directory.

A blob is verified while it arrives and appears under its digest only when it is whole, so whatever a store gives back is what
somebody uploaded. Names inside the store are made from checked digests; no path ever comes from outside.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Protocol

from fleet_io import durable
from fleet_protocol import limits
from fleet_protocol.digests import hex_of
from model_registry.errors import BlobMissing, BlobRefused, Damaged, StoreFailed


class BlobStore(Protocol):
    """Immutable content by digest. A digest that is none raises `fleet_protocol.MalformedMessage`."""

    def size(self, digest: str) -> int | None:
        """Bytes of that content, or None when it is not here. Raises `StoreFailed`."""
        ...

    def whole_size(self, digest: str) -> int | None:
        """`size` of content that still hashes to its digest; None also when it was damaged. Raises `StoreFailed`."""
        ...

    def put(self, digest: str, pieces: Iterable[bytes], *, limit: int = limits.BLOB_BYTES) -> int:
        """Keep the content that `pieces` make up; gives its size.

        Raises `BlobRefused` when they do not hash to `digest` or are more than `limit` bytes, `StoreFailed` when they cannot
        be kept. Either way nothing of them stays.
        """
        ...

    def read(self, digest: str, *, limit: int) -> bytes:
        """The whole content, verified.

        Raises `BlobMissing`, `BlobRefused` (more than `limit` bytes), `Damaged` or `StoreFailed`.
        """
        ...

    def read_chunk(self, digest: str, index: int, chunk_size: int) -> tuple[bytes, int]:
        """Chunk `index` of `chunk_size` bytes, and the size of the whole; empty past the end, not verified.

        Raises `BlobMissing` or `StoreFailed`.
        """
        ...


class DirectoryBlobStore:
    """Blobs as files `ab/abcdef…` below one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = durable.make_directory(directory)
        for shard in directory.iterdir():
            if shard.is_dir():
                durable.remove_leftovers(shard)

    def size(self, digest: str) -> int | None:
        """See `BlobStore`."""
        try:
            return self._path(digest).stat().st_size
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _failure(error, f"{digest} cannot be looked for") from error

    def whole_size(self, digest: str) -> int | None:
        """See `BlobStore`."""
        size = self.size(digest)
        if size is None:
            return None
        try:
            with self._path(digest).open("rb") as file:
                return size if hashlib.file_digest(file, "sha256").hexdigest() == hex_of(digest) else None
        except OSError as error:
            raise _failure(error, f"{digest} cannot be read") from error

    def put(self, digest: str, pieces: Iterable[bytes], *, limit: int = limits.BLOB_BYTES) -> int:
        """See `BlobStore`."""
        path = self._path(digest)
        try:
            durable.make_directory(path.parent)
            with durable.replacing(path) as file:
                return _copy_verified(pieces, file, digest, limit)
        except OSError as error:
            raise _failure(error, f"{digest} cannot be kept") from error

    def read(self, digest: str, *, limit: int) -> bytes:
        """See `BlobStore`."""
        size = self.size(digest)
        if size is None:
            raise BlobMissing(f"There is no blob {digest}.")
        if size > limit:
            raise BlobRefused(f"{digest} has {size} bytes; at most {limit} are read here.")
        try:
            content = self._path(digest).read_bytes()
        except OSError as error:
            raise _failure(error, f"{digest} cannot be read") from error
        if hashlib.sha256(content).hexdigest() != hex_of(digest):
            raise Damaged(
                f"{self._path(digest)} no longer has the content of its digest.", "Publish that release's bundle again."
            )
        return content

    def read_chunk(self, digest: str, index: int, chunk_size: int) -> tuple[bytes, int]:
        """See `BlobStore`."""
        try:
            with self._path(digest).open("rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                return os.pread(file.fileno(), chunk_size, index * chunk_size), size
        except FileNotFoundError as error:
            raise BlobMissing(f"There is no blob {digest}.") from error
        except OSError as error:
            raise _failure(error, f"{digest} cannot be read") from error

    def _path(self, digest: str) -> Path:
        name = hex_of(digest)
        return self._directory / name[:2] / name


def _copy_verified(pieces: Iterable[bytes], file: IO[bytes], digest: str, limit: int) -> int:
    state, size = hashlib.sha256(), 0
    for piece in pieces:
        size += len(piece)
        if size > limit:
            raise BlobRefused(f"{digest} is larger than {limit} bytes, the most that is kept.", "Upload a smaller file.")
        state.update(piece)
        file.write(piece)
    if state.hexdigest() != hex_of(digest):
        raise BlobRefused(
            f"The {size} bytes that arrived are not {digest}: they hash to sha256:{state.hexdigest()}.",
            "Upload the file again; it changed or was damaged on the way.",
        )
    return size


def _failure(error: OSError, what: str) -> StoreFailed:
    hint = (
        "Make room on the registry's disk." if error.errno in (errno.ENOSPC, errno.EDQUOT) else "Look at the registry's disk."
    )
    return StoreFailed(f"{what}: {error.strerror}.", hint)
