"""Sound of another rate becomes what librosa makes of it, where that was declared, or is refused."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from fleet_protocol.processing import Audio, InputProcessing
from runtime.errors import DecoderMissing, InvalidInput
from runtime.processing.steps import processed
from tests.support.sounds import recorded, tone, wav

pytest.importorskip("soxr", reason="this environment was made before edgeward[sound] was")

RATE = 16_000


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return recorded()


def opened(file: bytes, *, resample: bool = True) -> np.ndarray:
    [(array, _)] = processed(InputProcessing(tensor="x", steps=(Audio(rate=RATE, resample=resample),)), file)
    return array


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_a_file_of_another_rate_is_resampled_as_librosa_does(golden: dict[str, np.ndarray], rate: int) -> None:
    ours = opened(wav(golden["pcm"], rate=rate))
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, golden[f"resampled/{rate}"], atol=1e-6)


def test_a_tone_stays_that_tone_at_another_rate() -> None:
    theirs, ours = (opened(wav(tone(1000, rate=rate), rate=rate)) for rate in (RATE, 44_100))
    assert ours.shape == (RATE,)
    np.testing.assert_allclose(ours[500:-500], theirs[500:-500], atol=1e-3)


def test_a_file_of_the_declared_rate_is_left_as_it_is() -> None:
    file = wav(tone(440))
    np.testing.assert_array_equal(opened(file), opened(file, resample=False))


@pytest.mark.parametrize(("rate", "why"), [(1, "at most 16777216 are taken"), (2**31 - 1, "samples a second")])
def test_a_file_that_would_become_too_long_or_claims_any_rate_is_refused(rate: int, why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        opened(wav(tone(440), rate=rate))


def test_a_device_without_soxr_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soxr", None)
    assert opened(wav(tone(440))).shape == (RATE,)
    with pytest.raises(DecoderMissing, match=r"8000 samples a second.*pip install 'edgeward\[sound\]'"):
        opened(wav(tone(440, rate=8000), rate=8000))
