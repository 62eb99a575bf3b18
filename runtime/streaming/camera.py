"""Frames of a camera, a video file or a network stream, through OpenCV (`pip install 'edgeward[camera]'`)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from runtime.errors import StreamBroken
from runtime.streaming.places import Item

_MISSED: Final = 30
"""So many frames in a row that a live camera fails to give mean that it is gone."""
_PAUSE_S: Final = 0.05


class CameraItems:
    """Every frame of `place`: a camera's number, or what else OpenCV opens, such as a file or `rtsp://…`."""

    can_wait = True  # a video file; a camera drops frames itself while nobody asks

    def __init__(self, place: str) -> None:
        """Raises `StreamBroken` where OpenCV is missing or cannot open it."""
        try:
            import cv2
        except ImportError as error:
            raise StreamBroken("A camera needs OpenCV. Install it with: pip install 'edgeward[camera]'") from error
        self._place = place
        self._live = place.isdecimal() or "://" in place
        self._capture: Any = cv2.VideoCapture(int(place) if place.isdecimal() else place)
        if not self._capture.isOpened():
            raise StreamBroken(f"OpenCV cannot open {place!r} as a camera or video. Check the number or the path.")

    def read(self, give: Callable[[Item], bool], stop: threading.Event) -> None:
        """See `Source`. A video file ends; a camera that gives nothing for long is gone."""
        number = missed = 0
        try:
            while not stop.is_set():
                taken, frame = self._capture.read()
                if taken:
                    missed = 0
                    number += 1
                    if not give(Item(f"frame {number}", np.ascontiguousarray(frame[..., ::-1]))):
                        return
                    continue
                missed += 1
                if not self._live:
                    return
                if missed >= _MISSED:
                    raise StreamBroken(f"The camera {self._place} gives no frames any more.")
                stop.wait(_PAUSE_S)
        finally:
            self._capture.release()

    def settle(self, item: Item) -> None:
        """A frame comes once."""
