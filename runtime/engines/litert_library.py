"""LiteRT's C library, called without Python's lock, as far as a model that runs from a file of packed weights needs it.

`ai_edge_litert.interpreter` offers no weight cache. The package's own wrapper of this library, `compiled_model`, loads a GPU
library into every process, knows no int64, and holds the lock throughout; ctypes lets go of it. The signatures are those of
LiteRT's headers (litert/c/*.h) at 2.3, and may be others in another version. So nothing here is called in a process that
answers requests unless a child with the very same library has done it all and answered right (`runtime.tuning.prepared`).
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from pathlib import Path
from typing import Any, Final

from runtime.errors import EngineUnavailable

MOST_AXES: Final = 8
"""Of one tensor: LITERT_TENSOR_MAX_RANK."""
ALIGNMENT: Final = 64
"""Of the memory of a tensor, in bytes: LITERT_HOST_MEMORY_BUFFER_ALIGNMENT."""

ABSENT: Final = "weights are packed in a file by ai-edge-litert 2.1.6 or later only, which is not installed here"
"""Why there is no library, for people."""

Handle = ctypes.c_void_p
"""Of a thing that the library made."""

_CPU: Final = 1
_ERRORS_ONLY: Final = 3
_WHOLE_NUMBER: Final = 2
_REGISTERED_ACCELERATORS: Final = 24
_LEAST_SEVERITY: Final = 25
"""LiteRtHwAccelerators, LiteRtLogSeverity, LiteRtAnyType, and two of LiteRtEnvOptionTag."""


class Layout(ctypes.Structure):
    """LiteRtLayout: `rank` is the number of axes, beside a bit that says whether there are strides."""

    _fields_ = (("bits", ctypes.c_uint32), ("sizes", ctypes.c_int32 * MOST_AXES), ("strides", ctypes.c_uint32 * MOST_AXES))

    def shape(self) -> tuple[int, ...]:
        """The sizes of its axes."""
        return tuple(self.sizes)[: self.bits & 0x7F]


class TensorType(ctypes.Structure):
    """LiteRtRankedTensorType."""

    _fields_ = (("element", ctypes.c_int), ("layout", Layout))


class _Value(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int), ("number", ctypes.c_int64))


class _EnvironmentOption(ctypes.Structure):
    _fields_ = (("tag", ctypes.c_int), ("value", _Value))


_MADE: Final = ctypes.POINTER(Handle)
_SIZE: Final = ctypes.c_size_t
_COUNT: Final = ctypes.POINTER(ctypes.c_size_t)
_TEXT: Final = ctypes.c_char_p

_SIGNATURES: Final[dict[str, tuple[Any, ...]]] = {
    "LiteRtCreateEnvironment": (ctypes.c_int, ctypes.POINTER(_EnvironmentOption), _MADE),
    "LiteRtCreateModelFromFile": (Handle, _TEXT, _MADE),
    "LiteRtGetNumModelSignatures": (Handle, _COUNT),
    "LiteRtGetModelSignature": (Handle, _SIZE, _MADE),
    "LiteRtGetNumSignatureInputs": (Handle, _COUNT),
    "LiteRtGetNumSignatureOutputs": (Handle, _COUNT),
    "LiteRtGetSignatureInputName": (Handle, _SIZE, ctypes.POINTER(_TEXT)),
    "LiteRtGetSignatureOutputName": (Handle, _SIZE, ctypes.POINTER(_TEXT)),
    "LiteRtCreateOptions": (_MADE,),
    "LiteRtSetOptionsHardwareAccelerators": (Handle, ctypes.c_int),
    "LiteRtCreateOpaqueOptions": (_TEXT, Handle, Handle, _MADE),
    "LiteRtAddOpaqueOptions": (Handle, Handle),
    "LiteRtCreateCompiledModel": (Handle, Handle, Handle, _MADE),
    "LiteRtCompiledModelResizeInputTensor": (Handle, _SIZE, _SIZE, ctypes.POINTER(ctypes.c_int), _SIZE),
    "LiteRtGetCompiledModelOutputTensorLayouts": (Handle, _SIZE, _SIZE, ctypes.POINTER(Layout), ctypes.c_bool),
    "LiteRtCreateTensorBufferFromHostMemory": (ctypes.POINTER(TensorType), Handle, _SIZE, Handle, _MADE),
    "LiteRtRunCompiledModel": (Handle, _SIZE, _SIZE, _MADE, _SIZE, _MADE),
    "LiteRtCompiledModelGetErrorMessages": (Handle, _MADE),
    "LiteRtCompiledModelClearErrors": (Handle,),
    "LiteRtDestroyTensorBuffer": (Handle,),
    "LiteRtDestroyCompiledModel": (Handle,),
    "LiteRtDestroyOptions": (Handle,),
    "LiteRtDestroyModel": (Handle,),
}
"""What each function that is called takes. Those that destroy give nothing, all others a status."""


class LiteRtRefused(Exception):
    """A function of the library gave a status that is not 0."""


class Library:
    """The library, and its one environment of this process, which knows no accelerator but the CPU."""

    def __init__(self, path: Path, title: str) -> None:
        self.title = title
        """Name and version, for people."""
        self._c = ctypes.CDLL(str(path))
        for name, arguments in _SIGNATURES.items():
            getattr(self._c, name).argtypes = arguments
            getattr(self._c, name).restype = None if name.startswith("LiteRtDestroy") else ctypes.c_int
        options = [(_REGISTERED_ACCELERATORS, _CPU), (_LEAST_SEVERITY, _ERRORS_ONLY)]
        given = (_EnvironmentOption * 2)(*(_EnvironmentOption(tag, _Value(_WHOLE_NUMBER, number)) for tag, number in options))
        self.environment = self.made("LiteRtCreateEnvironment", len(given), given)
        self.run = self._c.LiteRtRunCompiledModel
        """It alone is called so often that a look-up by name would be felt."""

    def call(self, name: str, *arguments: object) -> None:
        """Raises `LiteRtRefused`."""
        status = getattr(self._c, name)(*arguments)
        if status:
            raise LiteRtRefused(f"{name} gave status {status}")

    def made(self, name: str, *arguments: object) -> Handle:
        """What a function makes, or finds, whose last argument says where to put it. Raises `LiteRtRefused`."""
        handle = Handle()
        self.call(name, *arguments, ctypes.byref(handle))
        return handle

    def names(self, signature: Handle, side: str) -> list[str]:
        """Of the signature's tensors, in its order; `side` is `Input` or `Output`. Raises `LiteRtRefused`."""
        count, found = _SIZE(), []
        self.call(f"LiteRtGetNumSignature{side}s", signature, ctypes.byref(count))
        for at in range(count.value):
            name = _TEXT()
            self.call(f"LiteRtGetSignature{side}Name", signature, at, ctypes.byref(name))
            found.append((name.value or b"").decode())
        return found

    def count_of_signatures(self, model: Handle) -> int:
        """Raises `LiteRtRefused`."""
        count = _SIZE()
        self.call("LiteRtGetNumModelSignatures", model, ctypes.byref(count))
        return count.value

    def compiled(self, model: Handle, *, threads: int, weights: int) -> Handle:
        """The model, ready to run with the packed weights in the file `weights`, a descriptor that the library closes.

        An empty file that can be written is filled; weights that are there are mapped. Raises `LiteRtRefused`.
        """
        wanted = {
            b"xnnpack": f"num_threads = {threads}\nweight_cache_file_descriptor = {weights}\n",
            b"runtime_options_string": "error_reporter_mode = 2\n",  # kept for `said`, instead of written to stderr
        }
        texts = {kind: ctypes.create_string_buffer(text.encode()) for kind, text in wanted.items()}
        options = self.made("LiteRtCreateOptions")
        try:
            self.call("LiteRtSetOptionsHardwareAccelerators", options, _CPU)
            for kind, text in texts.items():
                self.call("LiteRtAddOpaqueOptions", options, self._opaque(kind, text))
            return self.made("LiteRtCreateCompiledModel", self.environment, model, options)
        finally:
            self.call("LiteRtDestroyOptions", options)

    def _opaque(self, kind: bytes, text: ctypes.Array[ctypes.c_char]) -> Handle:
        return self.made("LiteRtCreateOpaqueOptions", kind, ctypes.cast(text, Handle), _KEPT)

    def said(self, compiled: Handle) -> str:
        """What went wrong since it was asked last, in one line."""
        text = Handle()
        if self._c.LiteRtCompiledModelGetErrorMessages(compiled, ctypes.byref(text)) or not text.value:
            return "it does not say why"
        message = ctypes.string_at(text.value).decode("utf-8", "replace")
        _free(text)
        self._c.LiteRtCompiledModelClearErrors(compiled)
        return " ".join(message.split())[:600] or "it does not say why"


