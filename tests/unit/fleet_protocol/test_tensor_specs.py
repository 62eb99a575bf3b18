"""Tensor specs: what fits them, and how they are spelled for people."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from fleet_protocol.tensors import NUMPY_NAMES, DataType, TensorSpec

SPEC = TensorSpec(name="pixels", datatype="FP32", shape=(-1, 64))


@pytest.mark.parametrize(
    ("shape", "fits"),
    [((1, 64), True), ((0, 64), True), ((9, 64), True), ((1, 63), False), ((64,), False), ((1, 1, 64), False)],
)
def test_a_free_dimension_takes_any_length_and_a_fixed_one_only_its_own(shape: tuple[int, ...], fits: bool) -> None:
    assert SPEC.accepts(shape) is fits


def test_a_spec_is_described_as_people_write_it() -> None:
    assert SPEC.describe() == "pixels: FP32[?, 64]"


def test_every_data_type_has_a_numpy_type_of_that_name() -> None:
    assert set(NUMPY_NAMES) == set(get_args(DataType))
    for name in NUMPY_NAMES.values():
        assert np.dtype(name).name == name
