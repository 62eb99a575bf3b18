"""Which parts of an input a model's answer rests on, found without gradients: hide a part, run again, see the score fall.

Occlusion after Zeiler & Fergus, "Visualizing and Understanding Convolutional Networks" (ECCV 2014), §4.2: a patch slides over
a picture, and a pixel's heat is the mean fall of the score over all patches that hid it. In a vector each feature is hidden
alone, or with its neighbours where there are more features than runs. It asks nothing of the model but answers, so it works on
every engine and on int8 as well, on the device. Runs are bounded, and go in batches where the model takes them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from fleet_protocol.tensors import DYNAMIC, TensorSpec
from runtime.engine import Array
from runtime.errors import InvalidInput

Order = Literal["NHWC", "NCHW", "NHW", "NF"]
"""Of a picture's axes; `NF` lies flat. A vector has none."""

RUNS: Final = 400
"""Inferences for one explanation, unless another number is given."""
_MOST_RUNS: Final = 100_000
_SHARE_OF_SIDE: Final = 8
"""A patch covers this part of a picture's side, unless another size is given."""
_BATCH: Final = 32
_BATCH_BYTES: Final = 32 * 1024 * 1024
_CHANNELS: Final = (1, 3, 4)


class Explained(Protocol):
    """What is explained: a model, or anything that answers like one."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What it takes."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What it gives."""
        ...

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs by name."""
        ...


@dataclass(frozen=True, slots=True)
class Explanation:
    """`heat` says by how much the score falls when a place is hidden: float32[height, width] of what the model sees, or
    float32[features]. Below zero: the score rises.
    """

    heat: NDArray[np.float32]
    output: str
    target: int
    """Place of the explained score in its row, such as the class."""
    score: float
    """With nothing hidden."""
    runs: int


@dataclass(frozen=True, slots=True)
class _Patch:
    """What one run hides, `[top:bottom, left:right]`; a vector is one row high."""

    top: int
    bottom: int
    left: int
    right: int


def explain(
    model: Explained,
    inputs: Mapping[str, Array],
    *,
    target: int | None = None,
    order: Order | None = None,
    frame: tuple[int, int] | None = None,
    patch: int | None = None,
    fill: float | None = None,
    runs: int = RUNS,
) -> Explanation:
    """Explain one score of the first output for one sample.

    `inputs`: exactly one sample, of which parts of the first input are hidden. `target`: which score; None: the highest.
    `order`: how that input lies; None: as its shape says (4 dimensions with 1, 3 or 4 channels are a picture, 2 a vector).
    `frame`: height and width of a picture that lies flat. `patch`: side of the hidden square in pixels; None: an eighth of the
    picture's. `fill`: what hides; None: the mean of each channel, and 0 in a vector. `runs`: most inferences, 2 or more; where
    they are too few for every place, patches stand further apart. Raises `InvalidInput`, and what the model raises.
    """
    if not 2 <= runs <= _MOST_RUNS:
        raise InvalidInput(f"An explanation of {runs} runs cannot be made; give 2 to {_MOST_RUNS}.")
    spec, sample = model.inputs[0], _sample(model.inputs[0], inputs)
    cells = _cells(spec, sample, order, frame)
    patches = list(_patches(cells.shape[0], cells.shape[1], patch, runs - 1))
    answer = _Answers(model, inputs, target)
    fills = np.asarray(_fill(cells, sample, fill), sample.dtype)
    falls = []
    for chosen in _groups(patches, _batch_size(spec, sample)):
        hidden = np.repeat(sample[np.newaxis], len(chosen), axis=0)
        for at, each in enumerate(chosen):
            _hide(hidden[at], cells[each.top : each.bottom, each.left : each.right], fills)
        falls += [answer.score - score for score in answer.scores(spec.name, hidden)]
    heat = _heat(cells.shape[:2], patches, falls)
    return Explanation(heat if cells.shape[0] > 1 else heat[0], answer.output, answer.target, answer.score, 1 + len(patches))


def _sample(spec: TensorSpec, inputs: Mapping[str, Array]) -> Array:
    given = inputs.get(spec.name)
    array = None if given is None else np.asarray(given)
    if array is None or array.dtype.kind not in "fiu" or not array.ndim or len(array) != 1:
        came = "nothing" if array is None else f"{array.dtype.name}{list(array.shape)}"
        raise InvalidInput(f"An explanation wants one sample of numbers for {spec.describe()}; it got {came}.")
    return np.asarray(array[0])


def _cells(spec: TensorSpec, sample: Array, order: Order | None, frame: tuple[int, int] | None) -> NDArray[np.int64]:
    """Where each pixel's numbers lie in the flat sample: [height, width, channels]; a vector is [1, features, 1]."""
    places = np.arange(sample.size)
    order = order or _guessed(spec, sample)
    if order == "NF" and frame is not None and sample.size % math.prod(frame) == 0:
        return places.reshape(*frame, -1)
    if order == "NCHW" and sample.ndim == 3:
        return places.reshape(sample.shape).transpose(1, 2, 0)
    if order == "NHWC" and sample.ndim == 3:
        return places.reshape(sample.shape)
    if order == "NHW" and sample.ndim == 2:
        return places.reshape(*sample.shape, 1)
    if order == "NF" and frame is None and sample.ndim == 1:
        return places.reshape(1, -1, 1)
    raise InvalidInput(f"A sample of shape {list(sample.shape)} does not lie as {order}" + (f" of {frame}." if frame else "."))


