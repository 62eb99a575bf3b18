"""The one durable-write recipe: temporary file, fsync, rename, fsync of the directory. A power cut after it loses nothing.

Until the rename, a reader sees the old file or none; never half of the new one.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

TEMPORARY_PREFIX = ".part-"
"""Leftovers of a killed write start with this; they may be deleted at start."""


def write_bytes(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Make `path` hold exactly `content`. Raises `OSError`; then `path` is as it was, or at worst new but not yet durable."""
    with replacing(path, mode=mode) as file:
        file.write(content)


@contextmanager
def replacing(path: Path, *, mode: int = 0o644) -> Iterator[IO[bytes]]:
    """A new file to write, which takes the place of `path` when the block ends well and vanishes when it does not."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=TEMPORARY_PREFIX)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            yield file
            file.flush()
            os.fsync(file.fileno())
        rename(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def rename(source: Path, target: Path) -> None:
    """Put `source`, already synced, in the place of `target`, and make the directory remember it."""
    source.replace(target)
    sync_directory(target.parent)


def make_directory(path: Path, *, mode: int = 0o755) -> Path:
    """Create `path` and what is missing above it; return it."""
    missing = [each for each in (path, *path.parents) if not each.is_dir()]
    for each in reversed(missing):
        each.mkdir(mode=mode, exist_ok=True)
        sync_directory(each.parent)
    return path


def sync_directory(path: Path) -> None:
    """Make the directory's entries durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(directory: Path) -> None:
    """Delete what killed writes left in `directory`."""
    for path in directory.glob(TEMPORARY_PREFIX + "*"):
        path.unlink(missing_ok=True)
