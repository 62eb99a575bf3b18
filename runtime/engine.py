"""What the runtime needs of an engine, as one narrow interface, and the choice of the engine that a file needs.

An engine opens one model file and runs it. It maps its own errors at this boundary: `ModelRejected` on opening,
`InvalidInput` and `InferenceFailed` on running, and nothing else comes out. The format is told by the file's content, since
files on a device are named by digest; nothing is passed over in silence: an engine says what it is and why it was taken.
One suite holds for all of them: tests/conformance/test_engine_conformance.py.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from numpy.typing import NDArray

from fleet_protocol import limits
from fleet_protocol.manifest import Format
from fleet_protocol.tensors import TensorSpec
from runtime.errors import ModelRejected

MOST_THREADS: Final = 1024
"""Of one run: an engine that is asked for a million tries to start them, and ends the process."""

Array = NDArray[Any]

_TFLITE_MAGIC = b"TFL3"
"""FlatBuffers file identifier of TFLite, at byte 4."""


class Engine(Protocol):
    """One opened model file. `run` may be called by several threads at once."""

    @property
    def description(self) -> str:
        """Which engine this is, for people: name, version, device, and what does not run on that device."""
        ...

    @property
    def choice(self) -> str:
        """Why this engine and device were taken, and what was passed over, for people."""
        ...

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What `run` takes."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What `run` gives, in this order."""
        ...

    def run(self, inputs: dict[str, Array]) -> list[Array]:
        """Run once. `inputs` has been checked against the specs. Raises `InvalidInput` or `InferenceFailed`."""
        ...

    def close(self) -> None:
        """Let go of the model's memory. Nobody runs it any more."""
        ...


def format_of(path: Path) -> Format:
    """Whether the file is TFLite, by its identifier; everything else is for the ONNX engine to judge.

    Raises `ModelRejected` when there is no such file, or it is none that could be a model.
    """
    try:
        str(path).encode()  # as the engines do
    except UnicodeEncodeError as error:
        raise ModelRejected(f"{str(path)!r} is no UTF-8, and engines open no such file. Rename it.") from error
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ModelRejected(f"{path} is not a file. Give the path of an .onnx or .tflite file.")
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise ModelRejected(f"{path} cannot be read: {error.strerror}. Check the path.") from error
    if not head:
        raise ModelRejected(f"{path} is empty. Fetch or export the model again.")
    if status.st_size > limits.BLOB_BYTES:
        raise ModelRejected(f"{path} has {status.st_size} bytes; at most {limits.BLOB_BYTES} are loaded.")
    return "tflite" if head[4:8] == _TFLITE_MAGIC else "onnx"


def open_engine(
    path: Path,
    *,
    session_options: Mapping[str, str],
    threads: int | None,
    provider: str | None = None,
    delegate: Path | None = None,
    compiled: Path | None = None,
) -> Engine:
    """Open the file with the engine that its content needs. Raises `ModelRejected`.

    `threads` bounds the threads of one run (1 to `MOST_THREADS`); None leaves it to the engine. `provider` is for ONNX
    (`runtime.engines.providers`), `delegate`, the path of a library, for TFLite. `compiled` is the directory of what
    was made of the model before for where it runs: packed weights for TFLite (`runtime.tuning.prepared`), what a provider
    compiled for ONNX (`runtime.tuning.compiled`).
    """
    if threads is not None and not 1 <= threads <= MOST_THREADS:
        wanted = f"Give 1 to {MOST_THREADS}, or none to let the engine choose"
        raise ModelRejected(f"threads = {threads} cannot run anything. {wanted}.")
    if format_of(path) == "tflite":
        if provider not in (None, "cpu", "auto"):
            raise ModelRejected(f"{path} is a TFLite model, which takes a delegate and no provider {provider!r}.")
        if session_options:
            raise ModelRejected(f"TFLite variants take no session options; {path} has {', '.join(sorted(session_options))}.")
        if compiled is not None:
            from runtime.engines.litert_cached import CachedLiteRtEngine

            return CachedLiteRtEngine(path, weight_cache=compiled, threads=threads)
        from runtime.engines.litert_engine import LiteRtEngine

        return LiteRtEngine(path, threads=threads, delegate=delegate)
    if delegate is not None:
        raise ModelRejected(f"{path} is an ONNX model, which takes an execution provider and no delegate.")
    from runtime.engines.onnx_engine import OnnxEngine

    return OnnxEngine(path, session_options=session_options, threads=threads, provider=provider, compiled=compiled)
