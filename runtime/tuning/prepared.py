"""Models prepared at install time: the graph optimised for this processor, its weights packed for it and mapped from a file.

    prepared = prepare(path, digest=digest, session_options=options, cache=directory)
    model = prepared.load()

A prepared model answers what the plain one answers (the child that builds it checks that), loads without optimising, and
its weights are pages of a file: the system can drop and share them, so a second version costs little memory. Of an ONNX model
the cache holds all; of a TFLite model the weights that XNNPACK packed, and its own file is run with them. A cache entry is
a directory named after all that it depends on: the model's digest, its options, the processor, the library versions. It is
written whole, or not at all, and never changed: a model that runs from it keeps its files even when they are removed.

May not live here: deciding how to run a model (`runtime.tuning.tuner`); files that nobody has tried (the gate comes first).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from fleet_io import durable
from fleet_protocol.digests import digest_of, hex_of
from fleet_protocol.manifest import Format
from runtime.children import Child
from runtime.device_facts import DeviceFacts, device_facts
from runtime.engine import format_of
from runtime.engines import litert_cached
from runtime.engines.onnx_files import external_files
from runtime.errors import CannotPrepare, ChildFailed, ModelRejected
from runtime.model import NO_OPTIONS, Model, load
from runtime.seen_files import SeenFile, is_same, seen
from runtime.tuning.prepared_child import GRAPH, WEIGHTS, BuildOrder, BuildResult

CHILD: Final = "runtime.tuning.prepared_child"
RECORD: Final = "prepared.json"
MIN_SQNR_DB: Final = 60.0
"""Between the answers of the plain and the prepared model: other kernels round in another order, and do no more."""

_FILES: Final[dict[Format, tuple[str, ...]]] = {"onnx": (GRAPH, WEIGHTS), "tflite": litert_cached.FILES}
"""Of an entry, beside its record."""
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


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    key: Key
    files: dict[str, SeenFile]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A prepared model: the file and how it is opened. `entry` is its directory in the cache."""

    entry: Path
    path: Path
    session_options: Mapping[str, str]
    weight_cache: Path | None = None
    """As `runtime.model.load` takes it: of a TFLite model, whose file is the plain one."""

    def load(self, *, threads: int | None = None) -> Model:
        """Open it. Raises `ModelRejected`."""
        return load(self.path, session_options=self.session_options, threads=threads, weight_cache=self.weight_cache)


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
    """The prepared form of a model: from the cache when every byte there is as it was written, else built now.

    `digest` is the content's (`sha256:…`), `golden` a golden file whose inputs serve to compare (without one, numbers that fit
    the specs do). `packed` keeps the weights as the kernels want them, beside those of the file: fast runs for disk space;
    without it loading is several times faster still, and runs of matrix products are some 20 % slower; a TFLite model's are
    packed always. Building takes as long as a few plain loads, in a child process that is stopped after `timeout_s`. Raises
    `CannotPrepare`.
    """
    key = _key(digest, session_options, packed=packed)
    entry = cache / key.name()
    if _whole(entry, key, every_byte=True) is None:
        try:
            _build(model, entry, key, golden, timeout_s)
        except OSError as error:
            raise CannotPrepare(
                f"{entry} cannot be written: {error.strerror or error}. Free space or check its rights."
            ) from error
    return _prepared(model, entry, key, _FILES[_kind(model)])


def find(
    model: Path, *, digest: str, cache: Path, session_options: Mapping[str, str] = NO_OPTIONS, packed: bool = True
) -> Prepared | None:
    """What `prepare` made before, or None when it is not there, not of this device and these libraries, or was changed.

    Quick, for the way to the first answer: bytes are read again only where a file's size or times are not those recorded, so
    storage that decays in silence shows at the next `prepare`.
    """
    key = _key(digest, session_options, packed=packed)
    entry = cache / key.name()
    record = _whole(entry, key, every_byte=False)
    return None if record is None else _prepared(model, entry, key, record.files)


def discard(*, digest: str, cache: Path, session_options: Mapping[str, str] = NO_OPTIONS, packed: bool = True) -> None:
    """Remove what `prepare` made; what is not there is none to remove. A model that runs from it goes on running."""
    shutil.rmtree(cache / _key(digest, session_options, packed=packed).name(), ignore_errors=True)


