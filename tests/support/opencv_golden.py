"""Makes `opencv_golden.npz`: what OpenCV answers where our processing says that it does as OpenCV. Run by hand, where it is:

    pip install opencv-python-headless && python -m tests.support.opencv_golden

OpenCV weighs 160 MB, so tests read its answers instead of asking it.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

FILE = Path(__file__).with_suffix(".npz")
SIZES = ((7, 5), (20, 31), (33, 48), (64, 50))
"""Height and width, below and above those of the picture, which has 33 × 48."""


def main() -> None:
    chance = np.random.default_rng(7)
    noise = chance.integers(0, 256, (33, 48, 3), np.uint8)
    smooth = cv2.GaussianBlur(noise, (7, 7), 2.0)
    made = {"picture": smooth}
    for height, width in SIZES:
        made[f"linear/{height}x{width}"] = cv2.resize(smooth, (width, height), interpolation=cv2.INTER_LINEAR)
        made[f"nearest/{height}x{width}"] = cv2.resize(smooth, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    corner = chance.uniform(0, 80, (200, 2))
    boxes = np.concatenate([corner, chance.uniform(5, 30, (200, 2))], axis=1).round(1)
    scores = chance.uniform(0, 1, 200).round(4)
    classes = chance.integers(0, 3, 200)
    kept = cv2.dnn.NMSBoxes(boxes.tolist(), scores.tolist(), 0.3, 0.4)
    apart = cv2.dnn.NMSBoxesBatched(boxes.tolist(), scores.tolist(), classes.tolist(), 0.3, 0.4)
    blob = cv2.dnn.blobFromImage(smooth, 1 / 58.0, (24, 24), (123.0, 117.0, 104.0), swapRB=True)
    np.savez_compressed(
        FILE, allow_pickle=False, boxes=boxes, scores=scores, classes=classes, kept=np.array(kept), apart=np.array(apart),
        blob=blob, **made,
    )  # fmt: skip


if __name__ == "__main__":
    main()
