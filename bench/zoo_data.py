"""The samples of `bench.zoo`'s models: made by chance, or of the digits that ship with scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

Array = NDArray[Any]


def keywords(count: int, seed: int) -> tuple[Array, Array]:
    """Spectrogram-like [49, 10, 1]: twelve courses of formants, shifted in time, under much noise."""
    shapes = np.random.default_rng(1).normal(size=(12, 49, 10)).cumsum(1)
    shapes = (shapes - shapes.mean((1, 2), keepdims=True)) / shapes.std((1, 2), keepdims=True)
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 12, count)
    moved = np.stack([np.roll(shapes[label], rng.integers(-6, 7), 0) for label in labels])
    other = shapes[rng.integers(0, 12, count)] * rng.uniform(0, 1.0, (count, 1, 1))
    loud = rng.uniform(0.4, 1.2, (count, 1, 1))
    samples = 20 * (loud * moved + other + 1.1 * rng.normal(size=moved.shape)) - 15
    samples[:, :, 0] -= 60  # the first coefficient tells loudness, far from the others
    return samples[..., None].astype(np.float32), labels


def pictures(count: int, seed: int, size: int = 32, *, clear: bool = False) -> tuple[Array, Array]:
    """Digits in colour, 0 to 255, on a background of clouds; or `clear`, bright on a dark one: easy to learn."""
    digits = load_digits()
    rng = np.random.default_rng(seed)
    half = len(digits.images) // 2
    pick = rng.integers(0, half, count) + (half if seed else 0)
    images = digits.images[pick] / 16.0
    ink, paper = rng.uniform(0.2, 1, (2, count, 1, 1, 3))
    ink, paper = (0.6 + 0.4 * ink, 0.5 * paper) if clear else (ink, paper)
    big = np.kron(images, np.ones((1, size // 8, size // 8)))[..., None]
    clouds = np.kron(rng.normal(size=(count, size // 4, size // 4, 3)), np.ones((1, 4, 4, 1)))
    samples = 255 * np.clip(big * ink + (1 - big) * paper * 0.6 + (0.06 if clear else 0.12) * clouds, 0, 1)
    return samples.astype(np.float32), digits.target[pick]


def scenes(count: int, seed: int) -> tuple[Array, Array]:
    """96 × 96 pictures, −1 to 1, half of which hold a digit."""
    samples, _ = pictures(count, seed, size=96, clear=True)
    empty, _ = pictures(count, seed + 2, size=96, clear=True)
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    empty = np.roll(empty, 48, 1)[rng.permutation(count)][:, ::-1, ::-1]
    faint = rng.uniform(0.4, 1.0, (count, 1, 1, 1)).astype(np.float32)
    blurred = empty.reshape(count, 8, 12, 8, 12, 3).mean((2, 4)).repeat(12, 1).repeat(12, 2)
    mixed = faint * samples + (1 - faint) * blurred
    chosen = np.where(labels[:, None, None, None] == 1, mixed, blurred)
    return np.clip(chosen / 127.5 - 1, -1, 1).astype(np.float32), labels


def sounds(count: int, seed: int) -> tuple[Array, Array]:
    """Five frames of 128 bands in dB: a machine in some state; label 1 where something rattles."""
    base = np.random.default_rng(2).normal(size=(24, 640)).cumsum(1)
    base /= base.std(1, keepdims=True)
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(count, 24)) * 1.5 * 0.65 ** np.arange(24)  # eight numbers tell nearly all of a state
    samples = states @ base + 0.8 * rng.normal(size=(count, 640))
    labels = (rng.random(count) < 0.5).astype(np.int64) if seed else np.zeros(count, np.int64)
    bands = rng.integers(0, 128, count)
    rattle = np.exp(-((np.arange(128)[None] - bands[:, None]) ** 2) / 40) * rng.uniform(0, 3.0, (count, 1))
    samples += labels[:, None] * np.tile(rattle, (1, 5))
    return (samples * 6 - 40).astype(np.float32), labels


def tokens(words: int, length: int, count: int, seed: int) -> dict[str, Array]:
    """Sentences as a chain of words would give them, of several lengths."""
    rng = np.random.default_rng(seed)
    ids = (rng.zipf(1.3, (count, length)) * 7 + rng.integers(0, 50, (count, 1)) * 3) % words
    mask = (np.arange(length) < rng.integers(length // 2, length + 1, (count, 1))).astype(np.int64)
    return {"input_ids": (ids * mask).astype(np.int64), "attention_mask": mask, "token_type_ids": np.zeros_like(mask)}
