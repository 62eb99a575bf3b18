"""Masks, learning rates, epochs, and samples that two data sets share: the parts of training that need no torch."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from converters.compression.disjoint import check_disjoint, shared_samples
from converters.compression.masks import magnitude_mask, n_m_mask
from converters.compression.objective import Blend, blend_of, form_of
from converters.compression.recipes import DistilRecipe, PruneRecipe
from converters.compression.schedule import batches, epochs_that_fit, learning_rate
from converters.data.calibration import Dataset
from converters.errors import DataRejected, RecipeFailed


@pytest.mark.parametrize("shape", [(8, 16), (8, 16, 3, 3), (5, 7, 3)])
@pytest.mark.parametrize("amount", [0.0, 0.3, 0.5, 0.95])
def test_the_smallest_weights_go_and_as_many_as_asked(shape: tuple[int, ...], amount: float) -> None:
    weights = np.random.default_rng(1).normal(size=shape)
    mask = magnitude_mask(weights, amount)
    assert mask.shape == shape
    assert int((~mask).sum()) == int(amount * weights.size)
    assert np.abs(weights[~mask]).max(initial=0.0) <= np.abs(weights[mask]).min()


def test_equal_weights_lose_exactly_their_share_too() -> None:
    assert int(magnitude_mask(np.ones((4, 4)), 0.5).sum()) == 8


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (4, 8)])
@pytest.mark.parametrize("shape", [(6, 16), (6, 16, 3, 3)])
def test_of_each_group_of_input_channels_the_largest_stay(shape: tuple[int, ...], n: int, m: int) -> None:
    weights = np.random.default_rng(2).normal(size=shape)
    mask = n_m_mask(weights, n, m)
    assert mask is not None
    groups = np.moveaxis(mask, 1, -1).reshape(-1, m)
    values = np.abs(np.moveaxis(weights, 1, -1).reshape(-1, m))
    assert (groups.sum(axis=1) == n).all()
    kept = np.where(groups, values, np.inf).min(axis=1)
    gone = np.where(groups, 0.0, values).max(axis=1)
    assert (gone <= kept).all()


def test_a_shorter_last_group_keeps_its_share_and_too_few_channels_are_left_alone() -> None:
    mask = n_m_mask(np.ones((1, 6)), 2, 4)
    assert mask is not None
    assert mask[0, :4].sum() == 2
    assert mask[0, 4:].sum() == 1
    assert n_m_mask(np.ones((8, 3)), 2, 4) is None


def test_the_learning_rate_rises_then_falls_and_never_ends() -> None:
    rates = [learning_rate(0.1, done) for done in np.linspace(0, 1, 101)]
    assert max(rates) == pytest.approx(0.1)
    assert rates.index(max(rates)) == 5
    assert min(rates) > 0
    assert all(after < before for before, after in itertools.pairwise(rates[5:]))


def test_as_many_epochs_as_the_time_allows_and_one_at_least() -> None:
    assert epochs_that_fit(20, first_seconds=1.0, seconds=None) == 20
    assert epochs_that_fit(20, first_seconds=1.0, seconds=7.9) == 7
    assert epochs_that_fit(20, first_seconds=1.0, seconds=1000.0) == 20
    assert epochs_that_fit(20, first_seconds=10.0, seconds=1.0) == 1
    assert epochs_that_fit(20, first_seconds=0.0, seconds=1.0) == 20


@pytest.mark.parametrize("samples", [2, 63, 64, 65, 128, 129, 1000])
def test_batches_cover_every_sample_once_and_none_is_of_one_sample(samples: int) -> None:
    dealt = batches(samples, 64)
    assert [at for begin, end in dealt for at in range(begin, end)] == list(range(samples))
    assert all(2 <= end - begin <= 65 for begin, end in dealt)


def dataset(values: np.ndarray) -> Dataset:
    return Dataset(inputs={"x": values}, labels=None, digest="sha256:" + "0" * 64)


def test_samples_that_were_trained_with_may_not_judge() -> None:
    values = np.random.default_rng(3).normal(size=(200, 4)).astype(np.float32)
    assert shared_samples(dataset(values[:100]), dataset(values[100:])) == 0
    assert shared_samples(dataset(values[:100]), dataset(values[98:])) == 2
    with pytest.raises(DataRejected, match=r"2 of the 102 samples of --data are also in the training data"):
        check_disjoint(dataset(values[:100]), dataset(values[98:]), "--data")


def test_one_repeated_sample_in_a_hundred_is_told_and_not_refused() -> None:
    values = np.random.default_rng(4).normal(size=(200, 4)).astype(np.float32)
    assert "1 of the 101 samples of --data" in check_disjoint(dataset(values[:100]), dataset(values[99:]), "--data")
    assert check_disjoint(dataset(values[:100]), dataset(values[100:]), "--data") == ""


def test_outputs_are_learned_as_what_they_are() -> None:
    probabilities = np.full((4, 2), 0.5, np.float32)
    scores = np.array([[3.0, -1.0], [0.5, 2.0]], np.float32)
    assert form_of(probabilities, classes=True) == "probabilities"
    assert form_of(scores, classes=True) == "scores"
    assert form_of(scores, classes=False) == "values"
    with pytest.raises(RecipeFailed, match="whole numbers"):
        form_of(np.arange(4), classes=True)


def test_without_labels_the_given_model_is_the_only_teacher() -> None:
    distil = DistilRecipe(student="nets:small", temperature=3.0, soft=0.9)
    assert blend_of(distil, labelled=True) == Blend(3.0, 0.9)
    assert blend_of(distil, labelled=False) == Blend(3.0, 1.0)
    assert blend_of(PruneRecipe(), labelled=True) == Blend(2.0, 0.5)
