"""What results are, and how they are made from outputs. Pure numpy."""

from __future__ import annotations

import msgspec
import numpy as np

from fleet_protocol.processing import Boxes, Dequantize, OutputStep, ResultProcessing, Sigmoid, Softmax, Threshold, TopK
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
    """What was found in one sample, best first. `boxes` are (x1, y1, x2, y2) in the picture's own pixels, where it is one."""

    boxes: list[list[float]]
    scores: list[float]
    classes: list[int]
    labels: list[str]


Result = Classes | Detections | list[object]
"""Of one sample; lists where the last step leaves plain numbers."""


def results_of(
    wanted: ResultProcessing, outputs: dict[str, Array], placements: list[Placement], labels: tuple[str, ...]
) -> list[Result]:
    """One result for each sample. `placements` is empty where no picture was placed: boxes are then as the model has them.

    Raises `InferenceFailed` where the outputs are not as declared.
    """
    tensor = outputs[wanted.tensor]
    for step in wanted.steps:
        if isinstance(step, TopK | Threshold):
            return [_classes(step, row, labels) for row in tensor]
        if isinstance(step, Boxes):
            scores = None if step.scores is None else outputs[step.scores]
            return [
                _detections(step, boxes, None if scores is None else scores[at], placements[at] if placements else None, labels)
                for at, boxes in enumerate(tensor)
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


def _classes(step: TopK | Threshold, row: Array, labels: tuple[str, ...]) -> Classes:
    if row.ndim != 1:
        raise InferenceFailed(f"The model's scores are {list(row.shape)} for one sample; one row of classes was declared.")
    if isinstance(step, TopK):
        classes = best(row, step.k).tolist()
    else:
        classes = [at for at in best(row, len(row)).tolist() if row[at] >= step.at]
    return Classes(classes=classes, scores=[float(row[at]) for at in classes], labels=_names(classes, labels))


def _detections(
    step: Boxes, boxes: Array, scores: Array | None, placement: Placement | None, labels: tuple[str, ...]
) -> Detections:
    found = find(step, boxes, scores, placement.frame if placement else (1, 1))
    placed = placement.back(found.boxes) if placement else found.boxes
    return Detections(
        boxes=np.round(placed.astype(np.float64), 3).tolist(),
        scores=found.scores.tolist(),
        classes=found.classes.tolist(),
        labels=_names(found.classes.tolist(), labels),
    )


def _names(classes: list[int], labels: tuple[str, ...]) -> list[str]:
    return [labels[each] if each < len(labels) else str(each) for each in classes]
