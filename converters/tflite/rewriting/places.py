"""Elements that are picked or put by place: the places of GatherND, Scatter, Pad and others become those of plain gathers.

Where places are constants, putting is picking too: each element of the result comes from a known place of the data or of the
updates. Where they count along the axis of samples (`x[:, 3] = y`, as exporters write it), that axis is left alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from converters.tflite.rewriting.site import Array, Site

_CONSTANT: Final = "constant"
_REDUCTIONS: Final = {"add": "Add", "mul": "Mul", "max": "Max", "min": "Min"}


def gather_nd(site: Site) -> str | None:
    """GatherND by constant places."""
    given, shape = site.constant(1), site.shape()
    if given is None:
        return None
    batch = site.attribute("batch_dims", 0)
    depth = batch + given.shape[-1]
    found = _per_sample(_whole_places(given, shape[batch:], batch), shape)
    if found is None:
        return None
    samples, flat = found
    rest = shape[depth:]
    rows = site.reshape(site.input(), [*shape[:samples], math.prod(shape[samples:depth]), *rest])
    picked = site.add("Gather", rows, site.whole(flat.reshape(-1)), axis=samples)
    return site.reshape(picked, [*given.shape[:-1], *rest])


def _whole_places(given: Array, shape: Sequence[int], batch: int) -> Array:
    """Places that name every axis, none negative: those of `batch_dims` are their own."""
    counted = np.where(given < 0, given + np.array(shape[: given.shape[-1]]), given)
    if not batch:
        return np.asarray(counted)
    own = np.stack(np.meshgrid(*map(np.arange, given.shape[:-1]), indexing="ij"), -1)[..., :batch]
    return np.concatenate([own, counted], -1)


def _per_sample(places: Array, shape: Sequence[int]) -> tuple[int, Array] | None:
    """How many leading axes (0 or 1) are left alone, and the flat places within the others.

    An axis is left alone where place i of it is only read for result i, the same way for all i.
    """
    depth = places.shape[-1]
    strides = np.cumprod([1, *shape[1:depth][::-1]])[::-1]
    count = shape[0]
    if places.ndim > 1 and places.shape[0] == count > 1:
        own = np.arange(count).reshape([-1, *[1] * (places.ndim - 2)])
        if (places[..., 0] == own).all() and (places[:, ..., 1:] == places[:1, ..., 1:]).all() and depth > 1:
            return 1, (places[0, ..., 1:] * strides[1:]).sum(-1)
    return 0, (places * strides).sum(-1)


def scatter_nd(site: Site) -> str | None:
    """ScatterND by constant places: the last update of a place wins."""
    given, shape = site.constant(1), site.shape()
    if given is None:
        return None
    depth = given.shape[-1]
    places = _whole_places(given, shape, 0)
    found = _per_sample(places, shape)
    if found is None:
        return None
    samples, flat = found
    return _put(site, samples, depth, flat.reshape(-1))


def _put(site: Site, samples: int, depth: int, flat: Array) -> str | None:
    """Update i goes to the place flat[i] of the axes from `samples` up to `depth`: a gather from data and updates.

    None where several updates of one place are to be combined.
    """
    shape, reduction = site.shape(), site.attribute("reduction", "none")
    if reduction != "none" and np.unique(flat).size < flat.size:
        return None
    size, rest = math.prod(shape[samples:depth]), shape[depth:]
    origin = np.arange(size)
    origin[flat] = size + np.arange(flat.size)
    data = site.reshape(site.input(), [*shape[:samples], size, *rest])
    updates = site.reshape(site.input(2), [*shape[:samples], flat.size, *rest])
    if reduction != "none":
        updates = site.add(_REDUCTIONS[reduction], site.add("Gather", data, site.whole(flat), axis=samples), updates)
    both = site.add("Concat", data, updates, axis=samples)
    return site.reshape(site.add("Gather", both, site.whole(origin), axis=samples), shape)


def gather_elements(site: Site) -> str | None:
    """GatherElements by constant places."""
    found = _element_places(site)
    if found is None:
        return None
    samples, flat, shape = found
    data = site.shape()
    rows = site.reshape(site.input(), [*data[:samples], math.prod(data[samples:])])
    return site.reshape(site.add("Gather", rows, site.whole(flat.reshape(-1)), axis=samples), shape)


def scatter_elements(site: Site) -> str | None:
    """ScatterElements by constant places."""
    found = _element_places(site)
    if found is None:
        return None
    samples, flat, _ = found
    return _put(site, samples, len(site.shape()), flat.reshape(-1))


def _element_places(site: Site) -> tuple[int, Array, tuple[int, ...]] | None:
    """As `_per_sample`, for places along one axis, and the shape of the places."""
    given, shape = site.constant(1), site.shape()
    if given is None:
        return None
    axis = site.attribute("axis", 0) % len(shape)
    places = np.stack(np.meshgrid(*map(np.arange, given.shape), indexing="ij"), -1)
    places[..., axis] = np.where(given < 0, given + shape[axis], given)
    found = _per_sample(places, shape)
    return None if found is None else (*found, given.shape)


def pad(site: Site) -> str | None:
    """Borders that repeat what is there, further than TFLite's own do, and negative ones: a gather along each axis."""
    mode, shape = site.attribute("mode", _CONSTANT), site.shape()
    amounts = _amounts(site)
    cut = any(amount < 0 for pair in amounts.values() for amount in pair)
    if not cut and (mode in (_CONSTANT, "reflect") or (mode == "edge" and max(map(max, amounts.values())) <= 1)):
        return None
    found = site.input()
    for axis, (before, after) in amounts.items():
        kept = np.arange(shape[axis])[max(0, -before) : shape[axis] - max(0, -after)]
        if mode != _CONSTANT:
            kept = np.pad(kept, (max(0, before), max(0, after)), mode=mode)
        if not np.array_equal(kept, np.arange(shape[axis])):
            found = site.add("Gather", found, site.whole(kept), axis=axis)
    return found if mode != _CONSTANT else _bordered(site, found, amounts)


