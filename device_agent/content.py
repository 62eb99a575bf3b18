"""Files by digest: complete ones, and partial ones with a durable bitmap of the chunks that are certain.

A file gets its final name only after its whole digest was checked; so a name in `blobs/` is a promise. The disk's reserve is
kept: a download that would eat it is refused before its first byte, and what runs goes on.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final, Self

from device_agent.errors import ContentDamaged, DiskFull
from fleet_io import durable
from fleet_protocol.digests import chunk_count, chunk_matches, digest_of_stream, hex_of

_PIECE: Final = 1 << 20
BITMAP_SUFFIX: Final = ".have"


class ContentStore:
    """`blobs/` and `partial/` under the state directory."""

    def __init__(self, directory: Path, *, reserve_bytes: int) -> None:
        self._blobs = durable.make_directory(directory / "blobs")
        self._partial = durable.make_directory(directory / "partial")
        self._reserve = reserve_bytes
        for each in (self._blobs, self._partial):
            durable.remove_leftovers(each)

    def path(self, digest: str) -> Path:
        """Where the complete file lies, or would lie."""
        return self._blobs / hex_of(digest)

    def has(self, digest: str) -> bool:
        """Whether the complete file is there."""
        return self.path(digest).is_file()

    def read(self, digest: str, *, limit: int) -> bytes:
        """The content of a small file, checked. Raises `ContentDamaged` when it is missing, too large or changed."""
        self.check(digest, limit=limit)
        return self.path(digest).read_bytes()

    def check(self, digest: str, *, limit: int | None = None) -> None:
        """Hash the file again. Raises `ContentDamaged`, and then the file is gone, so that it is fetched again."""
        path = self.path(digest)
        try:
            fits = limit is None or path.stat().st_size <= limit
            sound = fits and digest_of_stream(_pieces(path)) == digest
        except OSError as error:
            raise ContentDamaged(f"{digest} cannot be read from this device's disk: {error.strerror}") from error
        if not sound:
            path.unlink(missing_ok=True)
            raise ContentDamaged(f"{digest} was damaged on this device's disk; it was removed and will be fetched again")

    def put(self, digest: str, content: bytes) -> None:
        """Keep a small file whose digest was checked by the caller. Raises `DiskFull`."""
        self.check_room(len(content))
        try:
            durable.write_bytes(self.path(digest), content)
        except OSError as error:
            raise _translated(error) from error

    def open_partial(self, digest: str, size: int) -> PartialFile:
        """Go on with a partial file, or begin one of `size` bytes. Raises `DiskFull`."""
        path = self._partial / hex_of(digest)
        allocated = path.stat().st_size if path.exists() else 0
        self.check_room(max(0, size - allocated))
        try:
            return PartialFile(path, size)
        except OSError as error:
            raise _translated(error) from error

    def complete(self, digest: str, partial: PartialFile) -> Path:
        """Check the whole digest and give the file its name. Raises `ContentDamaged`, and then nothing of it is kept."""
        if digest_of_stream(_pieces(partial.path)) != digest:
            partial.discard()
            raise ContentDamaged(f"{digest} came whole, but is not what its digest says; it will be fetched again")
        durable.rename(partial.path, self.path(digest))
        partial.bitmap_path.unlink(missing_ok=True)
        return self.path(digest)

    def keep_only(self, digests: Collection[str]) -> int:
        """Delete complete and partial files that `digests` does not name; return how many bytes that freed."""
        names = {hex_of(digest) for digest in digests}
        freed = 0
        for directory in (self._blobs, self._partial):
            for path in directory.iterdir():
                if path.name.removesuffix(BITMAP_SUFFIX) not in names:
                    freed += path.stat().st_size
                    path.unlink(missing_ok=True)
        return freed

    def check_room(self, size: int) -> None:
        """Raises `DiskFull` when `size` bytes more would eat into the reserve."""
        free = shutil.disk_usage(self._blobs).free
        if free - size < self._reserve:
            raise DiskFull(
                f"{self._blobs.parent} has {free} bytes free; {size} are needed and {self._reserve} stay in reserve. "
                "Free some room; the running model goes on meanwhile"
            )


class PartialFile:
    """A preallocated file that is filled chunk by chunk. Use as a context."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.bitmap_path = path.with_name(path.name + BITMAP_SUFFIX)
        self._size = size
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _preallocate(self._file, size)
        except OSError:
            os.close(self._file)
            path.unlink(missing_ok=True)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        os.close(self._file)

    def write(self, offset: int, chunk: bytes) -> None:
        """Put a chunk in its place. Raises `DiskFull`."""
        try:
            os.pwrite(self._file, chunk, offset)
        except OSError as error:
            raise _translated(error) from error

    def remember(self, have: bytes) -> None:
        """Make the chunks written so far durable, and then the bitmap that names them. Raises `DiskFull`."""
        try:
            os.fsync(self._file)
            durable.write_bytes(self.bitmap_path, have)
        except OSError as error:
            raise _translated(error) from error

    def remembered(self, chunk_size: int, digests: bytes) -> set[int]:
        """The chunks that the bitmap names and whose bytes still have their signed digest."""
        if not self.bitmap_path.exists():
            return set()
        bitmap = self.bitmap_path.read_bytes()
        count = chunk_count(self._size, chunk_size)
        claimed = (at for at in range(min(count, len(bitmap) * 8)) if bitmap[at // 8] >> (at % 8) & 1)
        return {at for at in claimed if chunk_matches(os.pread(self._file, chunk_size, at * chunk_size), at, digests)}

    def discard(self) -> None:
        """Delete the file and its bitmap."""
        self.path.unlink(missing_ok=True)
        self.bitmap_path.unlink(missing_ok=True)


def bitmap_of(chunks: Collection[int], count: int) -> bytes:
    """One bit a chunk, lowest first."""
    bits = bytearray(-(-count // 8))
    for at in chunks:
        bits[at // 8] |= 1 << (at % 8)
    return bytes(bits)


def _preallocate(file: int, size: int) -> None:
    if os.fstat(file).st_size != size:
        os.ftruncate(file, 0)
        if size:
            os.posix_fallocate(file, 0, size)


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece


def _translated(error: OSError) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull("the disk of this device is full. Free some room; the running model goes on meanwhile")
    return error
