"""The orders in which axes are commonly mixed up: channels first and channels last. Pure."""

from __future__ import annotations

from typing import Final

_ORDERS: Final[dict[int, tuple[tuple[int, ...], ...]]] = {
    3: ((0, 2, 1),),
    4: ((0, 2, 3, 1), (0, 3, 1, 2), (0, 1, 3, 2)),
    5: ((0, 2, 3, 4, 1), (0, 4, 1, 2, 3)),
}


def other_layouts(rank: int) -> tuple[tuple[int, ...], ...]:
    """How the axes of an array of this rank could be put otherwise, likeliest first; the first axis counts samples."""
    return _ORDERS.get(rank, ())
