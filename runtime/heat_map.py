"""Draws an explanation over its picture: warm where the answer rests on, cold where hiding raised the score. Pure numpy."""

from __future__ import annotations

import struct
import zlib
from typing import Final

import numpy as np
from numpy.typing import NDArray

from runtime.processing.placing import Placement

_LEAST_SIDE: Final = 256
"""A smaller picture is drawn in larger squares."""
_MOST_SIDE: Final = 1024
_WARM: Final = np.array([255.0, 40.0, 0.0])
_COLD: Final = np.array([0.0, 80.0, 255.0])
_STRENGTH: Final = 0.75


def draw(heat: NDArray[np.float32], picture: NDArray[np.uint8], placement: Placement | None = None) -> NDArray[np.uint8]:
    """uint8[height, width, 3]: the picture in grey, coloured by heat.

    `heat` is [height, width] of the model's frame, `picture` uint8[height, width, 1 or 3] (RGB), `placement` how the picture
    lies in the frame (None: it fills it).
    """
    height, width = picture.shape[:2]
    placement = placement or Placement(height, width, (height, width)).scaled(heat.shape[0], heat.shape[1])
    rows, columns = _grid(picture.shape[0], picture.shape[:2]), _grid(picture.shape[1], picture.shape[:2])
    grey = picture[rows.astype(int)[:, np.newaxis], columns.astype(int)].mean(axis=2, keepdims=True)
    strongest = float(np.abs(heat).max()) or 1.0
    seen = _sampled(heat, rows * placement.scale[0] + placement.offset[0], columns * placement.scale[1] + placement.offset[1])
    share = np.clip(seen / strongest, -1.0, 1.0)[..., np.newaxis]
    colour = np.where(share > 0, _WARM, _COLD)
    weight = np.abs(share) * _STRENGTH
    return np.asarray(grey * (1 - weight) + colour * weight, np.uint8)


def png(pixels: NDArray[np.uint8]) -> bytes:
    """uint8[height, width, 3] as a PNG file."""
    height, width, _ = pixels.shape
    lines = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(lines.tobytes())), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def _grid(side: int, sides: tuple[int, ...]) -> NDArray[np.float64]:
    """The places in the picture, in its pixels, that are drawn along one axis."""
    largest = max(sides)
    zoom = max(1, -(-_LEAST_SIDE // largest)) if largest < _LEAST_SIDE else min(1.0, _MOST_SIDE / largest)
    count = max(1, round(side * zoom))
    return np.minimum((np.arange(count) + 0.5) * side / count, side - 1e-6)


def _sampled(heat: NDArray[np.float32], rows: NDArray[np.float64], columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Heat at places of the frame, mixed from the four cells around each; 0 outside of the frame."""
    down, lower, upper = _between(rows, heat.shape[0])
    across, left, right = _between(columns, heat.shape[1])
    across = across[np.newaxis]
    top = heat[lower][:, left] * (1 - across) + heat[lower][:, right] * across
    bottom = heat[upper][:, left] * (1 - across) + heat[upper][:, right] * across
    mixed = top * (1 - down[:, np.newaxis]) + bottom * down[:, np.newaxis]
    inside = _within(rows, heat.shape[0])[:, np.newaxis] & _within(columns, heat.shape[1])
    return np.where(inside, mixed, 0.0)


def _between(places: NDArray[np.float64], side: int) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    centred = np.clip(places - 0.5, 0, side - 1)
    first = centred.astype(np.int64)
    return centred - first, first, np.minimum(first + 1, side - 1)


def _within(places: NDArray[np.float64], side: int) -> NDArray[np.bool_]:
    return np.asarray((places >= 0) & (places <= side))
