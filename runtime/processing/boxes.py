"""Boxes out of a detector's tensors: their forms, and non-maximum suppression. Pure numpy; boxes are float32[n, 4]."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fleet_protocol.processing import Boxes, BoxForm
from runtime.errors import InferenceFailed
from runtime.processing.numbers import Array, best

Reals = NDArray[np.float32]


class Found(NamedTuple):
    """Boxes of one picture in the model's frame, (x1, y1, x2, y2), best first."""

    boxes: Reals
    scores: Reals
    classes: NDArray[np.int64]


def find(step: Boxes, boxes: Array, scores: Array | None, frame: tuple[int, int]) -> Found:
    """The boxes of one picture out of `[rows, numbers]` (or columns) and, where they stand apart, its scores.

    `frame` is the height and width of what the model saw. Raises `InferenceFailed` where the tensors are not as declared.
    """
    rows, own = _taken_apart(step, boxes, scores)
    corners = to_corners(rows, step.form)
    if step.units == "fraction":
        corners = corners * np.array([frame[1], frame[0]] * 2, np.float32)
    classes = own.argmax(axis=1)
    highest = own[np.arange(len(own)), classes]
    candidates = np.flatnonzero(highest >= step.min_score)
    kept = candidates[
        suppress(
            corners[candidates],
            highest[candidates],
            None if step.across_classes else classes[candidates],
            max_overlap=step.max_overlap,
            limit=step.limit,
        )
    ]
    return Found(corners[kept], highest[kept], classes[kept])


def _taken_apart(step: Boxes, boxes: Array, scores: Array | None) -> tuple[Reals, Reals]:
    """The four numbers, and the scores of each class."""
    if step.order == "columns":
        boxes, scores = boxes.T, None if scores is None else scores.T
    rows = boxes.astype(np.float32, copy=False)
    least = 4 if scores is not None else 5 + step.objectness
    if rows.shape[1] < least or (scores is not None and (len(scores) != len(rows) or not scores.shape[1])):
        came = list(rows.shape) if scores is None else [list(rows.shape), list(scores.shape)]
        raise InferenceFailed(f"The model's boxes are {came}; at least {least} numbers for each were declared.")
    if scores is not None:
        return rows[:, :4], scores.astype(np.float32, copy=False)
    if step.objectness:
        return rows[:, :4], rows[:, 5:] * rows[:, 4:5]
    return rows[:, :4], rows[:, 4:]


def to_corners(rows: Reals, form: BoxForm) -> Reals:
    """Rows of any form as (x1, y1, x2, y2)."""
    if form == "xyxy":
        return rows
    if form == "yxyx":
        return rows[:, [1, 0, 3, 2]]
    size = rows[:, 2:]
    start = rows[:, :2] - size / 2 if form == "cxcywh" else rows[:, :2]
    return np.concatenate([start, start + size], axis=1)


def suppress(
    boxes: Reals, scores: Reals, classes: NDArray[np.int64] | None, *, max_overlap: float, limit: int
) -> NDArray[np.int64]:
    """Which boxes remain, best first, the lower place first among equals; at most `limit`.

    A box goes when its intersection over union with one that remains, of its class (None: of any), is above `max_overlap`.
    """
    order = best(scores, len(scores))
    remaining: list[int] = []
    while order.size and len(remaining) < limit:
        first, order = int(order[0]), order[1:]
        remaining.append(first)
        overlapping = overlaps(boxes[first], boxes[order]) > max_overlap
        if classes is not None:
            overlapping &= classes[order] == classes[first]
        order = order[~overlapping]
    return np.array(remaining, np.int64)


def overlaps(one: NDArray[Any], others: NDArray[Any]) -> NDArray[np.float64]:
    """Intersection over union of one box with each of the others, in [0, 1]; 0 where both are empty."""
    one, others = one.astype(np.float64), others.astype(np.float64)
    start, end = np.maximum(one[:2], others[:, :2]), np.minimum(one[2:], others[:, 2:])
    shared = np.clip(end - start, 0, None).prod(axis=1)
    union = _area(one[np.newaxis]) + _area(others) - shared
    return np.asarray(np.divide(shared, union, out=np.zeros(len(others)), where=union > 0))


def _area(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1))
