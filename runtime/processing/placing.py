"""Where a picture's pixels go: sizes, crops and frames, and the way back for boxes and heat maps. Pure numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fleet_protocol.processing import CentreCrop, Letterbox, Resize, ResizeShorter
from runtime.errors import InvalidInput
from runtime.processing.decoding import PIXELS, Pixels
from runtime.processing.resampling import resize


@dataclass(frozen=True, slots=True)
class Placement:
    """How a picture of `height` × `width` lies in the model's frame: `frame = own · scale + offset`, y before x."""

    height: int
    width: int
    frame: tuple[int, int]
    scale: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)

    def scaled(self, height: int, width: int) -> Placement:
        """After the frame was resized."""
        ratio = height / self.frame[0], width / self.frame[1]
        return Placement(
            self.height,
            self.width,
            (height, width),
            (self.scale[0] * ratio[0], self.scale[1] * ratio[1]),
            (self.offset[0] * ratio[0], self.offset[1] * ratio[1]),
        )

    def moved(self, height: int, width: int, top: int, left: int) -> Placement:
        """After the frame became another of this size, in which it begins at `top`, `left` (negative: it was cut off)."""
        return Placement(self.height, self.width, (height, width), self.scale, (self.offset[0] + top, self.offset[1] + left))

    def back(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Boxes `[n, (x1, y1, x2, y2)]` of the frame as boxes of the picture, cut off at its edges."""
        scale = np.array([self.scale[1], self.scale[0]] * 2, np.float32)
        offset = np.array([self.offset[1], self.offset[0]] * 2, np.float32)
        bounds = np.array([self.width, self.height] * 2, np.float32)
        return np.asarray(np.clip((boxes - offset) / scale, 0.0, bounds))


def place(step: Resize | ResizeShorter | CentreCrop | Letterbox, pixels: Pixels, at: Placement) -> tuple[Pixels, Placement]:
    """The pixels after one step, and where they lie then. Raises `InvalidInput`."""
    height, width = pixels.shape[:2]
    match step:
        case Resize():
            size = step.height, step.width
            return resize(pixels, *size, filter=step.filter, antialias=step.antialias), at.scaled(*size)
        case ResizeShorter():
            size = _shorter(height, width, step.side)
            return resize(pixels, *size, filter=step.filter, antialias=step.antialias), at.scaled(*size)
        case CentreCrop():
            return _cropped(step, pixels, at)
        case Letterbox():
            return _boxed(step, pixels, at)


def _shorter(height: int, width: int, side: int) -> tuple[int, int]:
    short, long = sorted((height, width))
    longer = int(side * long / short)
    if side * longer > PIXELS:
        raise InvalidInput(f"A picture of {width} × {height} pixels is too long and thin to be resized to a side of {side}.")
    return (side, longer) if height <= width else (longer, side)


def _cropped(step: CentreCrop, pixels: Pixels, at: Placement) -> tuple[Pixels, Placement]:
    height, width = pixels.shape[:2]
    if height < step.height or width < step.width:
        raise InvalidInput(
            f"The picture has {width} × {height} pixels where {step.width} × {step.height} are cut out. "
            "Give a larger one, or resize it before the crop."
        )
    top, left = round((height - step.height) / 2), round((width - step.width) / 2)
    cut = pixels[top : top + step.height, left : left + step.width]
    return cut, at.moved(step.height, step.width, -top, -left)


def _boxed(step: Letterbox, pixels: Pixels, at: Placement) -> tuple[Pixels, Placement]:
    ratio = min(step.height / pixels.shape[0], step.width / pixels.shape[1])
    height = min(step.height, max(1, round(pixels.shape[0] * ratio)))
    width = min(step.width, max(1, round(pixels.shape[1] * ratio)))
    top, left = (step.height - height) // 2, (step.width - width) // 2
    frame = np.full((step.height, step.width, pixels.shape[2]), step.fill, np.uint8)
    frame[top : top + height, left : left + width] = resize(pixels, height, width, filter=step.filter, antialias=step.antialias)
    return frame, at.scaled(height, width).moved(step.height, step.width, top, left)
