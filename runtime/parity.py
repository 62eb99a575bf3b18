"""How far one set of answers is from another: the same arithmetic at conversion, in the gate, and in tests. Pure."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from runtime.engine import Array

SQNR_LIMIT_DB: Final = 200.0
"""Equal answers have no noise; their ratio is given as this, so that it stays a number."""
_AT_ONCE: Final = 1 << 20
"""So many elements are looked at together."""


def sqnr_db(reference: Array, actual: Array) -> float:
    """Signal-to-quantization-noise ratio in dB, within ±`SQNR_LIMIT_DB`: the energy of `reference` over that of the difference.

    Both arrays have the same shape and are finite.
    """
    return ratio_db(*energies(reference, actual))


def energies(reference: Array, actual: Array) -> tuple[float, float]:
    """The energy of `reference` and that of the difference, summed in float64 without a copy of either array."""
    wanted, got = np.reshape(reference, -1), np.reshape(actual, -1)
    signal = noise = 0.0
    for at in range(0, wanted.size, _AT_ONCE):
        some = np.asarray(wanted[at : at + _AT_ONCE], np.float64)
        off = np.asarray(got[at : at + _AT_ONCE], np.float64) - some
        signal, noise = (before + float(np.einsum("i,i->", each, each)) for before, each in ((signal, some), (noise, off)))
    return signal, noise


def ratio_db(signal: float, noise: float) -> float:
    """Two energies' ratio in dB, within ±`SQNR_LIMIT_DB`; no signal at all is the lower end."""
    if noise == 0:
        return SQNR_LIMIT_DB
    if signal == 0:
        return -SQNR_LIMIT_DB
    return float(np.clip(10 * np.log10(signal / noise), -SQNR_LIMIT_DB, SQNR_LIMIT_DB))


def classes(answers: Array) -> NDArray[np.int64] | None:
    """The predicted class of each sample: int64[samples]; None where `answers` are no classes.

    Class scores are [samples, classes] (the arg-max counts); whole numbers [samples] are classes themselves.
    """
    if answers.ndim == 2 and answers.shape[1] >= 2 and answers.dtype.kind in "fiu":
        return np.asarray(answers.argmax(axis=1), np.int64)
    if answers.ndim == 1 and answers.dtype.kind in "iu":
        return answers.astype(np.int64)
    return None


def agreement(reference: Array, actual: Array) -> float | None:
    """The share of samples in [0, 1] whose predicted class is the same; None where the answers are no classes."""
    wanted, got = classes(reference), classes(actual)
    if wanted is None or got is None or not len(wanted):
        return None
    return float(np.mean(wanted == got))


def accuracy(answers: Array, labels: Array) -> float | None:
    """The share of samples in [0, 1] whose predicted class is its label; None where the answers are no classes."""
    got = classes(answers)
    if got is None or not len(labels):
        return None
    return float(np.mean(got == labels))


def likeness_db(before: Array, after: Array) -> float:
    """How near two answers of one function are, in dB within ±`SQNR_LIMIT_DB`; NaN and infinity must stand in the same places.

    Answers of other shapes or types, and whole numbers that differ, are not alike at all.
    """
    if before.shape != after.shape or before.dtype != after.dtype:
        return -SQNR_LIMIT_DB
    if before.dtype.kind != "f":
        return SQNR_LIMIT_DB if np.array_equal(before, after) else -SQNR_LIMIT_DB
    finite = np.isfinite(before)
    if not np.array_equal(before[~finite], after[~finite], equal_nan=True):
        return -SQNR_LIMIT_DB
    noise = np.abs(before[finite].astype(np.float64) - after[finite])
    return sqnr_db(before[finite], after[finite]) if np.isfinite(noise).all() else -SQNR_LIMIT_DB
