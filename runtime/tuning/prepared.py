"""Models prepared at install time: the graph optimised for this processor, its weights packed for it and mapped from a file.

    prepared = prepare(path, digest=digest, session_options=options, cache=directory)
    model = prepared.load()

A prepared model answers what the plain one answers (the child that builds it checks that), loads without optimising, and
its weights are pages of a file: the system can drop and share them, so a second version costs little memory. A cache entry is
a directory named after all that it depends on: the model's digest, its options, the processor, the library versions. It is
written whole, or not at all, and never changed: a model that runs from it keeps its files even when they are removed.

May not live here: deciding how to run a model (`runtime.tuning.tuner`); files that nobody has tried (the gate comes first).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from fleet_io import durable
from fleet_protocol.digests import digest_of, digest_of_stream, hex_of
from runtime.children import Child
from runtime.device_facts import DeviceFacts, device_facts
from runtime.engine import format_of
from runtime.engines.onnx_files import external_files
from runtime.errors import CannotPrepare, ChildFailed, ModelRejected
from runtime.model import NO_OPTIONS, Model, load
from runtime.tuning.prepared_child import GRAPH, WEIGHTS, BuildOrder, BuildResult

CHILD: Final = "runtime.tuning.prepared_child"
RECORD: Final = "prepared.json"
MIN_SQNR_DB: Final = 60.0
"""Between the answers of the plain and the prepared model: other kernels round in another order, and do no more."""

_FILES: Final = (GRAPH, WEIGHTS)
_READ_BYTES: Final = 1 << 20
_RECORD_BYTES: Final = 1 << 20


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """All that a cache entry depends on; its digest is the entry's name."""

    layout: int = 1
    digest: str
    session_options: dict[str, str]
    packed: bool
    device: DeviceFacts

    def name(self) -> str:
        """The name of the entry's directory."""
        return hex_of(digest_of(msgspec.json.encode(self, order="deterministic")))[:40]


