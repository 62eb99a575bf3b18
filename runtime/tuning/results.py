"""Tuning results that are kept, each in a file of its own: for one model, objective, processor and set of libraries.

May not live here: measuring. Who only wants to know what was found pays for no more than reading it.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

import msgspec

from fleet_io import durable
from fleet_protocol.digests import digest_of, hex_of
from runtime.device_facts import device_facts
from runtime.tuning.record import Objective, Tuning, TuningKey

_RESULT_BYTES: Final = 1 << 20
_MODEL_DIGITS: Final = 16
"""Of a file's name: so many say which model it is of, and the others the whole key."""


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    key: TuningKey
    tuning: Tuning


def key_of(digest: str, objective: Objective | None = None) -> TuningKey:
    """What a result is kept under, for this device as it is."""
    return TuningKey(digest=digest, objective=objective or Objective(), device=device_facts())


def recall(cache: Path, key: TuningKey) -> Tuning | None:
    """The kept result for this key; None when there is none, or what is there cannot be read or is another's."""
    found = _read(_file(cache, key))
    return found.tuning if found is not None and found.key == key else None


def newest(cache: Path, digest: str) -> Tuning | None:
    """The result that was kept last for this model on this device as it is, whatever its objective; None: there is none."""
    found: list[tuple[int, Path]] = []
    for path in cache.glob(f"tuned-{hex_of(digest)[:_MODEL_DIGITS]}-*.json"):
        with contextlib.suppress(OSError):
            found.append((path.stat().st_mtime_ns, path))
    for _, path in sorted(found, reverse=True):
        kept = _read(path)
        if kept is not None and kept.key == key_of(digest, kept.key.objective):
            return kept.tuning
    return None


def remember(cache: Path, key: TuningKey, tuning: Tuning) -> None:
    """Keep a result, durably. Raises `OSError`."""
    durable.make_directory(cache)
    durable.write_bytes(_file(cache, key), msgspec.json.encode(_Kept(key=key, tuning=tuning)))


def forget(cache: Path, key: TuningKey) -> None:
    """Keep that result no longer. Raises `OSError`."""
    _file(cache, key).unlink(missing_ok=True)


def _file(cache: Path, key: TuningKey) -> Path:
    whole = hex_of(digest_of(msgspec.json.encode(key, order="deterministic")))
    return cache / f"tuned-{hex_of(key.digest)[:_MODEL_DIGITS]}-{whole[:40]}.json"


def _read(path: Path) -> _Kept | None:
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(_RESULT_BYTES), type=_Kept)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
