"""Windows that slide over images: kernel, stride, dilation and border, from ONNX's words to TFLite's SAME, VALID or PAD.

ONNX pads each border by any amount; TFLite knows two schemes. Where ONNX's amounts are those of a scheme it is used, else
the border is added by an operation of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from converters.tflite.emission import Call, Value
from converters.tflite.graph import Options, Padding, Tensor
from converters.tflite.shapes import Layout, Shape, channels_last

_SPATIAL: Final = (3, 4)
"""Ranks of inputs with one and with two spatial axes."""


@dataclass(frozen=True)
class Window:
    """Two numbers each, height first. `after` is what the last window needs, which may be less than ONNX's pads say."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    before: tuple[int, int]
    after: tuple[int, int]
    given_after: tuple[int, int]
    size: tuple[int, int]
    result: tuple[int, int]

    @property
    def reach(self) -> tuple[int, int]:
        """How far a window extends."""
        return _pair([(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True)])

    @property
    def padding(self) -> Padding | None:
        """TFLite's scheme with the same border, or None."""
        if self.before == (0, 0) and max(self.after) <= 0:
            return Padding.VALID
        for at in range(2):
            needed = max(0, (self.result[at] - 1) * self.stride[at] + self.reach[at] - self.size[at])
            if self.result[at] != -(-self.size[at] // self.stride[at]) or self.before[at] != needed // 2:
                return None
        return Padding.SAME


def window_of(call: Call, kernel: list[int], shape: Shape, result: Shape) -> Window:
    """The window of a convolution or pooling over an input of `shape`, whose result has the shape `result`."""
    spatial = len(shape) - 2
    stride = call.attribute("strides", [1] * spatial)
    dilation = call.attribute("dilations", [1] * spatial)
    sizes, results = shape.sizes[2:], result.sizes[2:]
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    needed = [
        (count - 1) * step + extent - size
        for count, step, extent, size in zip(results, stride, reach, sizes, strict=True)
    ]  # fmt: skip
    before, given = _borders(call, needed, spatial)
    after = [total - first for total, first in zip(needed, before, strict=True)]
    return Window(
        kernel=_pair(kernel),
        stride=_pair(stride),
        dilation=_pair(dilation),
        before=_pair(before, 0),
        after=_pair(after, 0),
        given_after=_pair(given, 0),
        size=_pair(sizes),
        result=_pair(results),
    )


def image_layout(call: Call, value: Value) -> Layout:
    """Samples, height, width, channels. Raises `UnsupportedOperator` for other numbers of axes."""
    if value.rank not in _SPATIAL:
        raise call.unsupported(f"this form of it works on {value.rank - 2} spatial axes; one or two have a form")
    if any(value.shape.free[1:]):
        raise call.unsupported("its image's size grows with the number of samples")
    return channels_last(value.rank)


def bordered(call: Call, tensor: Tensor, window: Window, *, kind: str = "PAD", fill: Tensor | None = None) -> Tensor:
    """The stored image with the window's border added; what no window reads at its end is left on."""
    pads = [[0, 0], [window.before[0], max(0, window.after[0])], [window.before[1], max(0, window.after[1])], [0, 0]]
    return padded(call, tensor, pads, kind=kind, fill=fill)


def padded(call: Call, tensor: Tensor, pads: list[list[int]], *, kind: str = "PAD", fill: Tensor | None = None) -> Tensor:
    """The stored tensor with these amounts added before and after each axis."""
    shape = tensor.shape
    for axis, (before, after) in enumerate(pads):
        if before or after:
            if shape.free[axis]:
                raise call.unsupported("it pads the axis of samples")
            shape = shape.with_size(axis, shape.sizes[axis] + before + after)
    amounts = call.emission.constant(np.array(pads, np.int32), "pads")
    options: Options = {"mode": 1 if kind == "SYMMETRIC" else 0} if kind in ("SYMMETRIC", "REFLECT") else {}
    name = "MIRROR_PAD" if options else kind
    return call.emission.add(name, [tensor, amounts, *([] if fill is None else [fill])], shape, **options)


def _borders(call: Call, needed: list[int], spatial: int) -> tuple[list[int], list[int]]:
    scheme = call.attribute("auto_pad", "NOTSET")
    if scheme in ("SAME_UPPER", "SAME_LOWER"):
        totals = [max(0, total) for total in needed]
        halves = [total // 2 if scheme == "SAME_UPPER" else total - total // 2 for total in totals]
        return halves, [total - half for total, half in zip(totals, halves, strict=True)]
    pads = call.attribute("pads", [0] * (2 * spatial)) if scheme == "NOTSET" else [0] * (2 * spatial)
    if any(amount < 0 for amount in pads):
        raise call.unsupported("it removes a border (negative pads). Use Slice")
    return list(pads[:spatial]), list(pads[spatial:])


def _pair(values: list[int] | tuple[int, ...], filler: int = 1) -> tuple[int, int]:
    """Height and width; one-dimensional ones get a height of 1."""
    return (filler, int(values[0])) if len(values) == 1 else (int(values[0]), int(values[1]))