def _amounts(site: Site) -> dict[int, tuple[int, int]]:
    rank = len(site.shape())
    pads = site.integers(1, "pads") or []
    axes = [int(each) % rank for each in site.needed(3)] if site.has(3) else list(range(rank))
    return {axis: (pads[at], pads[at + len(axes)]) for at, axis in enumerate(axes)}


def _bordered(site: Site, found: str, amounts: dict[int, tuple[int, int]]) -> str | None:
    """The border that is left once the negative amounts are cut."""
    rank = len(site.shape())
    pairs = [tuple(max(0, each) for each in amounts.get(axis, (0, 0))) for axis in range(rank)]
    flat = [pair[0] for pair in pairs] + [pair[1] for pair in pairs]
    if not any(flat):
        return found
    if site.opset < 11:
        return site.add("Pad", found, mode=_CONSTANT, pads=flat, value=site.attribute("value", 0.0))
    return site.add("Pad", found, site.whole(flat), *([site.input(2)] if site.has(2) else []))


def one_hot(site: Site) -> str:
    """OneHot: the places are compared with all that there are."""
    depth = int(site.needed(1).reshape(-1)[0])
    off, on = (site.cut(site.input(2), 0, at, at + 1) for at in (0, 1))
    shape = list(site.shape())
    axis = site.attribute("axis", -1) % (len(shape) + 1)
    indices = site.add("Cast", site.input(), to=7)
    below = site.add("Less", indices, site.stored(np.array(0, np.int64)))
    indices = site.add("Where", below, site.add("Add", indices, site.stored(np.array(depth, np.int64))), indices)
    indices = site.reshape(indices, [*shape[:axis], 1, *shape[axis:]])
    every = site.whole(range(depth))
    every = site.reshape(every, [depth, *[1] * (len(shape) - axis)])
    return site.add("Where", site.add("Equal", indices, every), on, off)


def trilu(site: Site) -> str:
    """Trilu: the other triangle becomes 0."""
    rows, columns = site.shape()[-2:]
    k = int(site.needed(1).reshape(-1)[0]) if site.has(1) else 0
    ones = np.ones((rows, columns), np.bool_)
    mask = np.triu(ones, k) if site.attribute("upper", 1) else np.tril(ones, k)
    return site.add("Where", site.stored(mask), site.input(), site.number(0))


def eye_like(site: Site) -> str:
    """EyeLike of known sizes: a constant."""
    dtype = site.known.dtype(str(site.node.output[0])) if site.attribute("dtype") is not None else site.dtype()
    rows, columns = site.shape()
    return site.stored(np.eye(rows, columns, k=site.attribute("k", 0), dtype=dtype))


def size_of(site: Site) -> str:
    """Size: a constant, where the shape is one."""
    return site.stored(np.array(math.prod(site.shape()), np.int64))


RULES: Final = {
    "EyeLike": eye_like,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "OneHot": one_hot,
    "Pad": pad,
    "Scatter": scatter_elements,
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
    "Size": size_of,
    "Trilu": trilu,
}
