"""One process for one directory or file: a lock that ends with its process, however it ends."""

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
    with _locked(make_directory(directory) / LOCK_FILE, f"{directory} is in use by another {what}", "directory"):
        yield


@contextmanager
def owning_file(path: Path, what: str) -> Iterator[None]:
    """The same for a file, by another one beside it."""
    with _locked(path.with_name(f"{path.name}.lock"), f"{path} is in use by another {what}", "file"):
        yield


@contextmanager
def _locked(path: Path, used: str, kind: str) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise AlreadyOwned(f"{used}. Stop that one first, or choose another {kind}.") from error
    try:
        yield
    finally:
        lock.release()
