"""Small tensors in buffers that stay bound to an onnxruntime session and are used again and again.

`session.run` makes onnxruntime's view of the input and a new output in each run, which takes a sixth of a tiny model's time.
Copying a small tensor in and out costs less than that. Each set of buffers serves one run at a time, so that none waits for
another and an answer belongs to who asked; there are as many sets as runs were under way at once.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

import numpy as np
import onnxruntime as ort

from runtime.engine import Array

SMALL_BYTES: Final = 4096
"""Input and output together; what is larger costs more to copy than it saves."""


class _Buffers:
    """One input and one output, and what binds them. onnxruntime writes to their addresses: they live as long as that does."""

    __slots__ = ("answered", "binding", "given")

    def __init__(self, session: ort.InferenceSession, given: Array, answered: Array) -> None:
        self.given, self.answered = np.empty_like(given, order="C"), np.empty_like(answered, order="C")
        bound = session.io_binding()
        for bind, node, array in (
            (bound.bind_input, session.get_inputs()[0], self.given),
            (bound.bind_output, session.get_outputs()[0], self.answered),
        ):
            bind(node.name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        self.binding: Final = bound._iobinding  # noqa: SLF001  # what is public costs as much as is saved


class BoundRuns:
    """Runs of one input of the type and shape of `given`, whose answer has those of `answered`. Threads may run at once."""

    def __init__(self, session: ort.InferenceSession, options: ort.RunOptions, given: Array, answered: Array) -> None:
        self._session = session
        self._run = session._sess.run_with_iobinding  # noqa: SLF001  # as `OnnxEngine` does
        self._options = options
        self._example: Final = given.copy(), answered.copy()
        self._name: Final[str] = session.get_inputs()[0].name
        self._dtype, self._shape = given.dtype, given.shape
        self._free: deque[_Buffers] = deque([_Buffers(session, given, answered)])

    def answer(self, inputs: dict[str, Array]) -> Array | None:
        """The answer, an array of its own; None to an input of another type or shape. Raises what onnxruntime raises."""
        given = inputs[self._name]
        if given.shape != self._shape or given.dtype is not self._dtype:
            return None
        try:
            buffers = self._free.pop()
        except IndexError:
            buffers = _Buffers(self._session, *self._example)
        buffers.given[...] = given
        self._run(buffers.binding, self._options)
        answered: np.ndarray[Any, Any] = buffers.answered.copy()
        self._free.append(buffers)
        return answered


def bound_runs(
    session: ort.InferenceSession, options: ort.RunOptions, inputs: dict[str, Array], outputs: list[Array]
) -> BoundRuns | None:
    """For more runs like this one; None where it has several tensors, texts, nothing in them, or much. For the CPU only."""
    if len(inputs) != 1 or len(outputs) != 1:
        return None
    (given,), (answered,) = inputs.values(), outputs
    if given.dtype.hasobject or answered.dtype.hasobject or not given.size or not answered.size:
        return None
    if given.nbytes + answered.nbytes > SMALL_BYTES:
        return None
    return BoundRuns(session, options, given, answered)