class _File(msgspec.Struct, frozen=True, kw_only=True):
    digest: str
    size: int
    stamp: tuple[int, int]
    """Modification and change time in ns: as long as they are the same, nobody wrote to the file."""


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    key: Key
    files: dict[str, _File]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A prepared model file, for `runtime.load`."""

    path: Path
    session_options: Mapping[str, str]

    def load(self, *, threads: int | None = None) -> Model:
        """Open it. Raises `ModelRejected`."""
        return load(self.path, session_options=self.session_options, threads=threads)


def prepare(
    model: Path,
    *,
    digest: str,
    cache: Path,
    session_options: Mapping[str, str] = NO_OPTIONS,
    packed: bool = True,
    golden: Path | None = None,
    timeout_s: float = 300.0,
) -> Prepared:
    """The prepared form of an ONNX model: from the cache when every byte there is as it was written, else built now.

    `digest` is the content's (`sha256:…`), `golden` a golden file whose inputs serve to compare (without one, numbers that fit
    the specs do). `packed` keeps the weights as the kernels want them, beside those of the file: fast runs for disk space;
    without it loading is several times faster still, and runs of matrix products are some 20 % slower. Building takes as long
    as a few plain loads, in a child process that is stopped after `timeout_s`. Raises `CannotPrepare`.
    """
    key = _key(digest, session_options, packed=packed)
    entry = cache / key.name()
    if not _is_whole(entry, key, every_byte=True):
        try:
            _build(model, entry, key, golden, timeout_s)
        except OSError as error:
            raise CannotPrepare(
                f"{entry} cannot be written: {error.strerror or error}. Free space or check its rights."
            ) from error
    return _prepared(entry, key)


def find(*, digest: str, cache: Path, session_options: Mapping[str, str] = NO_OPTIONS, packed: bool = True) -> Prepared | None:
    """What `prepare` made before, or None when it is not there, not of this device and these libraries, or was changed.

    Quick, for the way to the first answer: bytes are read again only where a file's size or times are not those recorded, so
    storage that decays in silence shows at the next `prepare`.
    """
    key = _key(digest, session_options, packed=packed)
    entry = cache / key.name()
    return _prepared(entry, key) if _is_whole(entry, key, every_byte=False) else None


def discard(*, digest: str, cache: Path, session_options: Mapping[str, str] = NO_OPTIONS, packed: bool = True) -> None:
    """Remove what `prepare` made; what is not there is none to remove. A model that runs from it goes on running."""
    shutil.rmtree(cache / _key(digest, session_options, packed=packed).name(), ignore_errors=True)


def discard_others(cache: Path, keep: tuple[Prepared, ...]) -> int:
    """Remove every entry but those to keep, and what killed builds left; how many went. Models that run go on running."""
    kept = {prepared.path.parent for prepared in keep}
    gone = [entry for entry in cache.glob("*") if entry.is_dir() and entry not in kept] if cache.is_dir() else []
    for entry in gone:
        shutil.rmtree(entry, ignore_errors=True)
    return len(gone)


def _key(digest: str, session_options: Mapping[str, str], *, packed: bool) -> Key:
    return Key(digest=digest, session_options=dict(session_options), packed=packed, device=device_facts())


def _prepared(entry: Path, key: Key) -> Prepared:
    options = {**key.session_options, "graph_optimization_level": "disable"}  # it is optimised already
    if not key.packed:
        options["session.disable_prepacking"] = "1"
    return Prepared(entry / GRAPH, options)


def _build(model: Path, entry: Path, key: Key, golden: Path | None, timeout_s: float) -> None:
    _check_kind(model)
    durable.make_directory(entry.parent)
    staging = Path(tempfile.mkdtemp(dir=entry.parent, prefix=durable.TEMPORARY_PREFIX))
    try:
        _fill(model, staging, key, golden, timeout_s)
        _put(staging, entry, key)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _check_kind(model: Path) -> None:
    try:
        if format_of(model) != "onnx":
            raise CannotPrepare(f"{model} is a TFLite model; only ONNX models are prepared. Load it as it is.")
        if external_files(model):
            raise CannotPrepare(f"{model} keeps weights in other files, which its digest does not cover. Save it as one file.")
    except ModelRejected as error:
        raise CannotPrepare(str(error)) from error


def _fill(model: Path, staging: Path, key: Key, golden: Path | None, timeout_s: float) -> None:
    """Everything into the staging directory, synced; the record last."""
    order = BuildOrder(
        model=str(model),
        directory=str(staging),
        session_options=key.session_options,
        packed=key.packed,
        load_options=dict(_prepared(staging, key).session_options),
        golden=None if golden is None else str(golden),
    )
    try:
        with Child(CHILD) as child:
            result = child.ask(order, BuildResult, timeout_s=timeout_s)
    except ChildFailed as error:
        raise CannotPrepare(f"{model} cannot be prepared: {error} Load it as it is.") from error
    if result.sqnr_db < MIN_SQNR_DB:
        raise CannotPrepare(
            f"{model}, prepared, answers otherwise than before: signal-to-noise ratio {result.sqnr_db:.1f} dB, at least "
            f"{MIN_SQNR_DB:g} wanted. Load it as it is."
        )
    for name in _FILES:
        _sync(staging / name)
    record = _Record(key=key, files={name: _measured(staging / name) for name in _FILES})
    durable.write_bytes(staging / RECORD, msgspec.json.encode(record))
    staging.chmod(0o755)


def _sync(path: Path) -> None:
    path.touch()  # a model whose weights are all small has an empty weights file
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _put(staging: Path, entry: Path, key: Key) -> None:
    """Rename into place. What is there and not whole goes; what another process put there meanwhile stays."""
    for _ in range(2):
        try:
            durable.rename(staging, entry)
            return
        except OSError:
            if _is_whole(entry, key, every_byte=True):
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


def _is_whole(entry: Path, key: Key, *, every_byte: bool) -> bool:
    try:
        with (entry / RECORD).open("rb") as file:
            record = msgspec.json.decode(file.read(_RECORD_BYTES), type=_Record)
        return (
            record.key == key
            and record.files.keys() == set(_FILES)
            and all(_is_same(entry / name, known, every_byte=every_byte) for name, known in record.files.items())
        )
    except (OSError, msgspec.DecodeError):
        return False


def _is_same(path: Path, known: _File, *, every_byte: bool) -> bool:
    status = path.stat()
    if path.is_symlink() or status.st_size != known.size:
        return False
    if not every_byte and (status.st_mtime_ns, status.st_ctime_ns) == known.stamp:
        return True
    return _measured(path).digest == known.digest


def _measured(path: Path) -> _File:
    status = path.stat()
    return _File(digest=digest_of_stream(_pieces(path)), size=status.st_size, stamp=(status.st_mtime_ns, status.st_ctime_ns))


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_READ_BYTES):
            yield piece
