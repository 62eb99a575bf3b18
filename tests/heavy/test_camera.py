"""Frames of a video file through OpenCV, which weighs too much for `make test`."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from runtime.errors import StreamBroken
from runtime.streaming import Item
from runtime.streaming.camera import CameraItems
from tests.support import pictures

pytestmark = pytest.mark.heavy

FRAMES = 12


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Frames that grow brighter, red before the middle and blue after it."""
    path = tmp_path / "video.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10.0, (64, 48))
    for at in range(FRAMES):
        frame = np.zeros((48, 64, 3), np.uint8)
        frame[..., 2 if at < FRAMES // 2 else 0] = 100 + 10 * at  # OpenCV's order is BGR
        writer.write(frame)
    writer.release()
    return path


def test_every_frame_of_a_video_comes_in_rgb(video: Path) -> None:
    frames: list[Item] = []

    def give(item: Item) -> bool:
        frames.append(item)
        return True

    CameraItems(str(video)).read(give, threading.Event())
    assert [item.name for item in frames] == [f"frame {at + 1}" for at in range(FRAMES)]
    for at, item in enumerate(frames):
        assert isinstance(item.content, np.ndarray)
        strongest = item.content.mean(axis=(0, 1)).argmax()
        assert strongest == (0 if at < FRAMES // 2 else 2)


def test_a_video_streams_through_a_model(video: Path, tmp_path: Path) -> None:
    (tmp_path / "digits.toml").write_text(pictures.PROCESSING)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "edgeward", "stream", pictures.MODEL, "--processing", tmp_path / "digits.toml"),
            *("--from", f"camera:{video}"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    answered = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answered) == FRAMES
    assert all(len(each["results"][0]["digit"]["classes"]) == 3 for each in answered)


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "no.avi").write_bytes(b"no video")
    with pytest.raises(StreamBroken, match="cannot open"):
        CameraItems(str(tmp_path / "no.avi"))
