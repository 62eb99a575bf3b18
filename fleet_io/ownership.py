"""One process for one directory: a lock that ends with its process, however it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from fleet_io.durable import make_directory
from fleet_io.errors import AlreadyOwned

LOCK_FILE = "owner.lock"


@contextmanager
def owning(directory: Path, what: str) -> Iterator[None]:
    """Hold `directory` for this process. Raises `AlreadyOwned` at once when another has it; `what` names that owner."""
    lock = FileLock(make_directory(directory) / LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise AlreadyOwned(
            f"{directory} is in use by another {what}. Stop that one first, or choose another directory."
        ) from error
    try:
        yield
    finally:
        lock.release()
