"""`Model`: one loaded variant on one engine, which checks what it is given and says what came and what was wanted.

A call costs the checks (under a microsecond an input) and the engine's own run; nothing is copied, queued or handed to
another thread. The checks of a good input are written for speed: a small model runs in ten microseconds, and each thing that
Python does costs a hundredth of that (`python -m bench runtime`). Counting and swapping
live in `runtime.hosting.host`, other ways of asking in `runtime.session`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from fleet_protocol.processing import Processing
from fleet_protocol.tensors import NUMPY_NAMES, TensorSpec
from runtime.engine import Array, Engine, open_engine
from runtime.errors import InferenceFailed, InvalidInput
from runtime.processing import Processor
from runtime.processing.opening import is_encoded
from runtime.session import Session

if TYPE_CHECKING:
    from runtime.explain import Explanation

NO_OPTIONS: Final[Mapping[str, str]] = MappingProxyType({})

_ndarray: Final = np.ndarray
_DATATYPES: Final = {name: datatype for datatype, name in NUMPY_NAMES.items()}


class Model(Session):
    """One loaded variant. Any number of threads may call it at once; a `with` block closes it at its end.

    `labels` are its class names, where they are known.
    """

    def __init__(self, engine: Engine, processor: Processor | None = None, labels: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.labels: Final = labels
        self._engine: Engine | None = engine
        self._closing = threading.Lock()
        self.inputs = engine.inputs
        self.outputs = engine.outputs
        self.engine: Final = engine.description
        self.choice: Final = engine.choice
        self.processor: Final = processor
        """What makes inputs of what users have, and results of outputs; None where the manifest declares nothing."""
        self._wanted = tuple((spec.name, _Wanted(spec)) for spec in engine.inputs)
        self._output_names = tuple(spec.name for spec in engine.outputs)
        alone = len(self._wanted) == len(self._output_names) == 1
        self._only = (*self._wanted[0], self._output_names[0]) if alone else None
        """The only input and output of a model that has no more: most have not, and need no loop."""

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs by name. `inputs` holds exactly one array for each of `self.inputs`, of its type and shape.

        An input that `processor` makes from encoded content may also be an array of objects: each one picture, WAV file or
        whatever it opens, as bytes or base64.
        Raises `InvalidInput`, or `InferenceFailed`.
        """
        engine = self._engine
        if engine is None:
            raise InferenceFailed("This model is closed. Load it again.")
        if self._only is not None and type(inputs) is dict and len(inputs) == 1:
            name, want, output = self._only
            array = inputs.get(name)
            if type(array) is _ndarray and array.dtype is want.dtype and array.shape == want.last_shape:
                return {output: engine.run(inputs)[0]}
        fitting = inputs if type(inputs) is dict else _unless_mapping(inputs)
        if len(inputs) != len(self._wanted):
            raise _wrong_names(inputs, self.inputs)
        for name, want in self._wanted:
            array = inputs.get(name)
            if type(array) is not _ndarray or array.dtype is not want.dtype or array.shape != want.last_shape:
                fitting = None
        answers = engine.run(fitting or self._checked(inputs))
        return dict(zip(self._output_names, answers, strict=True))

    def _checked(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The inputs, each looked at closely. Raises `InvalidInput`."""
        checked = {}
        for name, want in self._wanted:
            array = inputs.get(name)
            if array is None:
                raise _wrong_names(inputs, self.inputs)
            if self.processor is not None and name in self.processor.encoded and is_encoded(array):
                array = self.processor.rows(name, array)
            checked[name] = want.check(array)
        return checked

    def explain(self, inputs: Mapping[str, Array] | Array, **options: Any) -> Explanation:  # noqa: ANN401  # `runtime.explain`'s
        """Which parts of one sample the answer rests on; an array alone is the only input. See `runtime.explain.explain`."""
        from runtime.explain import explain

        given = inputs if isinstance(inputs, Mapping) else {self.inputs[0].name: inputs}
        return explain(self, given, **options)

    def through(self, wrap: Callable[[Engine], Engine]) -> Model:
        """A model on what `wrap` makes of this one's engine. That one owns the engine; this one is closed.

        Raises `InferenceFailed` when it is closed already.
        """
        with self._closing:
            engine, self._engine = self._engine, None
        if engine is None:
            raise InferenceFailed("This model is closed. Load it again.")
        return Model(wrap(engine), self.processor, self.labels)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the engine. Calls that are under way end well; later ones raise `InferenceFailed`."""
        with self._closing:
            engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()


def load(
    path: Path,
    *,
    session_options: Mapping[str, str] = NO_OPTIONS,
    threads: int | None = None,
    provider: str | None = None,
    delegate: Path | None = None,
    compiled: Path | None = None,
    processing: Processing | None = None,
    labels: tuple[str, ...] = (),
) -> Model:
    """Open a model file (ONNX or TFLite, told by content).

    `session_options` are the variant's own from the manifest, such as `session.disable_quant_qdq=1`; `threads` bounds the
    threads of one run (1 or more). `provider` is where an ONNX model runs (`cpu`, `cuda:0`, `auto`, …:
    `runtime.engines.providers`), `delegate` the library that runs a TFLite model; without them it is the CPU. Raises
    `ModelRejected`, whatever the file holds, and its `EngineUnavailable` where that provider or delegate does not work here.
    `compiled` is the directory of a TFLite model's packed weights, or of what the provider compiled of an ONNX model.
    `processing` and `labels` are the manifest's, for who hands in pictures, audio and the like.
    """
    engine = open_engine(
        path,
        session_options=session_options,
        threads=threads,
        provider=provider,
        delegate=delegate,
        compiled=compiled,
    )
    if processing is None:
        return Model(engine, labels=labels)
    try:
        return Model(engine, Processor(processing, engine.inputs, engine.outputs, labels), labels)
    except BaseException:
        engine.close()
        raise


class _Wanted:
    """One input's spec, taken apart once.

    An array whose `dtype` is this very object and whose shape is `last_shape`, the last one that passed, needs no `check`.
    """

    __slots__ = ("_dtype", "_spec", "dtype", "last_shape")

    def __init__(self, spec: TensorSpec) -> None:
        self._spec = spec
        self._dtype = np.dtype(NUMPY_NAMES[spec.datatype])
        self.dtype: np.dtype[Any] | None = None if spec.datatype == "BYTES" else self._dtype
        """None for texts, whose elements are checked each time."""
        self.last_shape: tuple[int, ...] | None = None

    def check(self, array: Array) -> Array:
        """The array as the engine takes it. Raises `InvalidInput`."""
        if not isinstance(array, np.ndarray):
            raise InvalidInput(
                f"Input {self._spec.name} is a {type(array).__name__}; wanted a numpy array, {self._spec.describe()}. "
                f"Use numpy.asarray(value, {self._dtype.name!r})."
            )
        if array.dtype != self._dtype:
            if self._spec.datatype == "BYTES" and array.dtype.kind == "U":
                return self.check(array.astype(object))
            raise self._wrong_type(array)
        shape = array.shape
        if not self._spec.accepts(shape):
            raise InvalidInput(f"Input {self._spec.name} has shape {list(shape)}; wanted {self._spec.describe()}.")
        self.last_shape = shape
        if self._spec.datatype == "BYTES":
            self._check_texts(array)
        return array

    def _wrong_type(self, array: Array) -> InvalidInput:
        came = _DATATYPES.get(array.dtype.name, array.dtype.name)
        if array.dtype.byteorder not in "=|" and not array.dtype.isnative:
            came = f"{came} of foreign byte order"
        return InvalidInput(
            f"Input {self._spec.name} is {came}; wanted {self._spec.describe()}. "
            f"Convert it with array.astype({self._dtype.name!r})."
        )

    def _check_texts(self, array: Array) -> None:
        for element in array.flat:
            if not isinstance(element, str):  # onnxruntime would take bytes for their repr()
                name, came = self._spec.name, type(element).__name__
                raise InvalidInput(f"Input {name} holds a {came}; wanted str, {self._spec.describe()}.")


def _unless_mapping(inputs: object) -> dict[str, Array] | None:
    """Nothing, since a mapping that is no dict has to be looked at closely. Raises `InvalidInput` for what is no mapping."""
    if not isinstance(inputs, Mapping):
        raise InvalidInput(
            f"The inputs are a {type(inputs).__name__}; wanted a mapping of arrays by name. One array alone goes to `predict`."
        )
    return None


def _wrong_names(inputs: Mapping[str, Array], specs: tuple[TensorSpec, ...]) -> InvalidInput:
    came = ", ".join(sorted(map(str, inputs))) or "nothing"
    wanted = ", ".join(spec.describe() for spec in specs)
    return InvalidInput(f"The inputs are {came}; wanted exactly {wanted}.")
