"""The steps on signals: frames, windows, spectra, mel bands, logarithms, cosine transforms. Pure numpy.

Each computes in float64 and gives float32, so that the same numbers come out whichever FFT and BLAS a device's numpy has. They
are librosa's, torchaudio's and tf.signal's formulas, as the settings say (`tests/unit/runtime/test_processing_sound.py`).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fleet_protocol.processing import Dct, Frames, Log, Mel, SoundStep, Spectrum, Window
from runtime.errors import InvalidInput
from runtime.processing.numbers import Array, check_numbers

Reals = NDArray[np.float64]

_KEPT: Final = 32
"""Windows and matrices that are kept: a device has few models, and each has one of a kind."""
_LOGARITHMS: Final = {"e": np.log, "2": np.log2, "10": np.log10}


def heard(step: SoundStep, array: Array) -> Array:
    """One sample after one step, as float32. Raises `InvalidInput`."""
    real = array.astype(np.float64)
    match step:
        case Frames():
            made = _framed(step, real)
        case Window():
            made = real * _window(step, real.shape[-1])
        case Spectrum():
            made = _spectrum(step, real)
        case Mel():
            made = real @ _mel_bands(step, real.shape[-1])
        case Log():
            made = _logged(step, real)
        case Dct():
            made = real @ _cosines(step, real.shape[-1])
    return made.astype(np.float32)


def _framed(step: Frames, signal: Reals) -> Reals:
    half = step.length // 2
    least = {"none": step.length, "reflect": half + 1, "zeros": 1}[step.pad]
    if len(signal) < least:
        raise InvalidInput(f"There are {len(signal)} samples; frames of {step.length} take {least} at least. Give more.")
    if step.pad != "none":
        signal = np.pad(signal, half, mode="reflect" if step.pad == "reflect" else "constant")
    check_numbers((1 + (len(signal) - step.length) // step.hop) * step.length)
    return np.lib.stride_tricks.sliding_window_view(signal, step.length)[:: step.hop]


@lru_cache(_KEPT)
def _window(step: Window, length: int) -> Reals:
    size = step.length or length
    turn = 2 * np.pi * np.arange(size) / max(1, size - step.symmetric)
    least = 0.5 if step.kind == "hann" else 0.54
    shape = least - (1 - least) * np.cos(turn) if size > 1 else np.ones(1)
    left = (length - size) // 2
    return np.pad(shape, (left, length - size - left))


def _spectrum(step: Spectrum, frames: Reals) -> Reals:
    size = step.size or frames.shape[-1]
    check_numbers(len(frames) * (size // 2 + 1))
    turned = np.fft.rfft(frames, size)
    return np.abs(turned) if step.power == 1 else turned.real**2 + turned.imag**2


@lru_cache(_KEPT)
def _mel_bands(step: Mel, bins: int) -> Reals:
    """`[bins, bands]`: how much of each bin belongs to each band."""
    high = step.high or step.rate / 2
    hertz = np.linspace(0, step.rate / 2, bins)
    edges = np.linspace(to_mel(step.low, step.scale), to_mel(high, step.scale), step.bands + 2)
    corners = to_hertz(edges, step.scale)
    sides, places = (corners, hertz) if step.triangles == "hertz" else (edges, to_mel(hertz, step.scale))
    rising = (places[:, np.newaxis] - sides[:-2]) / np.diff(sides)[:-1]
    falling = (sides[2:] - places[:, np.newaxis]) / np.diff(sides)[1:]
    bands = np.maximum(0, np.minimum(rising, falling))
    return np.asarray(bands * (2 / (corners[2:] - corners[:-2]))) if step.norm == "slaney" else bands


_LINEAR_HERTZ: Final = 200 / 3
"""Slaney's scale: a mel is so many Hz up to 1,000 Hz, above which 27 of them are a factor of 6.4."""
_LOG_FROM: Final = 1000.0
_LOG_STEP: Final = float(np.log(6.4)) / 27


def to_mel(hertz: float | Reals, scale: str) -> Reals:
    """HTK's scale, or Slaney's (his Auditory Toolbox, librosa's default)."""
    real = np.asarray(hertz, np.float64)
    if scale == "htk":
        return np.asarray(2595 * np.log10(1 + real / 700))
    above = _LOG_FROM / _LINEAR_HERTZ + np.log(np.maximum(real, _LOG_FROM) / _LOG_FROM) / _LOG_STEP
    return np.where(real < _LOG_FROM, real / _LINEAR_HERTZ, above)


def to_hertz(mel: Reals, scale: str) -> Reals:
    """The way back."""
    if scale == "htk":
        return np.asarray(700 * (10 ** (mel / 2595) - 1))
    start = _LOG_FROM / _LINEAR_HERTZ
    return np.where(mel < start, mel * _LINEAR_HERTZ, _LOG_FROM * np.exp(_LOG_STEP * np.maximum(mel - start, 0)))


def _logged(step: Log, real: Reals) -> Reals:
    logs = np.asarray(_LOGARITHMS[step.base](np.maximum(real, step.floor) + step.add))
    if step.span is None or not logs.size:
        return logs
    return np.asarray(np.maximum(logs, logs.max() - step.span))


@lru_cache(_KEPT)
def _cosines(step: Dct, places: int) -> Reals:
    """`[places, coefficients]` of the DCT-II."""
    angle = np.pi / places * np.outer(np.arange(places) + 0.5, np.arange(step.coefficients))
    cosines = np.cos(angle) * np.sqrt(2 / places)
    if step.orthonormal:
        cosines[:, 0] *= np.sqrt(0.5)
    return np.asarray(cosines)
