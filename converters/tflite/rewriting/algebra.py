"""Sums, products and norms: Einsum, products with vectors, softmax over several axes, norms and normalisations in groups."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from onnx import helper

from converters.tflite.rewriting.site import Site

_COERCED_UNTIL: Final = 13
"""Before this operator set Softmax, LogSoftmax and Hardmax took all axes from `axis` on as one."""


def matmul(site: Site) -> str | None:
    """A product with a vector: the vector gets the axis that a matrix has, and the result loses it."""
    left, right = site.shape(0), site.shape(1)
    if len(left) > 1 and len(right) > 1:
        return None
    first = site.reshape(site.input(0), [1, *left]) if len(left) == 1 else site.input(0)
    second = site.reshape(site.input(1), [*right, 1]) if len(right) == 1 else site.input(1)
    shape = [*(left[:-1] if len(left) > 1 else right[:-2]), *([right[-1]] if len(right) > 1 else [])]
    return site.reshape(site.add("MatMul", first, second), shape)


def einsum(site: Site) -> str | None:
    """Einsum, two operands at a time: a product of matrices between transpositions."""
    terms, result = _terms(site)
    sizes = [(letter, size) for at, term in enumerate(terms) for letter, size in zip(term, site.shape(at), strict=True)]
    if any(len(set(term)) < len(term) for term in terms) or len(set(sizes)) > len(dict(sizes)):
        return None  # a diagonal, or a letter that is broadcast
    found, term = site.input(0), terms[0]
    for at in range(1, len(terms)):
        later = set("".join(terms[at + 1 :])) | set(result)
        found, term = _contracted(site, (found, term), (site.input(at), terms[at]), later, dict(sizes))
    found, term = _summed(site, found, term, set(result))
    return _ordered(site, found, term, result)


def _terms(site: Site) -> tuple[list[str], str]:
    """The letters of each operand and of the result; an ellipsis becomes capital letters that are not used."""
    equation = str(site.attribute("equation")).replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    spare = [letter for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if letter not in equation]
    counts = [len(site.shape(at)) - len(term.replace("...", "")) for at, term in enumerate(terms)]
    widest = max([count for count, term in zip(counts, terms, strict=True) if "..." in term], default=0)
    dots = "".join(spare[:widest])
    terms = [term.replace("...", dots[widest - count :]) for term, count in zip(terms, counts, strict=True)]
    if arrow:
        return terms, right.replace("...", dots)
    every = "".join(terms)
    return terms, dots + "".join(sorted(letter for letter in set(every) - set(dots) if every.count(letter) == 1))


def _contracted(
    site: Site, left: tuple[str, str], right: tuple[str, str], later: set[str], sizes: dict[str, int]
) -> tuple[str, str]:
    """Two operands become one, by a product of matrices; letters of one of them that nobody else needs are summed first."""
    first, a = _summed(site, *left, set(right[1]) | later)
    second, b = _summed(site, *right, set(a) | later)
    batch = "".join(letter for letter in a if letter in b and letter in later)
    inner = "".join(letter for letter in a if letter in b and letter not in later)
    rows = "".join(letter for letter in a if letter not in b)
    columns = "".join(letter for letter in b if letter not in a)
    first = _ordered(site, first, a, batch + rows + inner)
    second = _ordered(site, second, b, batch + inner + columns)

    def many(letters: str) -> list[int]:
        return [sizes[letter] for letter in letters]

    term = batch + rows + columns
    if not inner:
        first = site.reshape(first, [*many(batch + rows), *[1] * len(columns)])
        second = site.reshape(second, [*many(batch), *[1] * len(rows), *many(columns)])
        return site.add("Mul", first, second), term
    kept = many(rows) if rows and not batch else [math.prod(many(rows))]
    first = site.reshape(first, [*many(batch), *kept, math.prod(many(inner))])
    second = site.reshape(second, [*many(batch), math.prod(many(inner)), math.prod(many(columns))])
    return site.reshape(site.add("MatMul", first, second), many(term)), term


def _summed(site: Site, name: str, term: str, needed: set[str]) -> tuple[str, str]:
    axes = [at for at, letter in enumerate(term) if letter not in needed]
    if not axes:
        return name, term
    return site.reduce("ReduceSum", name, axes, keep=False), "".join(letter for letter in term if letter in needed)


def _ordered(site: Site, name: str, term: str, wanted: str) -> str:
    if term == wanted:
        return name
    return site.add("Transpose", name, perm=[term.index(letter) for letter in wanted])


def softmax(site: Site) -> str | None:
    """Before opset 13: all axes from `axis` on count as one."""
    coerced = _coerced(site)
    if coerced is None:
        return None
    flat = site.add(site.node.op_type, site.reshape(site.input(), coerced), axis=1)
    return site.reshape(flat, site.shape())


def _coerced(site: Site) -> list[int] | None:
    """The two sizes of the matrix that older operator sets make of the input; None where its last axis is alone anyway."""
    shape = site.shape()
    axis = site.attribute("axis", 1) % max(1, len(shape))
    if site.opset >= _COERCED_UNTIL or math.prod(shape[axis + 1 :]) == 1:
        return None
    return [math.prod(shape[:axis]), math.prod(shape[axis:])]


def hardmax(site: Site) -> str:
    """1 at the first of the largest, 0 elsewhere."""
    coerced = _coerced(site)
    shape = list(site.shape()) if coerced is None else coerced
    axis = 1 if coerced is not None else site.attribute("axis", 1 if site.opset < _COERCED_UNTIL else -1) % len(shape)
    source = site.input() if coerced is None else site.reshape(site.input(), coerced)
    places = np.arange(shape[axis], dtype=np.int64).reshape([-1, *[1] * (len(shape) - axis - 1)])
    first = site.add("ArgMax", source, axis=axis, keepdims=1)
    found = site.add("Cast", site.add("Equal", first, site.stored(places)), to=1)
    return found if coerced is None else site.reshape(found, site.shape())


def lp_normalization(site: Site) -> str:
    """By the norm of an axis; where that is 0, so is the result."""
    axis = site.attribute("axis", -1) % len(site.shape())
    norm = site.reduce("ReduceL1" if site.attribute("p", 2) == 1 else "ReduceL2", site.input(), [axis])
    smallest = site.number(float(np.finfo(np.float32).tiny))
    return site.add("Div", site.input(), site.add("Max", norm, smallest))


def global_lp_pool(site: Site) -> str:
    """A norm over all spatial axes."""
    power, axes = site.attribute("p", 2), range(2, len(site.shape()))
    if power in (1, 2):
        return site.reduce(f"ReduceL{power}", site.input(), axes)
    sums = site.reduce("ReduceSum", site.add("Pow", site.add("Abs", site.input()), site.number(power)), axes)
    return site.add("Pow", sums, site.number(1 / power))


def group_normalization(site: Site) -> str:
    """Each group of channels by its own mean and variance: an instance normalisation whose channels are the groups."""
    shape, groups = site.shape(), int(site.attribute("num_groups"))
    ones = [np.ones(groups, np.float32), np.zeros(groups, np.float32)]
    grouped = site.reshape(site.input(), [shape[0], groups, math.prod(shape[1:]) // groups])
    normal = site.add("InstanceNormalization", grouped, *map(site.stored, ones), epsilon=site.attribute("epsilon", 1e-5))
    spread = [shape[1], *[1] * (len(shape) - 2)]
    factor, summand = (site.reshape(site.input(at), spread) for at in (1, 2))
    return site.add("Add", site.add("Mul", site.reshape(normal, shape), factor), summand)


def prelu(site: Site) -> str | None:
    """With slopes that are computed, or that are no number a channel: max(x, 0) + slope · min(x, 0)."""
    slopes = site.constant(1)
    if slopes is not None and (slopes.ndim < len(site.shape()) or slopes.shape[0] == 1):
        return None
    zero = site.number(0)
    below = site.add("Mul", site.input(1), site.add("Min", site.input(), zero))
    return site.add("Add", site.add("Max", site.input(), zero), below)


def cast(site: Site) -> str | None:
    """To the type that it has: onnxruntime folds nothing that stands behind such a cast."""
    return site.input() if site.attribute("to") == helper.np_dtype_to_tensor_dtype(site.dtype()) else None


def clip(site: Site) -> str | None:
    """By bounds that are computed."""
    given = [at for at in (1, 2) if site.has(at)]
    if all(site.constant(at) is not None for at in given):
        return None
    found = site.input()
    for at in given:
        found = site.add("Max" if at == 1 else "Min", found, site.input(at))
    return found


def last_extreme(site: Site) -> str | None:
    """ArgMax and ArgMin that take the last of equal elements: the first, counted from the end."""
    if not site.attribute("select_last_index", 0):
        return None
    axis = site.attribute("axis", 0) % len(site.shape())
    last = site.shape()[axis] - 1
    turned = site.add("Gather", site.input(), site.whole(range(last, -1, -1)), axis=axis)
    first = site.add(site.node.op_type, turned, axis=axis, keepdims=site.attribute("keepdims", 1))
    return site.add("Sub", site.stored(np.array(last, np.int64)), first)


RULES: Final = {
    "ArgMax": last_extreme,
    "ArgMin": last_extreme,
    "Cast": cast,
    "Clip": clip,
    "Einsum": einsum,
    "GlobalLpPool": global_lp_pool,
    "GroupNormalization": group_normalization,
    "Hardmax": hardmax,
    "LogSoftmax": softmax,
    "LpNormalization": lp_normalization,
    "MatMul": matmul,
    "PRelu": prelu,
    "Softmax": softmax,
}
