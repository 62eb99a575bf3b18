"""Our features are librosa's, TensorFlow's, scikit-learn's, SciPy's and magika's, where the page says so."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.fft
import scipy.signal

from fleet_protocol.processing import (
    Audio,
    Bytes,
    Cast,
    Dct,
    Ends,
    Frames,
    InputProcessing,
    InputStep,
    Log,
    Mel,
    Normalise,
    Scale,
    Spectrum,
    Tensor,
    Window,
)
from runtime.processing.sound import heard, to_hertz, to_mel
from runtime.processing.steps import processed, rows
from tests.support.sounds import recorded

RATE = 16_000


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return recorded()


def through(given: object, *steps: InputStep) -> np.ndarray:
    [(array, placement)] = processed(InputProcessing(tensor="x", steps=steps), given)
    assert placement is None
    return array


def test_a_log_mel_spectrum_is_librosas(golden: dict[str, np.ndarray]) -> None:
    ours = through(
        golden["pcm"],
        Audio(rate=RATE),
        Frames(length=512, hop=160, pad="zeros"),
        Window(),
        Spectrum(),
        Mel(rate=RATE, bands=40, scale="slaney", norm="slaney"),
        Log(base="10", span=8),
        Scale(divide=0.1),
    )
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, golden["log_mel"], atol=1e-3)  # dB; librosa's own FFT is in float32


def test_an_mfcc_with_a_window_shorter_than_its_frame_is_librosas(golden: dict[str, np.ndarray]) -> None:
    ours = through(
        golden["pcm"],
        Audio(rate=RATE),
        Frames(length=512, hop=160),
        Window(kind="hamming", length=400),
        Spectrum(),
        Mel(rate=RATE, bands=32, low=60, high=7600),
        Log(base="10"),
        Scale(divide=0.1),
        Dct(coefficients=13),
    )
    np.testing.assert_allclose(ours, golden["mfcc"], atol=2e-3)


def test_a_magnitude_spectrum_of_reflected_ends_is_librosas(golden: dict[str, np.ndarray]) -> None:
    ours = through(golden["pcm"], Audio(rate=RATE), Frames(length=400, hop=160, pad="reflect"), Window(), Spectrum(power=1))
    np.testing.assert_allclose(ours, golden["reflected"], atol=2e-5)


def test_the_features_of_keyword_spotting_are_tensorflows(golden: dict[str, np.ndarray]) -> None:
    ours = through(
        golden["pcm"],
        Audio(rate=RATE),
        Frames(length=480, hop=320),
        Window(),
        Spectrum(size=512, power=1),
        Mel(rate=RATE, bands=40, low=20, high=4000, triangles="mel"),
        Log(floor=0, add=1e-6),
        Dct(coefficients=10, orthonormal=False),
    )
    np.testing.assert_allclose(ours, golden["keyword"], atol=1e-3)


@pytest.mark.parametrize("name", ["short", "empty", "long", "middle", "blank"])
def test_the_ends_of_a_file_are_magikas(name: str, golden: dict[str, np.ndarray]) -> None:
    ours = through(golden[f"file/{name}"].tobytes(), Bytes(), Ends(first=1024, last=1024))
    assert ours.dtype == np.int32
    np.testing.assert_array_equal(ours, golden[f"magika/{name}"])


def test_scaled_features_are_scikit_learns_to_the_bit(golden: dict[str, np.ndarray]) -> None:
    scaling = Normalise(mean=tuple(golden["mean"]), std=tuple(golden["std"]))
    ours = rows(InputProcessing(tensor="x", steps=(Tensor(shape=(6,), datatype="FP64"), scaling)), golden["features"])
    np.testing.assert_array_equal(ours, golden["scaled"])
    narrow = rows(
        InputProcessing(tensor="x", steps=(Tensor(shape=(6,), datatype="FP64"), scaling, Cast(datatype="FP32"))),
        golden["features"],
    )
    np.testing.assert_array_equal(narrow, golden["scaled"].astype(np.float32))


@pytest.mark.parametrize(("kind", "symmetric"), [("hann", False), ("hann", True), ("hamming", False), ("hamming", True)])
@pytest.mark.parametrize("length", [1, 2, 25, 400])
def test_windows_are_scipys(kind: Any, symmetric: bool, length: int) -> None:
    ours = heard(Window(kind=kind, symmetric=symmetric), np.ones((2, length)))
    wanted = scipy.signal.get_window(kind, length, fftbins=not symmetric)
    np.testing.assert_allclose(ours, [wanted, wanted], atol=1e-7)


def test_a_spectrum_and_a_cosine_transform_are_scipys() -> None:
    frames = np.random.default_rng(1).standard_normal((3, 20))
    np.testing.assert_allclose(heard(Spectrum(size=32), frames), np.abs(scipy.fft.rfft(frames, 32)) ** 2, rtol=1e-6)
    np.testing.assert_allclose(
        heard(Dct(coefficients=7), frames), scipy.fft.dct(frames, norm="ortho")[:, :7], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("scale", ["htk", "slaney"])
def test_mels_lead_back_to_hertz(scale: str) -> None:
    hertz = np.array([0.0, 20.0, 999.9, 1000.0, 1000.1, 8000.0])
    np.testing.assert_allclose(to_hertz(to_mel(hertz, scale), scale), hertz, atol=1e-9)
    assert to_mel(1000.0, scale) == pytest.approx({"htk": 999.9855, "slaney": 15.0}[scale], abs=1e-3)


def test_frames_drop_what_is_left_and_logarithms_have_a_floor() -> None:
    frames = heard(Frames(length=4, hop=3), np.arange(12.0))
    assert frames.tolist() == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]
    assert heard(Log(base="2", floor=0.25), np.array([[0.0, 1.0, 8.0]])).tolist() == [[-2, 0, 3]]
    assert heard(Log(base="2", floor=0, add=0.5), np.array([[0.0, 0.5, 3.5]])).tolist() == [[-1, 0, 2]]
    assert heard(Log(base="10", span=1), np.array([[1.0, 100.0, 10.0]])).tolist() == [[1, 2, 1]]
