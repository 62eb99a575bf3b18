"""Entries of the cache of what was made of a model at install time: directories that are whole or not there, and never changed.

An entry is named after all that it depends on: the model's digest and options, where it runs, the processor, the library
versions. It is filled beside its place, synced, recorded with the digest of every file, and renamed: a model that runs from it
keeps its files even when they are removed. What is in it is the business of `runtime.tuning.prepared` (the CPU) and
`runtime.tuning.compiled` (other execution providers).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

import msgspec

from fleet_io import durable
from fleet_protocol.digests import digest_of, hex_of
from fleet_protocol.manifest import Format
from runtime.device_facts import DeviceFacts
from runtime.engine import format_of
from runtime.engines.onnx_files import external_files
from runtime.engines.providers import CPU
from runtime.errors import CannotPrepare, ModelRejected
from runtime.seen_files import SeenFile, is_same, seen

RECORD: Final = "prepared.json"

_RECORD_BYTES: Final = 1 << 20


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """All that a cache entry depends on; its digest is the entry's name."""

    layout: int = 2
    digest: str
    session_options: dict[str, str]
    packed: bool = True
    provider: str = CPU
    device: DeviceFacts

    def name(self) -> str:
        """The name of the entry's directory."""
        return hex_of(digest_of(msgspec.json.encode(self, order="deterministic")))[:40]


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    key: Key
    files: dict[str, SeenFile]


def build(entry: Path, key: Key, fill: Callable[[Path], None]) -> None:
    """Put what `fill` writes into an empty directory in the place of `entry`.

    Raises what `fill` raises, and `CannotPrepare` where the cache cannot be written; nothing is left then.
    """
    try:
        durable.make_directory(entry.parent)
        staging = Path(tempfile.mkdtemp(dir=entry.parent, prefix=durable.TEMPORARY_PREFIX))
        try:
            fill(staging)
            written = sorted(path for path in staging.rglob("*") if path.is_file())
            files = {path.relative_to(staging).as_posix(): _synced(path) for path in written}
            durable.write_bytes(staging / RECORD, msgspec.json.encode(_Record(key=key, files=files)))
            staging.chmod(0o755)
            _put(staging, entry, key)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise CannotPrepare(f"{entry} cannot be written: {error.strerror or error}. Free space or check its rights.") from error


def is_whole(entry: Path, key: Key, *, every_byte: bool) -> bool:
    """Whether an entry is there, of this key, with every file as it was written.

    Unless `every_byte`, bytes are read again only where a file's size or times are not those recorded.
    """
    try:
        with (entry / RECORD).open("rb") as file:
            record = msgspec.json.decode(file.read(_RECORD_BYTES), type=_Record)
        return record.key == key and all(
            is_same(entry / name, known, every_byte=every_byte) for name, known in record.files.items()
        )
    except (OSError, msgspec.DecodeError):
        return False


def discard(entry: Path) -> None:
    """Remove an entry; what is not there is none to remove. A model that runs from it goes on running."""
    shutil.rmtree(entry, ignore_errors=True)


def discard_others(cache: Path, keep: Collection[Path]) -> int:
    """Remove every entry but those to keep, and what killed builds left; how many went. Models that run go on running."""
    gone = [entry for entry in cache.glob("*") if entry.is_dir() and entry not in keep] if cache.is_dir() else []
    for entry in gone:
        shutil.rmtree(entry, ignore_errors=True)
    return len(gone)


def kind(model: Path) -> Format:
    """The format of a model in one file: of more a digest says nothing. Raises `CannotPrepare`."""
    try:
        found = format_of(model)
        if found == "onnx" and external_files(model):
            raise CannotPrepare(f"{model} keeps weights in other files, which its digest does not cover. Save it as one file.")
    except ModelRejected as error:
        raise CannotPrepare(str(error)) from error
    return found


def _put(staging: Path, entry: Path, key: Key) -> None:
    """Rename into place. What is there and not whole goes; what another process put there meanwhile stays."""
    for _ in range(2):
        try:
            durable.rename(staging, entry)
            return
        except OSError:
            if is_whole(entry, key, every_byte=True):
                return
            if not os.path.lexists(entry):
                raise
            _clear(entry)
    raise CannotPrepare(f"{entry} is written by another process again and again. Try again later.")


def _clear(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink()


def _synced(path: Path) -> SeenFile:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return seen(path)
