"""Applications on the devices: each asks its device for one digit after another, and counts what it gets."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Final

import httpx
import numpy as np
import numpy.typing as npt

PAUSE_S: Final = 0.01
"""Between two questions of one application, so that the demo leaves the machine time for the rest."""
TIMEOUT_S: Final = 10.0


@dataclass
class Tally:
    """What one version answered on one device."""

    answered: int = 0
    right: int = 0


@dataclass
class Application:
    """One thread that asks one device. Read its counts after `stop`, or at any time for a display."""

    device: str
    url: str
    model: str
    pixels: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    tensor: str
    failures: list[str] = field(default_factory=list)
    by_version: dict[str, Tally] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._ask, name=f"application-{self.device}", daemon=True)

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the question under way."""
        self._stopping.set()
        self._thread.join(TIMEOUT_S)

    @property
    def answered(self) -> int:
        """Questions that got an answer so far."""
        return sum(tally.answered for tally in list(self.by_version.values()))

    def _ask(self) -> None:
        with httpx.Client(base_url=self.url, timeout=TIMEOUT_S, trust_env=False) as client:
            at = 0
            while not self._stopping.wait(PAUSE_S):
                self._ask_one(client, at % len(self.pixels))
                at += 1

    def _ask_one(self, client: httpx.Client, at: int) -> None:
        sample = self.pixels[at]
        question = {
            "inputs": [{"name": self.tensor, "shape": [1, *sample.shape], "datatype": "FP32", "data": sample.ravel().tolist()}]
        }
        try:
            answer = client.post(f"/v2/models/{self.model}/infer", json=question)
            answer.raise_for_status()
            body = answer.json()
            predicted = int(np.argmax(body["outputs"][0]["data"]))
            tally = self.by_version.setdefault(body["model_version"], Tally())
        except (httpx.HTTPError, ValueError, KeyError, IndexError) as error:
            self.failures.append(f"{type(error).__name__}: {error}")
            return
        tally.answered += 1
        tally.right += int(predicted == self.labels[at])