def _guessed(spec: TensorSpec, sample: Array) -> Order:
    if sample.ndim == 1:
        return "NF"
    if sample.ndim == 3 and (sample.shape[0] in _CHANNELS) != (sample.shape[2] in _CHANNELS):
        return "NCHW" if sample.shape[0] in _CHANNELS else "NHWC"
    raise InvalidInput(f"{spec.describe()} does not say how its axes lie. Give the order: NCHW, NHWC or NHW.")


def _patches(height: int, width: int, side: int | None, most: int) -> Iterator[_Patch]:
    """Squares that cover everything, at most `most` of them: half a square apart, or further where they would be too many."""
    if height == 1:
        size = max(side or 1, math.ceil(width / most))
        for left in range(0, width, size):
            yield _Patch(0, 1, left, min(left + size, width))
        return
    square = min(max(side or max(height, width) // _SHARE_OF_SIDE, min(2, height), 1), max(height, width))
    step = max(1, square // 2)
    while len(_starts(height, square, step)) * len(_starts(width, square, step)) > most:
        step += 1
        square = max(square, step)
    for top in _starts(height, square, step):
        for left in _starts(width, square, step):
            yield _Patch(top, min(top + square, height), left, min(left + square, width))


def _starts(side: int, square: int, step: int) -> list[int]:
    last = max(0, side - square)
    return sorted({*range(0, last, step), last})


def _fill(cells: NDArray[np.int64], sample: Array, fill: float | None) -> NDArray[np.float64]:
    """What hides, for each channel."""
    if fill is not None:
        return np.full(cells.shape[2], fill)
    if cells.shape[0] == 1:
        return np.zeros(cells.shape[2])
    return np.asarray(sample.reshape(-1)[cells].mean(axis=(0, 1), dtype=np.float64))


def _hide(sample: Array, cells: NDArray[np.int64], fills: Array) -> None:
    sample.reshape(-1)[cells] = fills


def _batch_size(spec: TensorSpec, sample: Array) -> int:
    return 1 if spec.shape[0] != DYNAMIC else max(1, min(_BATCH, _BATCH_BYTES // max(1, sample.nbytes)))


def _groups(patches: list[_Patch], size: int) -> Iterator[list[_Patch]]:
    for start in range(0, len(patches), size):
        yield patches[start : start + size]


def _heat(shape: tuple[int, ...], patches: list[_Patch], falls: list[float]) -> NDArray[np.float32]:
    """The mean fall over all patches that hid a place."""
    total, times = np.zeros(shape), np.zeros(shape)
    for each, fall in zip(patches, falls, strict=True):
        total[each.top : each.bottom, each.left : each.right] += fall
        times[each.top : each.bottom, each.left : each.right] += 1
    return (total / times).astype(np.float32)


class _Answers:
    """Asks the model for one score."""

    def __init__(self, model: Explained, inputs: Mapping[str, Array], target: int | None) -> None:
        self._model, self._inputs = model, dict(inputs)
        self.output: str = model.outputs[0].name
        row = self._rows(self._inputs, 1)[0]
        self.target = int(row.argmax()) if target is None else target
        if not 0 <= self.target < len(row):
            raise InvalidInput(f"{self.output} has {len(row)} scores; there is no {self.target} to explain.")
        self.score = float(row[self.target])
        if not math.isfinite(self.score):
            raise InvalidInput(f"{self.output} of {self.target} is {self.score}, which rests on nothing. Give another input.")

    def scores(self, name: str, samples: Array) -> list[float]:
        """The score of each sample in place of input `name`."""
        others = {each: np.repeat(array, len(samples), axis=0) for each, array in self._inputs.items() if each != name}
        return [float(row[self.target]) for row in self._rows({**others, name: samples}, len(samples))]

    def _rows(self, inputs: Mapping[str, Array], count: int) -> Array:
        rows = self._model(inputs)[self.output]
        if rows.dtype.kind not in "fiu" or rows.size < count or rows.size % count:
            raise InvalidInput(f"{self.output} is no row of scores for each sample, so there is no score to explain.")
        return rows.reshape(count, -1)
