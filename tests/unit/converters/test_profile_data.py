"""The reference profile's bins."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from converters.profile_data import ELEMENTS, make_profile
from fleet_protocol import codec
from fleet_protocol.profile import BINS, decode_profile


@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 60), st.integers(1, 3)), elements=st.floats(-1e6, 1e6, width=32)))
def test_every_value_is_counted_once_in_each_feature(values: NDArray[np.float32]) -> None:
    profile = make_profile({"x": values}, None, variant="float32")
    for feature in profile.features:
        assert len(feature.edges) == BINS - 1
        assert list(feature.edges) == sorted(feature.edges)
        assert sum(feature.counts) == (values.size if feature.index is None else len(values))


def test_a_continuous_feature_fills_all_bins_alike() -> None:
    values = np.random.default_rng(0).normal(size=(16000, 1)).astype(np.float32)
    (feature,) = make_profile({"x": values}, None, variant="float32").features
    assert max(feature.counts) - min(feature.counts) <= 2


def test_classes_are_counted_by_name_and_confidence_in_16_bins() -> None:
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.0, 1.0]], np.float32)
    profile = make_profile({"x": np.zeros((3, 2), np.float32)}, scores, variant="float32", classes=("cat", "dog"))
    assert profile.classes == {"cat": 1, "dog": 2}
    assert sum(profile.confidence_counts) == 3
    assert profile.confidence_counts[BINS - 1] == 1


def test_logits_have_classes_and_no_confidence() -> None:
    profile = make_profile({"x": np.zeros((2, 2), np.float32)}, np.array([[3.0, -1.0], [0.0, 7.0]]), variant="float32")
    assert profile.classes == {"0": 1, "1": 1}
    assert profile.confidence_counts == ()


def test_large_tensors_are_profiled_as_a_whole() -> None:
    profile = make_profile({"x": np.zeros((4, ELEMENTS + 1), np.float32)}, None, variant="float32")
    assert [feature.index for feature in profile.features] == [None]


def test_a_profile_survives_the_wire() -> None:
    profile = make_profile({"x": np.arange(12, dtype=np.int64).reshape(6, 2)}, None, variant="float32")
    assert decode_profile(codec.encode_readable(profile)) == profile


def test_a_value_on_an_edge_counts_above_it() -> None:
    values = np.array([[0.0]] * 50 + [[1.0]] * 50, np.float32)
    (feature,) = make_profile({"x": values}, None, variant="float32").features
    assert feature.edges == (0.0,) * 8 + (1.0,) * 7
    assert feature.counts == (0,) * 8 + (50,) + (0,) * 6 + (50,)
