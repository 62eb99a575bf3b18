"""Rows of a model's input out of what a user gives, by the declared steps: for conversion, devices and tests alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fleet_protocol.processing import (
    Arrange,
    Decode,
    InputProcessing,
    InputStep,
    NumberStep,
    Pieces,
    PlacingStep,
    ShapeStep,
    SoundStep,
)
from runtime.errors import InvalidInput
from runtime.processing.numbers import Array, arrange, number
from runtime.processing.opening import Given, is_encoded, opened, samples
from runtime.processing.placing import Placement, place
from runtime.processing.shaping import cut, shaped
from runtime.processing.sound import heard


def opens(wanted: InputProcessing, value: object) -> bool:
    """Whether a value is what the first step opens. Numbers where it opens pictures are the model's own tensor."""
    return not isinstance(wanted.first, Decode) or is_encoded(value)


def rows(wanted: InputProcessing, value: Given) -> Array:
    """The input's array out of one sample or a batch. Raises `InvalidInput`, or `DecoderMissing`."""
    return batch(wanted, samples(wanted.first, value))[0]


def batch(wanted: InputProcessing, given: Sequence[Given]) -> tuple[Array, list[Placement]]:
    """The input's array out of samples, and how each picture lies in what the model sees (nothing for anything else).

    Raises `InvalidInput`, or `DecoderMissing`.
    """
    if not given:
        raise InvalidInput(f"Input {wanted.tensor} got nothing. Give at least one sample.")
    made = [row for each in given for row in processed(wanted, each)]
    shapes = {array.shape for array, _ in made}
    if len(shapes) > 1:
        raise InvalidInput(
            f"Input {wanted.tensor} got samples that differ after processing: {sorted(shapes)}. Give one at a time."
        )
    return np.ascontiguousarray(np.stack([array for array, _ in made])), [each for _, each in made if each is not None]


def processed(wanted: InputProcessing, given: Given) -> list[tuple[Array, Placement | None]]:
    """One sample's rows (one, unless it is cut into pieces), and where it is a picture, how that lies in it.

    Raises `InvalidInput`, or `DecoderMissing`.
    """
    with np.errstate(all="ignore"):  # what becomes infinite is flagged as the model's answer is
        array = opened(wanted, given)
        placement = _whole(array) if isinstance(wanted.first, Decode) else None
        steps = wanted.steps[1:]
        if steps and isinstance(steps[0], Pieces):
            return [_through(steps[1:], piece, None) for piece in cut(steps[0], array)]
        return [_through(steps, array, placement)]


def _through(steps: Sequence[InputStep], array: Array, placement: Placement | None) -> tuple[Array, Placement | None]:
    for step in steps:
        if isinstance(step, PlacingStep):
            assert placement is not None, "checked when the processing was read"
            array, placement = place(step, array, placement)
        else:
            array = _after(step, array)
    return array, placement


def _whole(pixels: Array) -> Placement:
    height, width = pixels.shape[:2]
    return Placement(height, width, (height, width))


def _after(step: InputStep, array: Array) -> Array:
    if isinstance(step, NumberStep):
        return number(step, array)
    if isinstance(step, ShapeStep):
        return shaped(step, array)
    if isinstance(step, SoundStep):
        return heard(step, array)
    assert isinstance(step, Arrange), "checked when the processing was read"
    return arrange(step, array)
