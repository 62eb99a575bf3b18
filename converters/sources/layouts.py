"""The orders in which axes are commonly mixed up: channels first and channels last. Pure."""

from __future__ import annotations

from typing import Any, Final

from numpy.typing import NDArray

_ORDERS: Final[dict[int, tuple[tuple[int, ...], ...]]] = {
    3: ((0, 2, 1),),
    4: ((0, 2, 3, 1), (0, 3, 1, 2), (0, 1, 3, 2)),
    5: ((0, 2, 3, 4, 1), (0, 4, 1, 2, 3)),
}


def other_layouts(rank: int) -> tuple[tuple[int, ...], ...]:
    """How the axes of an array of this rank could be put otherwise, likeliest first; the first axis counts samples."""
    return _ORDERS.get(rank, ())


def fitting(values: NDArray[Any], dtype: str, shape: tuple[int | None, ...], name: str) -> str:
    """Why samples do not fit an input, with the order of axes that would; empty where they do. `shape` is one sample's."""
    if values.dtype.name != dtype:
        return f"{name!r} is {values.dtype.name}; the model takes {dtype}. Store it with .astype({dtype!r})."
    if _fits(values.shape[1:], shape):
        return ""
    wanted = ", ".join("?" if size is None else str(size) for size in (None, *shape))
    return f"{name!r} has shape {list(values.shape)}; the model takes [{wanted}].{layout_hint(values.shape, shape)}"


def layout_hint(got: tuple[int, ...], sample: tuple[int | None, ...]) -> str:
    """What to do where the axes fit in another order, to go on after a sentence; empty where they do not."""
    for order in other_layouts(len(got)):
        if _fits(tuple(got[axis] for axis in order)[1:], sample):
            return f" Its axes fit in another order: numpy.transpose(x, {order})."
    return ""


def _fits(got: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(got) == len(wanted) and all(want in (None, size) for want, size in zip(wanted, got, strict=True))
