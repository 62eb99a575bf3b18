"""Sounds: Fourier transforms with known sizes are products with matrices of cosines and sines."""

from __future__ import annotations

from typing import Final

import numpy as np

from converters.tflite.rewriting.site import Array, Site


def stft(site: Site) -> str | None:
    """STFT of a real signal: a convolution whose kernels are the window times each frequency's cosine and sine."""
    step = int(site.needed(1).reshape(-1)[0])
    window = site.constant(2)
    length = int(site.needed(3).reshape(-1)[0]) if site.has(3) else None if window is None else len(window)
    shape = site.shape()
    if length is None or (site.has(2) and window is None) or (len(shape) == 3 and shape[2] != 1):
        return None
    matrix = _fourier(length, onesided=bool(site.attribute("onesided", 1)))  # [length, bins, 2]
    if window is not None:
        matrix = matrix * window.reshape(-1, 1, 1)
    bins = matrix.shape[1]
    kernels = matrix.transpose(1, 2, 0).reshape(2 * bins, 1, length).astype(np.float32)
    frames = site.add("Conv", site.reshape(site.input(), [shape[0], 1, shape[1]]), site.stored(kernels), strides=[step])
    count = (shape[1] - length) // step + 1
    turned = site.add("Transpose", frames, perm=[0, 2, 1])
    return site.reshape(turned, [shape[0], count, bins, 2])


def dft(site: Site) -> str | None:
    """DFT along a known axis, of real or complex numbers, also backwards: a product with a matrix."""
    shape, older = site.shape(), site.opset < 20
    axis = site.attribute("axis", 1) if older else int(site.needed(2).reshape(-1)[0]) if site.has(2) else -2
    axis %= len(shape)
    length = int(site.needed(1).reshape(-1)[0]) if site.has(1) else shape[axis]
    inverse, onesided = bool(site.attribute("inverse", 0)), bool(site.attribute("onesided", 0))
    if length != shape[axis] or axis == len(shape) - 1 or (inverse and onesided):
        return None
    parts = _fourier(length, onesided=onesided)
    if inverse:
        parts = np.stack([parts[..., 0], -parts[..., 1]], -1) / length
    matrix = _complex(parts) if shape[-1] == 2 else parts[:, None]  # [length, parts, bins, 2]
    bins = matrix.shape[2]
    order = [*(each for each in range(len(shape) - 1) if each != axis), axis, len(shape) - 1]
    turned = site.add("Transpose", site.input(), perm=order)
    outer = [shape[each] for each in order[:-2]]
    flat = site.reshape(turned, [*outer, length * shape[-1]])
    product = site.add("MatMul", flat, site.stored(matrix.reshape(length * shape[-1], bins * 2).astype(np.float32)))
    back = [order.index(each) for each in range(len(shape))]
    return site.add("Transpose", site.reshape(product, [*outer, bins, 2]), perm=back)


def _fourier(length: int, *, onesided: bool) -> Array:
    """float64[length, bins, 2]: cosine and negative sine of each frequency at each place."""
    bins = length // 2 + 1 if onesided else length
    angles = 2 * np.pi * np.outer(np.arange(length), np.arange(bins)) / length
    return np.stack([np.cos(angles), -np.sin(angles)], -1)


def _complex(parts: Array) -> Array:
    """[length, 2, bins, 2]: how the real and the imaginary part of a number add to those of each bin."""
    real, imaginary = parts[..., 0], parts[..., 1]
    return np.stack([np.stack([real, imaginary], -1), np.stack([-imaginary, real], -1)], 1)


RULES: Final = {"DFT": dft, "STFT": stft}
