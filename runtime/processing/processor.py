"""`Processor`: all that one model's manifest declares, ready to be done. Any number of threads may use one at once."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fleet_protocol.errors import ProtocolError
from fleet_protocol.processing import (
    Arrange,
    Cast,
    Decode,
    InputProcessing,
    Layout,
    Normalise,
    Processing,
    Quantize,
    Scale,
    check_processing,
)
from fleet_protocol.tensors import TensorSpec
from runtime.errors import InvalidInput, ModelRejected
from runtime.processing.decoding import Pixels, decode, from_array
from runtime.processing.numbers import Array, arrange, number
from runtime.processing.placing import Placement, place
from runtime.processing.results import Result, results_of

Picture = bytes | bytearray | memoryview | NDArray[Any]
"""Encoded, or decoded as uint8[height, width, 3] in RGB or uint8[height, width] in grey."""


class Prepared(NamedTuple):
    """Inputs for a model, and how each picture lies in what the model sees."""

    inputs: dict[str, Array]
    placements: list[Placement]


class Processor:
    """Does one `Processing` for one model."""

    def __init__(
        self,
        processing: Processing,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        labels: tuple[str, ...] = (),
    ) -> None:
        """Raises `ModelRejected` where the processing does not fit the model's tensors."""
        try:
            check_processing(processing, inputs, outputs)
        except ProtocolError as error:
            raise ModelRejected(f"The {error}. Correct the processing, and convert or publish again.") from error
        self.processing: Final = processing
        self.labels: Final = labels
        self._inputs = {each.tensor: each for each in processing.inputs}
        self.pictured: Final = tuple(self._inputs)
        """The inputs that are made from pictures."""
        self.order: Final[Layout] = _order(processing.inputs[0]) if processing.inputs else "NHWC"
        """How the first of them lies."""

    def prepare(self, pictures: Sequence[Picture]) -> Prepared:
        """A batch of at least one picture for the only input that takes pictures. Raises `InvalidInput`."""
        if len(self.pictured) != 1:
            raise InvalidInput(f"The model takes pictures at {len(self.pictured)} inputs; a picture alone needs exactly one.")
        [name] = self.pictured
        array, placements = self.batch(name, pictures)
        return Prepared({name: array}, placements)

    def batch(self, name: str, pictures: Sequence[Picture]) -> tuple[Array, list[Placement]]:
        """The array for input `name`, which is one of `pictured`. Raises `InvalidInput`."""
        if not pictures:
            raise InvalidInput(f"Input {name} got no picture. Give at least one.")
        made = [processed(self._inputs[name], each) for each in pictures]
        shapes = {array.shape for array, _ in made}
        if len(shapes) > 1:
            raise InvalidInput(f"Input {name} got pictures that differ after processing: {sorted(shapes)}. Give one at a time.")
        return np.ascontiguousarray(np.stack([array for array, _ in made])), [placement for _, placement in made]

    def tensor(self, name: str, pictures: Array) -> Array:
        """The array for input `name` from an array of encoded pictures, `bytes` or base64 texts. Raises `InvalidInput`."""
        return self.batch(name, [_encoded(name, each) for each in pictures.flat])[0]

    def results(self, outputs: Mapping[str, Array], placements: list[Placement]) -> list[dict[str, Result]]:
        """The declared results, by name, of each sample. Raises `InferenceFailed` where outputs are not as declared."""
        made = {each.name: results_of(each, dict(outputs), placements, self.labels) for each in self.processing.results}
        count = min((len(each) for each in made.values()), default=0)
        return [{name: each[at] for name, each in made.items()} for at in range(count)]


def _order(wanted: InputProcessing) -> Layout:
    return next((step.order for step in wanted.steps if isinstance(step, Arrange)), "NHWC")


def _encoded(name: str, picture: object) -> bytes:
    if isinstance(picture, str):
        try:
            return base64.b64decode(picture, validate=True)
        except ValueError:  # raw bytes that happened to be a text: some BMP and PPM files are
            return picture.encode("utf-8", "surrogatepass")
    if isinstance(picture, bytes | bytearray | memoryview):
        return bytes(picture)
    raise InvalidInput(f"Input {name} holds a {type(picture).__name__}; wanted encoded pictures as bytes or base64.")


def processed(wanted: InputProcessing, picture: Picture) -> tuple[Array, Placement]:
    """One sample, and how the picture lies in it."""
    pixels = _decoded(wanted, picture)
    placement = Placement(pixels.shape[0], pixels.shape[1], pixels.shape[:2])
    array: Array = pixels
    for step in wanted.steps[1:]:
        match step:
            case Scale() | Normalise() | Quantize() | Cast():
                array = number(step, array)
            case Arrange():
                array = arrange(step, array)
            case Decode():
                raise AssertionError("checked when the processing was read")
            case _:
                array, placement = place(step, array, placement)
    return array, placement


def _decoded(wanted: InputProcessing, picture: Picture) -> Pixels:
    first = wanted.steps[0]
    assert isinstance(first, Decode)
    if isinstance(picture, np.ndarray):
        return from_array(picture, first.colour)
    return decode(picture, first.colour)
