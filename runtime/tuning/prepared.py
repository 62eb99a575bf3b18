"""Models prepared at install time: the graph optimised for this processor, its weights packed for it and mapped from a file.

    prepared = prepare(path, digest=digest, session_options=options, cache=directory)
    model = prepared.load()

A prepared model answers what the plain one answers (the child that builds it checks that), loads without optimising, and
its weights are pages of a file: the system can drop and share them, so a second version costs little memory. Of an ONNX model
the cache holds all; of a TFLite model the weights that XNNPACK packed, and its own file is run with them. What an entry of the
cache is, `runtime.tuning.cache_entries` says.

May not live here: deciding how to run a model (`runtime.tuning.tuner`); files that nobody has tried (the gate comes first);
execution providers beside the CPU (`runtime.tuning.compiled`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from runtime.children import Child
from runtime.device_facts import device_facts
from runtime.engine import format_of
from runtime.errors import CannotPrepare, ChildFailed
from runtime.model import NO_OPTIONS, Model, load
from runtime.tuning import cache_entries
from runtime.tuning.cache_entries import Key
from runtime.tuning.prepared_child import GRAPH, BuildOrder, BuildResult

CHILD: Final = "runtime.tuning.prepared_child"
MIN_SQNR_DB: Final = 60.0
"""Between the answers of the plain and the prepared model: other kernels round in another order, and do no more."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A prepared model: the file and how it is opened. `entry` is its directory in the cache."""

    entry: Path
    path: Path
    session_options: Mapping[str, str]
    compiled: Path | None = None
    """As `runtime.model.load` takes it: the packed weights of a TFLite model, whose file is the plain one."""

    def load(self, *, threads: int | None = None) -> Model:
        """Open it. Raises `ModelRejected`."""
        return load(self.path, session_options=self.session_options, threads=threads, compiled=self.compiled)


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
    if not cache_entries.is_whole(entry, key, every_byte=True):
        cache_entries.kind(model)
        cache_entries.build(entry, key, lambda staging: _fill(model, staging, key, golden, timeout_s))
    return _prepared(model, entry, key)


def find(
    model: Path, *, digest: str, cache: Path, session_options: Mapping[str, str] = NO_OPTIONS, packed: bool = True
) -> Prepared | None:
    """What `prepare` made before, or None when it is not there, not of this device and these libraries, or was changed.

    Quick, for the way to the first answer: bytes are read again only where a file's size or times are not those recorded, so
    storage that decays in silence shows at the next `prepare`.
    """
    key = _key(digest, session_options, packed=packed)
    entry = cache / key.name()
    return _prepared(model, entry, key) if cache_entries.is_whole(entry, key, every_byte=False) else None


def discard(*, digest: str, cache: Path, session_options: Mapping[str, str] = NO_OPTIONS, packed: bool = True) -> None:
    """Remove what `prepare` made; what is not there is none to remove. A model that runs from it goes on running."""
    cache_entries.discard(cache / _key(digest, session_options, packed=packed).name())


def _key(digest: str, session_options: Mapping[str, str], *, packed: bool) -> Key:
    return Key(digest=digest, session_options=dict(session_options), packed=packed, device=device_facts())


def _prepared(model: Path, entry: Path, key: Key) -> Prepared:
    if format_of(model) == "tflite":
        return Prepared(entry, model, key.session_options, compiled=entry)
    options = {**key.session_options, "graph_optimization_level": "disable"}  # it is optimised already
    if not key.packed:
        options["session.disable_prepacking"] = "1"
    return Prepared(entry, entry / GRAPH, options)


def _fill(model: Path, staging: Path, key: Key, golden: Path | None, timeout_s: float) -> None:
    """Have a child fill the directory, and compare. Raises `CannotPrepare`."""
    order = BuildOrder(
        model=str(model),
        directory=str(staging),
        session_options=key.session_options,
        packed=key.packed,
        load_options=dict(_prepared(model, staging, key).session_options),
        golden=None if golden is None else str(golden),
    )
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
