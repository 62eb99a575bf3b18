"""Shows a sample to people: as a picture where it looks like one, else as a line. Pure: arrays in, HTML out."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_LEAST: Final = 6
"""What is lower or narrower is no picture."""
_MOST: Final = 128
"""Larger pictures are shown with fewer points."""
_POINTS: Final = 400


def shown(sample: NDArray[Any]) -> str:
    """One sample's input as an `img` or an `svg`; empty where it is nothing to look at."""
    values = np.asarray(sample, np.float64)
    pixels = _pixels(np.squeeze(values) if values.ndim > 3 else values)
    if pixels is not None:
        return f'<img alt="the sample" src="data:image/png;base64,{base64.b64encode(png(pixels)).decode()}">'
    flat = values.reshape(-1)
    return _line(flat) if sample.dtype.kind == "f" and 2 <= flat.size <= 20 * _POINTS else ""


def png(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG file of uint8 [height, width] (grey) or [height, width, 3] (colours)."""
    height, width = pixels.shape[:2]
    colours = 2 if pixels.ndim == 3 else 0
    rows = pixels.reshape(height, -1)
    lines = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1).tobytes()
    head = struct.pack(">IIBBBBB", width, height, 8, colours, 0, 0, 0)
    parts = [_chunk(b"IHDR", head), _chunk(b"IDAT", zlib.compress(lines, 9)), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _pixels(values: NDArray[np.float64]) -> NDArray[np.uint8] | None:
    """The sample as grey or colours, its own least value dark and its largest light; None where its shape is no picture's."""
    if values.ndim == 3 and values.shape[0] in (1, 3) and values.shape[2] not in (1, 3):
        values = np.moveaxis(values, 0, -1)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] != 3) or min(values.shape[:2]) < _LEAST:
        return None
    if max(values.shape[:2]) > 16 * _MOST:
        return None
    step = max(1, -(-max(values.shape[:2]) // _MOST))
    small = values[::step, ::step]
    span = float(small.max() - small.min())
    return np.asarray(np.rint((small - small.min()) * (255 / span if span else 0)), np.uint8)


def _line(values: NDArray[np.float64]) -> str:
    step = max(1, -(-values.size // _POINTS))
    some = values[::step]
    span = float(some.max() - some.min()) or 1.0
    x = np.linspace(1, 119, some.size)
    y = 59 - 58 * (some - some.min()) / span
    points = " ".join(f"{a:.0f},{b:.0f}" for a, b in zip(x, y, strict=True))
    return (
        f'<svg viewBox="0 0 120 60" role="img" aria-label="the sample">'
        f'<polyline points="{points}" fill="none" stroke="var(--bar)"/></svg>'
    )
