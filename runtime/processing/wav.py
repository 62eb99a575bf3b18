"""PCM audio to mono float samples: WAV files with the standard library's `wave`, and arrays of PCM numbers.

Files come from outside: what a header claims is held against the bytes that are there, and whatever is wrong with them is an
`InvalidInput`. What a device has no decoder for (compressed audio, floats in WAV) is refused with the command that converts it.
Another rate is refused too, unless it was declared that it is resampled, which needs soxr.
"""

from __future__ import annotations

import io
import math
import wave
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fleet_protocol import limits
from runtime.errors import DecoderMissing, InvalidInput

Samples = NDArray[np.float32]
"""float32[samples], mono, in [−1, 1]."""

SUFFIXES: Final = (".wav", ".wave")
_TYPES: Final = {1: "u1", 2: "<i2", 3: "<i4", 4: "<i4"}
"""By bytes of one sample, once 3 have become 4."""
_HALVES: Final = {"uint8": 1 << 7, "int16": 1 << 15, "int32": 1 << 31}
"""Full scale of the PCM types; 8 bits have their zero at 128."""


def samples(content: bytes | bytearray | memoryview, rate: int, *, resample: bool = False) -> Samples:
    """A WAV file of 8, 16, 24 or 32 bits PCM, its channels averaged; `resample`: a file of another rate too.

    Raises `InvalidInput`, also where its rate is another that is not resampled, and `DecoderMissing` where nothing here can.
    """
    way = f"Convert it with: ffmpeg -i FILE -ac 1 -ar {rate} -c:a pcm_s16le OUT.wav"
    try:
        with wave.open(io.BytesIO(content)) as file:
            channels, width, its_rate, frames, *_ = file.getparams()
            if its_rate != rate and not (resample and its_rate <= limits.AUDIO_RATE):
                raise InvalidInput(f"The audio has {its_rate} samples a second; the model takes {rate}. {way}")
            most = max(frames * channels, math.ceil(frames * rate / its_rate))
            if most > limits.SAMPLE_NUMBERS:
                raise InvalidInput(f"The audio has {most} samples; at most {limits.SAMPLE_NUMBERS} are taken.")
            pcm = file.readframes(frames)
    except (wave.Error, EOFError, RuntimeError, ValueError, ZeroDivisionError) as error:
        raise InvalidInput(f"The bytes are no WAV file of PCM: {str(error) or 'they break off'}. {way}") from error
    if width not in _TYPES:
        raise InvalidInput(f"The WAV file has {8 * width} bits a sample; 8, 16, 24 and 32 are read. {way}")
    if not frames or len(pcm) != frames * channels * width:
        raise InvalidInput(f"The WAV file claims {frames} samples and holds {len(pcm) // (channels * width)}. Record it again.")
    mono = mixed(_unpacked(pcm, width).reshape(frames, channels))
    return mono if its_rate == rate else _resampled(mono, its_rate, rate)


def _resampled(mono: Samples, its_rate: int, rate: int) -> Samples:
    """As `librosa.resample`: soxr's high quality, to `ceil(samples · rate / its_rate)`."""
    try:
        import soxr
    except ImportError as error:
        raise DecoderMissing(
            f"The audio has {its_rate} samples a second, and the model takes {rate}. Resampling needs soxr. Install it with: "
            "pip install 'edgeward[sound]'"
        ) from error
    length = math.ceil(mono.size * rate / its_rate)
    made = soxr.resample(mono, its_rate, rate, quality="HQ")[:length]
    return np.asarray(np.pad(made, (0, length - made.size)), np.float32)


def _unpacked(pcm: bytes, width: int) -> NDArray[Any]:
    """Little-endian PCM of 1 to 4 bytes; 3 become 4, at the same loudness."""
    if width != 3:
        return np.frombuffer(pcm, _TYPES[width])
    wide = np.zeros((len(pcm) // 3, 4), np.uint8)
    wide[:, 1:] = np.frombuffer(pcm, np.uint8).reshape(-1, 3)
    return wide.view(_TYPES[3])[:, 0]


def from_array(array: NDArray[Any]) -> Samples:
    """Mono samples as they come from a sound card: uint8, int16 or int32 PCM, or floats. Raises `InvalidInput`."""
    if array.ndim != 1 or not 0 < array.size <= limits.SAMPLE_NUMBERS:
        raise InvalidInput(
            f"Audio is {array.dtype.name}{list(array.shape)}; wanted [samples], mono, 1 to {limits.SAMPLE_NUMBERS}."
        )
    if array.dtype.kind != "f" and array.dtype.name not in _HALVES:
        raise InvalidInput(f"Audio is {array.dtype.name}; wanted int16 or int32 PCM, or floats in [−1, 1] such as 0.25.")
    return mixed(array[:, np.newaxis])


def mixed(array: NDArray[Any]) -> Samples:
    """`[samples, channels]` of PCM or floats to the channels' mean."""
    half = _HALVES.get(array.dtype.name)
    real = array.astype(np.float64)
    if half is not None:
        real = (real - (half if array.dtype.kind == "u" else 0)) / half
    return np.asarray(real.mean(axis=1), np.float32)
