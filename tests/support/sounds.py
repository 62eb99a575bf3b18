"""WAV files, made with the standard library, and what librosa makes of sounds, as it was recorded."""

from __future__ import annotations

import io
import wave
from pathlib import Path

import numpy as np


def wav(samples: np.ndarray, *, rate: int = 16_000) -> bytes:
    """PCM of the array's own width, [samples] or [samples, channels]; 24 bits for a |V3."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        writer.setsampwidth(samples.dtype.itemsize)
        writer.setframerate(rate)
        writer.writeframes(samples.tobytes())
    return file.getvalue()


def tone(hertz: float, *, seconds: float = 1.0, rate: int = 16_000) -> np.ndarray:
    """int16[samples] at half of full scale."""
    return np.round(16384 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.int16)


def recorded() -> dict[str, np.ndarray]:
    """The recorded results, by name."""
    with np.load(Path(__file__).with_name("sound_golden.npz")) as stored:
        return dict(stored)
