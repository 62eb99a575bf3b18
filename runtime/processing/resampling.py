"""Resizing pixels: nearest and bilinear, with or without averaging when shrinking. Pure numpy.

With `antialias` the numbers are Pillow's to the bit (its 8-bit resampler: weights of 22 bits, rounded after each of two
passes), so torchvision's on PIL images as well. The horizontal pass always comes first, as in Pillow before 13, which takes
the other order where that is cheaper and differs by one step of 255 there (python-pillow/Pillow#9549): a device must not
answer otherwise because a library was updated. Without `antialias`, a bilinear pixel mixes its four neighbours, as OpenCV's
INTER_LINEAR does to within one step. Nearest takes the pixel under the new one's centre: Pillow's NEAREST, OpenCV's
INTER_NEAREST_EXACT.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fleet_protocol.processing import Filter
from runtime.processing.decoding import Pixels

_PRECISION_BITS: Final = 22
_AT_ONCE: Final = 128 * 1024


def resize(pixels: Pixels, height: int, width: int, *, filter: Filter, antialias: bool) -> Pixels:  # noqa: A002 - its name in the manifest
    """uint8[h, w, c] to uint8[height, width, c]."""
    if pixels.shape[:2] == (height, width):
        return pixels
    if filter == "nearest":
        rows, columns = _nearest(pixels.shape[0], height), _nearest(pixels.shape[1], width)
        return pixels[rows[:, np.newaxis], columns]
    turned = np.ascontiguousarray(pixels.transpose(1, 0, 2))
    across = _resampled(turned, width, antialias=antialias).transpose(1, 0, 2)
    return _resampled(np.ascontiguousarray(across), height, antialias=antialias)


def _nearest(before: int, after: int) -> NDArray[np.int64]:
    """Summed up as Pillow does it, so that ties of rounding fall the same way."""
    step = before / after
    places = np.cumsum(np.concatenate([[0.5 * step], np.full(after - 1, step)]))
    return np.minimum(places.astype(np.int64), before - 1)


def _resampled(lines: Pixels, size: int, *, antialias: bool) -> Pixels:
    """The first axis resampled; the others lie together in memory, and as much of them is mixed at once as a cache holds."""
    before, rest = lines.shape[0], lines.shape[1:]
    if before == size:
        return lines
    flat = lines.reshape(before, -1)
    first, weights = _taps(before, size, antialias=antialias)
    mixed = np.empty((size, flat.shape[1]), np.uint8)
    step = max(1, _AT_ONCE // flat.shape[1])
    for start in range(0, size, step):
        chosen = slice(start, start + step)
        total = np.full(mixed[chosen].shape, 1 << (_PRECISION_BITS - 1), np.int32)
        for tap in range(weights.shape[1]):
            total += flat[np.minimum(first[chosen] + tap, before - 1)] * weights[chosen, tap, np.newaxis]
        mixed[chosen] = np.clip(total >> _PRECISION_BITS, 0, 255)
    return mixed.reshape(size, *rest)


def _taps(before: int, size: int, *, antialias: bool) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """For each new pixel its first old one, and the weights of that and the following: [size], [size, taps]."""
    scale = before / size
    spread = max(scale, 1.0) if antialias else 1.0
    taps = math.ceil(spread) * 2 + 1
    centres = (np.arange(size) + 0.5) * scale
    first = np.maximum((centres - spread + 0.5).astype(np.int64), 0)
    last = np.minimum((centres + spread + 0.5).astype(np.int64), before)
    places = first[:, np.newaxis] + np.arange(taps)
    weights = np.maximum(1.0 - np.abs((places - centres[:, np.newaxis] + 0.5) * (1.0 / spread)), 0.0)
    weights[places >= last[:, np.newaxis]] = 0.0
    weights /= weights.sum(axis=1, keepdims=True)
    used = int(np.flatnonzero(weights.any(axis=0))[-1]) + 1  # the last ones may be out of reach of every pixel
    return first, (0.5 + weights[:, :used] * (1 << _PRECISION_BITS)).astype(np.int32)