def discard_others(cache: Path, keep: tuple[Prepared, ...]) -> int:
    """Remove every entry but those to keep, and what killed builds left; how many went. Models that run go on running."""
    kept = {prepared.entry for prepared in keep}
    gone = [entry for entry in cache.glob("*") if entry.is_dir() and entry not in kept] if cache.is_dir() else []
    for entry in gone:
        shutil.rmtree(entry, ignore_errors=True)
    return len(gone)


def _key(digest: str, session_options: Mapping[str, str], *, packed: bool) -> Key:
    return Key(digest=digest, session_options=dict(session_options), packed=packed, device=device_facts())


def _prepared(model: Path, entry: Path, key: Key, files: Collection[str]) -> Prepared:
    if litert_cached.WEIGHTS in files:
        return Prepared(entry, model, key.session_options, weight_cache=entry)
    options = {**key.session_options, "graph_optimization_level": "disable"}  # it is optimised already
    if not key.packed:
        options["session.disable_prepacking"] = "1"
    return Prepared(entry, entry / GRAPH, options)


def _build(model: Path, entry: Path, key: Key, golden: Path | None, timeout_s: float) -> None:
    files = _FILES[_kind(model)]
    durable.make_directory(entry.parent)
    staging = Path(tempfile.mkdtemp(dir=entry.parent, prefix=durable.TEMPORARY_PREFIX))
    try:
        order = BuildOrder(
            model=str(model),
            directory=str(staging),
            session_options=key.session_options,
            packed=key.packed,
            load_options=dict(_prepared(model, staging, key, files).session_options),
            golden=None if golden is None else str(golden),
        )
        _made(order, timeout_s)
        _record(staging, key, files)
        _put(staging, entry, key)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _kind(model: Path) -> Format:
    """Raises `CannotPrepare`."""
    try:
        kind = format_of(model)
        if kind == "onnx" and external_files(model):
            raise CannotPrepare(f"{model} keeps weights in other files, which its digest does not cover. Save it as one file.")
    except ModelRejected as error:
        raise CannotPrepare(str(error)) from error
    return kind


def _made(order: BuildOrder, timeout_s: float) -> None:
    """Have a child fill the directory and compare. Raises `CannotPrepare`."""
    try:
        with Child(CHILD) as child:
            result = child.ask(order, BuildResult, timeout_s=timeout_s)
    except ChildFailed as error:
        raise CannotPrepare(f"{order.model} cannot be prepared: {error} Load it as it is.") from error
    if result.sqnr_db < MIN_SQNR_DB:
        raise CannotPrepare(
            f"{order.model}, prepared, answers otherwise than before: signal-to-noise ratio {result.sqnr_db:.1f} dB, at least "
            f"{MIN_SQNR_DB:g} wanted. Load it as it is."
        )


def _record(staging: Path, key: Key, files: Collection[str]) -> None:
    """Sync what the child wrote, and write down what it is, last."""
    for name in files:
        _sync(staging / name)
    record = _Record(key=key, files={name: seen(staging / name) for name in files})
    durable.write_bytes(staging / RECORD, msgspec.json.encode(record))
    staging.chmod(0o755)


def _sync(path: Path) -> None:
    with path.open("ab") as file:  # a model whose weights are all small has no weights file yet
        os.fsync(file.fileno())


def _put(staging: Path, entry: Path, key: Key) -> None:
    """Rename into place. What is there and not whole goes; what another process put there meanwhile stays."""
    for _ in range(2):
        try:
            durable.rename(staging, entry)
            return
        except OSError:
            if _whole(entry, key, every_byte=True) is not None:
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


def _whole(entry: Path, key: Key, *, every_byte: bool) -> _Record | None:
    """What is recorded of an entry that is there and as it was written."""
    try:
        with (entry / RECORD).open("rb") as file:
            record = msgspec.json.decode(file.read(_RECORD_BYTES), type=_Record)
        known = record.key == key and record.files.keys() in [set(files) for files in _FILES.values()]
        same = known and all(is_same(entry / name, file, every_byte=every_byte) for name, file in record.files.items())
    except (OSError, msgspec.DecodeError):
        return None
    return record if same else None
