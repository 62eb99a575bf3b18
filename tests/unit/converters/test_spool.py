"""Data that comes batch by batch: joined on disk, and refused where it does not fit together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.data.calibration import Dataset
from converters.data.spool import spool
from converters.errors import DataRejected


def test_batches_are_joined_in_order(tmp_path: Path) -> None:
    batches = ({"x": np.full((count, 2), count, np.float32), "label": np.arange(count)} for count in (3, 1, 4))
    made = spool(batches, tmp_path)
    assert made["x"][:, 0].tolist() == [3, 3, 3, 1, 4, 4, 4, 4]
    assert made["label"].tolist() == [0, 1, 2, 0, 0, 1, 2, 3]


def test_what_came_is_read_from_disk(tmp_path: Path) -> None:
    made = spool([np.ones((5, 3), np.float32)], tmp_path)
    assert isinstance(made["samples"], np.memmap)


def test_pairs_hold_labels_and_a_single_number_marks_one_sample(tmp_path: Path) -> None:
    items: list[Any] = [(np.zeros(3, np.float32), 4), (np.ones(3, np.float32), 2)]
    made = spool(items, tmp_path)
    assert made["samples"].shape == (2, 3)
    assert made["label"].tolist() == [4, 2]


def test_only_one_batch_is_held_at_a_time(tmp_path: Path) -> None:
    import tracemalloc

    def batches() -> Iterator[dict[str, np.ndarray[Any, Any]]]:
        for at in range(40):
            yield {"x": np.full((1, 1 << 20), at, np.float32)}

    tracemalloc.start()
    made = spool(batches(), tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert made["x"].nbytes == 40 * 2**22
    assert peak < 5 * 2**22


def test_many_samples_taken_from_disk_stay_on_disk(tmp_path: Path) -> None:
    made = spool(({"x": np.full((1, 1 << 20), at, np.float32)} for at in range(20)), tmp_path)
    taken = Dataset(dict(made), None, "").take(np.arange(19, -1, -1))
    assert isinstance(taken.inputs["x"], np.memmap)
    assert taken.inputs["x"][:, 7].tolist() == list(range(19, -1, -1))


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ([], "empty"),
        ([{"x": np.zeros((2, 3))}, {"y": np.zeros((2, 3))}], r"Item 1 of the data holds \['y'\]"),
        ([{"x": np.zeros((2, 3))}, {"x": np.zeros((2, 4))}], "'x' in item 1"),
        ([{"x": np.zeros((2, 3))}, {"x": np.zeros((2, 3), np.float32)}], r"'x' in item 1 of the data is float32\[2, 3\]"),
        ([{"x": np.zeros((2, 3)), "label": np.zeros(3)}], "different numbers of samples"),
        (["a word"], "is no batch of samples"),
        ([{"x": np.array([object()])}], "is no batch of samples"),
    ],
)
def test_what_does_not_fit_together_is_told(items: list[Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(DataRejected, match=said):
        spool(items, tmp_path)


def test_a_file_that_the_iterable_cannot_read_is_told_from_a_full_disk(tmp_path: Path) -> None:
    def shards() -> Iterator[object]:
        yield np.zeros((2, 3), np.float32)
        yield (tmp_path / "shard-2.npy").read_bytes()

    with pytest.raises(DataRejected, match=r"breaks off: its iterable raised FileNotFoundError: .*shard-2\.npy"):
        spool(shards(), tmp_path)


def test_a_path_as_text_is_told_to_be_a_path(tmp_path: Path) -> None:
    with pytest.raises(DataRejected, match=r"give pathlib\.Path"):
        spool("data.npz", tmp_path)
