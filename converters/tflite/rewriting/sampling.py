"""GridSample: an image read at computed places, between its points."""

from __future__ import annotations

import itertools
from typing import Final

import numpy as np
from onnx import TensorProto

from converters.tflite.rewriting.site import Site

_NEAREST: Final = "nearest"
_LINEAR: Final = ("linear", "bilinear")


def grid_sample(site: Site) -> str | None:
    """Of images, by the nearest point or between four: each point's row of channels is gathered and weighted."""
    mode, padding, shape = site.attribute("mode", "linear"), site.attribute("padding_mode", "zeros"), site.shape()
    if len(shape) != 4 or mode not in (_NEAREST, *_LINEAR) or padding not in ("zeros", "border"):
        return None
    count, channels, height, width = shape
    _, rows, columns, _ = site.shape(1)
    image = site.add("Transpose", site.reshape(site.input(), [count, channels, height * width]), perm=[0, 2, 1])
    across, down = (_place(site, at, size) for at, size in ((0, width), (1, height)))
    corners = [_corners(site, place, size, mode) for place, size in ((down, height), (across, width))]
    total = ""
    for (y, y_weight), (x, x_weight) in itertools.product(*corners):
        weight = site.add("Mul", y_weight, x_weight)
        flat = site.add("Add", site.add("Mul", y, site.stored(np.array(width, np.int64))), x)
        where = site.reshape(flat, [count, rows * columns, 1])
        part = site.add(
            "Mul", site.add("GatherND", image, where, batch_dims=1), site.reshape(weight, [count, rows * columns, 1])
        )
        total = site.add("Add", total, part) if total else part
    return site.reshape(site.add("Transpose", total, perm=[0, 2, 1]), [count, channels, rows, columns])


def _place(site: Site, coordinate: int, size: int) -> str:
    """Where along an axis of this size the grid points, in points."""
    given = site.add("Gather", site.input(1), site.stored(np.array(coordinate, np.int64)), axis=3)
    scale, shift = ((size - 1) / 2, (size - 1) / 2) if site.attribute("align_corners", 0) else (size / 2, (size - 1) / 2)
    place = site.add("Add", site.add("Mul", given, site.number(scale)), site.number(shift))
    return place if site.attribute("padding_mode", "zeros") == "zeros" else _clipped(site, place, size)


def _corners(site: Site, place: str, size: int, mode: str) -> list[tuple[str, str]]:
    """The points along one axis that count, as whole numbers within it, and their weights."""
    if mode == _NEAREST:
        near = site.add("Round", place)
        return [(_index(site, near, size), _inside(site, near, size))]
    first = site.add("Floor", place)
    second, share = site.add("Add", first, site.number(1)), site.add("Sub", place, first)
    rest = site.add("Sub", site.number(1), share)
    return [
        (_index(site, point, size), site.add("Mul", weight, _inside(site, point, size)))
        for point, weight in ((first, rest), (second, share))
    ]


def _inside(site: Site, point: str, size: int) -> str:
    """1 where the point is one of the image's, 0 beyond."""
    same = site.add("Equal", point, _clipped(site, point, size))
    return site.add("Cast", same, to=TensorProto.FLOAT)


def _index(site: Site, point: str, size: int) -> str:
    return site.add("Cast", _clipped(site, point, size), to=TensorProto.INT64)


def _clipped(site: Site, place: str, size: int) -> str:
    return site.add("Min", site.add("Max", place, site.number(0)), site.number(size - 1))


RULES: Final = {"GridSample": grid_sample}
