"""Shapes with free axes, layouts, and the partition of a reshape."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from converters.tflite.shapes import Shape, channels_last, covers, identity, reshape_groups


def test_a_free_axis_is_written_as_minus_one_and_is_never_of_size_one() -> None:
    shape = Shape((1, 3, 1), (True, False, False))
    assert shape.signature == (-1, 3, 1)
    assert not shape.is_fixed
    assert shape.wide_axes() == (0, 1)
    assert not shape.is_unit(0)


def test_a_layout_says_where_axes_are_stored_and_adds_axes_of_size_one() -> None:
    shape = Shape((1, 3, 7), (True, False, False))
    assert shape.stored(channels_last(3)).signature == (-1, 1, 7, 3)
    assert channels_last(4) == (0, 2, 3, 1)
    assert identity(3) == (0, 1, 2)


def test_a_layout_may_lack_axes_of_size_one_only() -> None:
    shape = Shape.fixed([2, 1, 3])
    assert covers((0, 2), shape.wide_axes())
    assert not covers((0, 1), shape.wide_axes())


def test_a_new_size_is_fixed() -> None:
    assert Shape((1, 3), (True, False)).with_size(0, 5) == Shape.fixed([5, 3])


def test_groups_are_the_finest_partition() -> None:
    groups = reshape_groups(Shape.fixed([2, 3, 4, 5]), Shape.fixed([2, 12, 5]))
    assert [(group.inputs, group.outputs) for group in groups] == [((0,), (0,)), ((1, 2), (1,)), ((3,), (2,))]


def test_the_axis_of_samples_is_a_group_of_its_own() -> None:
    before = Shape((1, 3, 4), (True, False, False))
    after = Shape((1, 12), (True, False))
    assert [(group.inputs, group.outputs) for group in reshape_groups(before, after)] == [((0,), (0,)), ((1, 2), (1,))]


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_groups_hold_every_axis_once_and_equal_numbers_of_elements(sizes: list[int], chance: object) -> None:
    flat = [factor for size in sizes for factor in ([2, size // 2] if size == 4 else [size])]
    groups = reshape_groups(Shape.fixed(sizes), Shape.fixed(flat))
    assert [axis for group in groups for axis in group.inputs] == list(range(len(sizes)))
    assert [axis for group in groups for axis in group.outputs] == list(range(len(flat)))
    for group in groups:
        assert math.prod(sizes[axis] for axis in group.inputs) == math.prod(flat[axis] for axis in group.outputs)
    assert int(np.prod(sizes)) == int(np.prod(flat))
