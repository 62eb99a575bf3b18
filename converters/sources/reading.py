"""Reads any source: tells its kind, lets its framework work in a child process, and believes what comes only when it is proved.

A model that is handed over as an object of its framework is read in this process, where that framework runs already.
"""

from __future__ import annotations

import importlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Final

import msgspec
import onnx

from converters.errors import DataRejected, ReaderMissing, SourceRejected
from converters.sources import proof
from converters.sources.exchange import (
    ANSWER_FILE,
    BEFORE_FILE,
    MODEL_FILE,
    REQUEST_FILE,
    SAMPLES_FILE,
    Answer,
    Kind,
    Reading,
    Request,
    Samples,
    load_arrays,
    save_arrays,
)
from converters.sources.kinds import kind_of
from converters.sources.onnx_source import Source, check_model, read_onnx
from fleet_protocol.digests import digest_of, digest_of_stream

SAMPLES: Final = 64
"""So many samples prove a reader."""

_SECONDS: Final = 1800
_SETTINGS: Final = (
    "PYTHONHASHSEED=0",  # exporters walk over sets
    "TF_CPP_MIN_LOG_LEVEL=3",
    "TF_ENABLE_ONEDNN_OPTS=0",
    "CUDA_VISIBLE_DEVICES=-1",
    "KERAS_BACKEND=tensorflow",
)
_NO_PICKLES: Final = "TORCH_FORCE_WEIGHTS_ONLY_LOAD=1"
"""torch.export.load falls back to unpickling anything; this stops it."""

_TOLD: Final = {"model": SourceRejected, "data": DataRejected, "missing": ReaderMissing}
_OBJECTS: Final = {"keras": "keras_reader", "torch": "torch_reader", "sklearn": "sklearn_reader"}


@dataclass(frozen=True)
class Trust:
    """What a reader may do beside reading. `state` is the file of a factory's weights."""

    state: Path | None = None
    pickles: bool = False


def read_source(given: object, samples: Callable[[], Samples], work: Path, trust: Trust) -> Source:
    """The model as ONNX, checked and proved. `given` is a path, `package.module:factory`, a framework's own model, or one
    that was read before.

    `samples` gives at most `SAMPLES` samples; `work` is an empty directory that stays. Raises `SourceRejected`, `DataRejected`,
    `ReaderMissing`.
    """
    if isinstance(given, Source):
        return given
    if isinstance(given, onnx.ModelProto):
        return _of_object(given)
    if not isinstance(given, str | Path):
        reader = _reader_of(given)
        seen = samples()
        first = reader.read(given, seen, stages=False)
        return _proved(
            Path(f"The given {type(given).__name__}"), first, lambda: reader.read(given, seen, stages=True), seen, ""
        )
    kind = kind_of(str(given))
    if trust.state is not None and kind != "torch-factory":
        raise SourceRejected(f"{given} holds its own weights; a state is only for package.module:factory.")
    if kind == "onnx":
        return read_onnx(Path(given))
    child = _Child(kind, str(given), work, trust)
    seen = samples()
    return _proved(Path(given), child.read(seen, stages=False), lambda: child.read(seen, stages=True), seen, _digest(given))


def _of_object(given: onnx.ModelProto) -> Source:
    model = onnx.ModelProto()
    model.CopyFrom(given)
    name = Path("The given ModelProto")
    check_model(name, model)
    return Source(path=name, model=model, digest=digest_of(model.SerializeToString(deterministic=True)))


def _reader_of(given: object) -> ModuleType:
    """The reader of an object, by the packages that its class comes from."""
    for kind in type(given).__mro__:
        package = kind.__module__.partition(".")[0]
        if package in _OBJECTS:
            return importlib.import_module(f"converters.sources.{_OBJECTS[package]}")
    raise SourceRejected(
        f"A {type(given).__name__} is no model that can be read: give a path, package.module:factory, an onnx.ModelProto, "
        "a Keras model, a torch.nn.Module, or a scikit-learn estimator."
    )


def _proved(path: Path, reading: Reading, again: Callable[[], Reading], samples: Samples, digest: str) -> Source:
    check_model(path, reading.model)
    fault = proof.differing(reading, samples)
    if fault:
        where = proof.first_difference(again(), samples)
        raise SourceRejected(
            f"{path} answers otherwise after it was turned into ONNX: {fault}. {where} Please report the model, and "
            "convert it to ONNX by other means."
        )
    content = reading.model.SerializeToString(deterministic=True)
    return Source(path, reading.model, digest or digest_of(content), dict(reading.tools), reading.classes)


class _Child:
    """One source's child process, started anew for each reading."""

    def __init__(self, kind: Kind, location: str, work: Path, trust: Trust) -> None:
        self._kind: Kind = kind
        self._location = location
        self._work = work
        self._trust = trust

    def read(self, samples: Samples, *, stages: bool) -> Reading:
        """What the framework makes of the source. Raises `SourceRejected`, `DataRejected`, `ReaderMissing`."""
        place = self._work / ("stages" if stages else "reading")
        place.mkdir()
        state = self._trust.state
        request = Request(
            kind=self._kind,
            location=self._location,
            state=None if state is None else str(state),
            trust_pickle=self._trust.pickles,
            stages=stages,
        )
        (place / REQUEST_FILE).write_bytes(msgspec.json.encode(request))
        save_arrays(place / SAMPLES_FILE, samples)
        answer = self._run(place)
        if answer.failure:
            raise _TOLD[answer.about](answer.failure)
        return _reading(place, answer)

    def _run(self, place: Path) -> Answer:
        settings = _SETTINGS if self._trust.pickles else (*_SETTINGS, _NO_PICKLES)
        command = ["env", *settings, sys.executable, "-P", "-m", "converters.sources.child", str(place)]
        with (place / "said").open("wb") as said:
            try:
                done = subprocess.run(
                    command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, timeout=_SECONDS, check=False
                )
            except subprocess.TimeoutExpired as error:
                raise SourceRejected(f"{self._location} was not read within {_SECONDS // 60} minutes.") from error
        if done.returncode == 0 and (place / ANSWER_FILE).is_file():
            return msgspec.json.decode((place / ANSWER_FILE).read_bytes(), type=Answer)
        raise SourceRejected(f"{self._location} cannot be read: its reader {_how(done.returncode)}: {_last(place / 'said')}")


def _reading(place: Path, answer: Answer) -> Reading:
    arrays = load_arrays(place / BEFORE_FILE)
    outputs = sum(name.startswith("output/") for name in arrays)
    reading = Reading(
        model=onnx.load_model(str(place / MODEL_FILE)),
        before=[arrays[f"output/{at}"] for at in range(outputs)],
        tools=answer.tools,
        stages=[(name, arrays[f"stage/{at}"]) for at, name in enumerate(answer.stages)],
        tolerated=answer.tolerated,
        classes=answer.classes,
    )
    shutil.rmtree(place)
    return reading


def _how(code: int) -> str:
    if code < 0 or code > 128:
        number = -code if code < 0 else code - 128
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        return f"was ended by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return f"failed (exit code {code})"


def _last(path: Path) -> str:
    """The last line that the child said."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1][:400] if lines else "it said nothing."


def _digest(given: str | Path) -> str:
    """The digest of a source's files; empty where what was made of them says more."""
    path = Path(given)
    if path.is_file():
        return _of_file(path)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        lines = [f"{file.relative_to(path).as_posix()} {_of_file(file)}" for file in files]
        return digest_of("\n".join(lines).encode())
    return ""


def _of_file(path: Path) -> str:
    with path.open("rb") as file:
        return digest_of_stream(iter(lambda: file.read(1 << 20), b""))
