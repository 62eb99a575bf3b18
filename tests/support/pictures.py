"""The digits as pictures, and a bundle whose manifest says what becomes of them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
MODEL = DIGITS / "digits-v1.onnx"

PROCESSING = """\
[[inputs]]
tensor = "pixels"
steps = [
    { step = "decode", colour = "grey" },
    { step = "resize", height = 8, width = 8 },
    { step = "scale", divide = 15 },
    { step = "layout", order = "NCHW" },
]

[[results]]
name = "digit"
tensor = "probabilities"
steps = [{ step = "top_k", k = 3 }]
"""
"""Pixels of the digits are 0 to 16; in a picture each is 15 times brighter, so nothing is lost."""


def digits(count: int, *, start: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Digits that the example's model was not trained with: float32[count, 1, 8, 8], int64[count]."""
    with np.load(DIGITS / "digits.npz") as data:
        return data["pixels"][start : start + count], data["label"][start : start + count]


def png(pixels: NDArray[np.float32]) -> bytes:
    """One digit, [1, 8, 8], as a picture."""
    file = io.BytesIO()
    Image.fromarray((pixels[0] * 15).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def write_digits(directory: Path, count: int, *, sorted_by_class: bool) -> Path:
    """Pictures of digits, each in the directory of its class if so wanted."""
    for at, (pixels, label) in enumerate(zip(*digits(count), strict=True)):
        folder = directory / str(label) if sorted_by_class else directory
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{at:04}.png").write_bytes(png(pixels))
    return directory
