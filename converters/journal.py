"""Remembers a search on disk, one JSON line a trial, so that a search that was stopped goes on where it was.

The first line says what the search is about; a journal about anything else is begun anew. Each line is on the disk before the
next trial begins; a line that broke off is the last one, and is forgotten.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import msgspec

from converters.search import Score
from fleet_io.durable import make_directory, write_bytes
from fleet_io.errors import BundleUnwritable

_BYTES: Final = 4 * 1024 * 1024


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    key: str
    score: Score


class Journal:
    """The trials of one search. `about` identifies model, data, settings and tools. Raises `BundleUnwritable`."""

    def __init__(self, path: Path, about: str) -> None:
        self._path = path
        self.known = _read(path, about)
        lines = [msgspec.json.encode(about), *(_encode(key, score) for key, score in self.known.items())]
        try:
            make_directory(path.parent)
            write_bytes(path, b"".join(line + b"\n" for line in lines))  # whole again, also after a line that broke off
        except OSError as error:
            raise _unwritable(path, error) from error

    def add(self, key: str, score: Score) -> None:
        """Write one trial down, durably. Raises `BundleUnwritable`."""
        try:
            with self._path.open("ab") as file:
                file.write(_encode(key, score) + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise _unwritable(self._path, error) from error

    def remove(self) -> None:
        """Forget it all: the search has come to its end."""
        self._path.unlink(missing_ok=True)


def journal_path(out: Path) -> Path:
    """Where the journal of the search for a bundle lies: beside it."""
    return out.parent / f".{out.name}.search.jsonl"


def _encode(key: str, score: Score) -> bytes:
    return msgspec.json.encode(_Line(key, score))


def _unwritable(path: Path, error: OSError) -> BundleUnwritable:
    return BundleUnwritable(
        f"{path}, which remembers the search, cannot be written: {error.strerror or error}. Free space there."
    )


def _read(path: Path, about: str) -> dict[str, Score]:
    try:
        if path.stat().st_size > _BYTES:
            return {}
        first, *lines = path.read_bytes().split(b"\n")
    except OSError:
        return {}
    if first != msgspec.json.encode(about):
        return {}
    found = {}
    for line in lines:
        try:
            trial = msgspec.json.decode(line, type=_Line)
        except msgspec.DecodeError:
            break
        found[trial.key] = trial.score
    return found
