"""Makes `sound_golden.npz`: what librosa, TensorFlow and magika answer where our processing does as they do. Run by hand:

    pip install librosa tensorflow magika && python -m tests.support.sound_golden

Together they weigh two gigabytes, so tests read their answers instead of asking them.
"""

from __future__ import annotations

import io
from pathlib import Path

import librosa
import numpy as np
import tensorflow as tf
from magika import Magika
from magika.types.seekable import Seekable
from sklearn.preprocessing import StandardScaler

FILE = Path(__file__).with_suffix(".npz")
RATE = 16_000
RESAMPLED = (8_000, 22_050, 44_100, 48_000)
FILES = {
    "short": b"  def main():\n    pass\n ",
    "empty": b" \n\t ",
    "long": bytes(range(256)) * 30 + b" \n" * 40,
    "middle": b"\n\n" + b"a line of text, " * 130 + b"\n",
    "blank": b" " * 5000 + b"x" + b"\n" * 5000,
}


def signal() -> np.ndarray:
    """Half a second of a rising tone, a low hum and noise, as 16-bit PCM."""
    at = np.arange(RATE // 2) / RATE
    heard = 0.4 * np.sin(2 * np.pi * (300 + 3000 * at) * at) + 0.2 * np.sin(2 * np.pi * 60 * at)
    return (
        np.round(32767 * (heard + 0.05 * np.random.default_rng(3).standard_normal(at.size)))
        .clip(-32768, 32767)
        .astype(np.int16)
    )


def by_librosa(samples: np.ndarray) -> dict[str, np.ndarray]:
    """A log-mel spectrum in dB on Slaney's scale, and an MFCC on HTK's whose window is shorter than its frame."""
    power = librosa.feature.melspectrogram(y=samples, sr=RATE, n_fft=512, hop_length=160, n_mels=40)
    short = librosa.feature.melspectrogram(
        y=samples, sr=RATE, n_fft=512, win_length=400, hop_length=160, n_mels=32, fmin=60, fmax=7600, htk=True, norm=None,
        window="hamming", center=False,
    )  # fmt: skip
    mfcc = librosa.feature.mfcc(S=librosa.power_to_db(short, top_db=None), n_mfcc=13)
    reflected = librosa.stft(samples, n_fft=400, hop_length=160, pad_mode="reflect")
    return {"log_mel": librosa.power_to_db(power).T, "mfcc": mfcc.T, "reflected": np.abs(reflected).T}


def resampled(samples: np.ndarray) -> dict[str, np.ndarray]:
    """The samples brought to `RATE`, as if they had been of these rates."""
    return {f"resampled/{rate}": librosa.resample(samples, orig_sr=rate, target_sr=RATE) for rate in RESAMPLED}


def by_tensorflow(samples: np.ndarray) -> np.ndarray:
    """The MFCC of MLPerf Tiny's keyword spotting."""
    turned = tf.abs(tf.signal.stft(samples, frame_length=480, frame_step=320, window_fn=tf.signal.hann_window))
    weights = tf.signal.linear_to_mel_weight_matrix(40, turned.shape[-1], RATE, 20.0, 4000.0)
    logs = tf.math.log(tf.tensordot(turned, weights, 1) + 1e-6)
    return np.asarray(tf.signal.mfccs_from_log_mel_spectrograms(logs)[..., :10])


def by_magika() -> dict[str, np.ndarray]:
    """What magika's model sees of each file."""
    made = {}
    for name, content in FILES.items():
        seen = Magika._extract_features_from_seekable(Seekable(io.BytesIO(content)), 1024, 0, 1024, 256, 4096, False)
        made[f"magika/{name}"] = np.array([*seen.beg, *seen.end], np.int16)
        made[f"file/{name}"] = np.frombuffer(content, np.uint8)
    return made


def main() -> None:
    pcm = signal()
    samples = (pcm / np.float32(32768)).astype(np.float32)
    features = np.random.default_rng(5).normal(50, 20, (30, 6)).round(3)
    scaler = StandardScaler().fit(features)
    np.savez_compressed(
        FILE, allow_pickle=False, pcm=pcm, keyword=by_tensorflow(samples), features=features, mean=scaler.mean_,
        std=scaler.scale_, scaled=scaler.transform(features), **by_librosa(samples), **resampled(samples), **by_magika(),
    )  # fmt: skip


if __name__ == "__main__":
    main()
