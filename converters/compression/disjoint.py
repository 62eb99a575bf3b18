"""Whether the samples that judge were trained on. Pure: it compares arrays."""

from __future__ import annotations

import hashlib
from typing import Final

from converters.data.calibration import Dataset
from converters.errors import DataRejected

_TOLERATED: Final = 0.01
"""Real data repeats itself now and then (silence, blank pictures): so small a share is only told."""


def shared_samples(train: Dataset, judging: Dataset) -> int:
    """How many samples of `judging` are, bit by bit, in `train` too."""
    known = set(_hashes(train))
    return sum(each in known for each in _hashes(judging))


def check_disjoint(train: Dataset, judging: Dataset, what: str) -> str:
    """What to tell people of shared samples, or nothing. Raises `DataRejected` when more than 1 % are shared."""
    shared = shared_samples(train, judging)
    if shared > _TOLERATED * len(judging):
        raise DataRejected(
            f"{shared} of the {len(judging)} samples of {what} are also in the training data. A model that is judged by what "
            "it was trained on looks better than it is: give other samples."
        )
    return f"{shared} of the {len(judging)} samples of {what} are also in the training data" if shared else ""


def _hashes(data: Dataset) -> list[bytes]:
    names = sorted(data.inputs)
    return [hashlib.sha256(b"".join(data.inputs[name][at].tobytes() for name in names)).digest() for at in range(len(data))]
