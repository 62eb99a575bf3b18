"""Shapes of which some axes count samples, and layouts: how a tensor's axes are stored. Pure arithmetic on tuples.

A *logical* tensor has the axes that ONNX gives it (NCHW). A *layout* says how it is stored: for each stored axis the logical
axis that lies there, or None for an axis of size 1 that ONNX does not know of. Logical axes of size 1 may be missing from a
layout. So Transpose, Squeeze and Unsqueeze only change layouts, and cost nothing on the device.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

Layout = tuple[int | None, ...]


@dataclass(frozen=True)
class Shape:
    """`sizes` for one sample; where `free`, the size grows with the number of samples."""

    sizes: tuple[int, ...]
    free: tuple[bool, ...]

    @classmethod
    def fixed(cls, sizes: Iterable[int]) -> Shape:
        """A shape that no number of samples changes."""
        found = tuple(int(size) for size in sizes)
        return cls(found, (False,) * len(found))

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def signature(self) -> tuple[int, ...]:
        """As TFLite writes it: −1 for free axes."""
        return tuple(-1 if free else size for size, free in zip(self.sizes, self.free, strict=True))

    @property
    def elements(self) -> int:
        """For one sample."""
        return math.prod(self.sizes)

    @property
    def is_fixed(self) -> bool:
        """Whether no axis is free."""
        return not any(self.free)

    def is_unit(self, axis: int) -> bool:
        """Whether the axis has size 1 for any number of samples."""
        return self.sizes[axis] == 1 and not self.free[axis]

    def wide_axes(self) -> tuple[int, ...]:
        """All axes but those of size 1."""
        return tuple(axis for axis in range(len(self)) if not self.is_unit(axis))

    def stored(self, layout: Layout) -> Shape:
        """The shape of the tensor that stores this logical one."""
        return Shape(
            tuple(1 if axis is None else self.sizes[axis] for axis in layout),
            tuple(axis is not None and self.free[axis] for axis in layout),
        )

    def with_size(self, axis: int, size: int) -> Shape:
        """The same with another, fixed size on one axis."""
        sizes, free = list(self.sizes), list(self.free)
        sizes[axis], free[axis] = size, False
        return Shape(tuple(sizes), tuple(free))


def identity(rank: int) -> Layout:
    """Stored as ONNX has it."""
    return tuple(range(rank))


def channels_last(rank: int) -> Layout:
    """What TFLite's convolutions want: samples, height, width, channels. One-dimensional ones get a height of 1."""
    return (0, None, 2, 1) if rank == 3 else (0, *range(2, rank), 1)


def covers(layout: Layout, axes: Iterable[int]) -> bool:
    """Whether all these logical axes are stored."""
    return set(axes) <= set(layout)


@dataclass(frozen=True)
class Group:
    """Input axes whose elements, together, become these output axes."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def reshape_groups(before: Shape, after: Shape) -> tuple[Group, ...]:
    """The finest partition of the axes of a reshape: within each group the number of elements is the same on both sides."""
    groups, left, right = [], 0, 0
    while left < len(before) or right < len(after):
        first, second = left, right
        product, other = (1, 0), (1, 0)
        if left < len(before):
            product, left = _times(product, before, left), left + 1
        if right < len(after):
            other, right = _times(other, after, right), right + 1
        while product != other and (left < len(before) or right < len(after)):
            if right >= len(after) or (product < other and left < len(before)):
                product, left = _times(product, before, left), left + 1
            else:
                other, right = _times(other, after, right), right + 1
        groups.append(Group(tuple(range(first, left)), tuple(range(second, right))))
    return tuple(groups)


def _times(product: tuple[int, int], shape: Shape, axis: int) -> tuple[int, int]:
    """Elements for one sample, and how often the number of samples is a factor."""
    return product[0] * shape.sizes[axis], product[1] + shape.free[axis]