@functools.cache
def library() -> Library:
    """Raises `EngineUnavailable` where ai-edge-litert is missing, or of a version without what is called here."""
    file = library_file()
    if file is None:
        raise EngineUnavailable(f"TFLite {ABSENT}. pip install 'edgeward[tflite]'.")
    from importlib import metadata  # 30 ms that a model without packed weights does not need

    title = f"LiteRT {metadata.version('ai-edge-litert')}"
    try:
        return Library(file, title)
    except (OSError, AttributeError, LiteRtRefused) as error:
        raise EngineUnavailable(f"{title} cannot keep packed weights in a file: {error}.") from error


def library_file() -> Path | None:
    """The library, where ai-edge-litert is of a version that has one; nothing is loaded."""
    found = importlib.util.find_spec("ai_edge_litert")
    folders = [] if found is None else [Path(each) for each in found.submodule_search_locations or ()]
    return next((file for folder in folders for file in sorted(folder.glob("libLiteRt.*"))), None)


_free: Final = ctypes.CDLL(None).free
_free.argtypes, _free.restype = (Handle,), None

_keep: Final = ctypes.CFUNCTYPE(None, Handle)(lambda _: None)
_KEPT: Final = ctypes.cast(_keep, Handle)
"""What is called when options go that were handed over: Python owns their text, and does what there is to do."""
