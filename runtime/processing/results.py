"""What results are, and how they are made from outputs. Pure numpy."""

from __future__ import annotations

import msgspec
import numpy as np

from fleet_protocol.processing import Boxes, Dequantize, OutputStep, ResultProcessing, Sigmoid, Softmax, TopK
from runtime.errors import InferenceFailed
from runtime.processing.boxes import find
from runtime.processing.numbers import Array, best, dequantized, sigmoid, softmax
from runtime.processing.placing import Placement


class Classes(msgspec.Struct, frozen=True, kw_only=True):
    """The best classes of one sample, best first. `labels` are the classes' names, or their numbers as text."""

    classes: list[int]
    scores: list[float]
    labels: list[str]


class Detections(msgspec.Struct, frozen=True, kw_only=True):
    """What was found in one picture, best first. `boxes` are (x1, y1, x2, y2) in the picture's own pixels."""

    boxes: list[list[float]]
    scores: list[float]
    classes: list[int]
    labels: list[str]


Result = Classes | Detections | list[object]
"""Of one sample; lists where the last step leaves plain numbers."""


def results_of(
    wanted: ResultProcessing, outputs: dict[str, Array], placements: list[Placement], labels: tuple[str, ...]
) -> list[Result]:
    """One result for each sample. `placements` may be shorter than the batch where no picture was placed.

    Raises `InferenceFailed` where the outputs are not as declared.
    """
    tensor = outputs[wanted.tensor]
    for step in wanted.steps:
        if isinstance(step, TopK):
            return [_classes(step, row, labels) for row in tensor]
        if isinstance(step, Boxes):
            scores = None if step.scores is None else outputs[step.scores]
            return [
                _detections(step, tensor[at], None if scores is None else scores[at], placement, labels)
                for at, placement in enumerate(placements)
            ]
        tensor = _transformed(step, tensor)
    return [row.tolist() for row in tensor]


def _transformed(step: OutputStep, tensor: Array) -> Array:
    match step:
        case Dequantize():
            return dequantized(tensor, step.scale, step.zero_point)
        case Softmax():
            return softmax(tensor)
        case Sigmoid():
            return sigmoid(tensor)
    raise AssertionError(f"{step} is a last step")


def _classes(step: TopK, row: Array, labels: tuple[str, ...]) -> Classes:
    if row.ndim != 1:
        raise InferenceFailed(f"The model's scores are {list(row.shape)} for one sample; one row of classes was declared.")
    classes = best(row, step.k).tolist()
    return Classes(classes=classes, scores=[float(row[at]) for at in classes], labels=_names(classes, labels))


def _detections(step: Boxes, boxes: Array, scores: Array | None, placement: Placement, labels: tuple[str, ...]) -> Detections:
    found = find(step, boxes, scores, placement.frame)
    return Detections(
        boxes=np.round(placement.back(found.boxes).astype(np.float64), 3).tolist(),
        scores=found.scores.tolist(),
        classes=found.classes.tolist(),
        labels=_names(found.classes.tolist(), labels),
    )


def _names(classes: list[int], labels: tuple[str, ...]) -> list[str]:
    return [labels[each] if each < len(labels) else str(each) for each in classes]
