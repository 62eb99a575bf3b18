"""An explanation points at what the answer rests on."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from PIL import Image

import runtime
from fleet_protocol.tensors import TensorSpec
from runtime.errors import InvalidInput
from runtime.explain import explain
from runtime.heat_map import draw, png
from runtime.processing.placing import Placement
from tests.support import pictures


class Weighted:
    """Scores that are weighted sums of the input; counts what it is asked."""

    def __init__(self, weights: np.ndarray, shape: tuple[int, ...], *, batches: bool = True) -> None:
        self.inputs = (TensorSpec(name="x", datatype="FP32", shape=(-1 if batches else 1, *shape)),)
        self.outputs = (TensorSpec(name="y", datatype="FP32", shape=(-1, len(weights))),)
        self.weights = weights.reshape(len(weights), -1)
        self.sizes: list[int] = []

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.sizes.append(len(inputs["x"]))
        return {"y": (inputs["x"].reshape(len(inputs["x"]), -1) @ self.weights.T).astype(np.float32)}


def test_in_a_vector_each_features_heat_is_its_own_part_of_the_score() -> None:
    model = Weighted(np.array([[1.0, -2.0, 0.0, 4.0]]), (4,))
    found = explain(model, {"x": np.ones((1, 4), np.float32)})
    assert found.heat.tolist() == [1.0, -2.0, 0.0, 4.0]
    assert (found.score, found.target, found.runs, model.sizes) == (3.0, 0, 5, [1, 4])


def test_with_fewer_runs_than_features_neighbours_are_hidden_together() -> None:
    model = Weighted(np.arange(100.0)[np.newaxis], (100,))
    found = explain(model, {"x": np.ones((1, 100), np.float32)}, runs=11)
    assert found.runs == 11
    assert found.heat[0] == found.heat[9] == sum(range(10))


@pytest.mark.parametrize(("order", "shape"), [("NCHW", (3, 16, 24)), ("NHWC", (16, 24, 3)), ("NHW", (16, 24)), ("NF", (384,))])
def test_in_a_picture_the_heat_lies_where_the_weight_lies(order: Any, shape: tuple[int, ...]) -> None:
    picture = np.zeros((16, 24, 3 if len(shape) == 3 else 1), np.float32)
    picture[10:13, 4:7] = 1.0
    lying = (picture.transpose(2, 0, 1) if order == "NCHW" else picture).reshape(shape)
    model = Weighted(lying[np.newaxis], shape)
    frame = (16, 24) if order == "NF" else None
    given = np.random.default_rng(0).uniform(1, 2, (1, *shape)).astype(np.float32)
    found = explain(model, {"x": given}, order=order, frame=frame, fill=0)
    assert found.heat.shape == (16, 24)
    row, column = np.unravel_index(found.heat.argmax(), found.heat.shape)
    assert 10 <= row < 13
    assert 4 <= column < 7
    assert found.heat[:6].max() == found.heat[:, 14:].max() == 0.0


@pytest.mark.parametrize("runs", [2, 5, 30, 400])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 224, 160), (1, 1, 50), (1, 3, 200)])
def test_no_more_runs_are_taken_than_allowed_and_every_place_is_hidden(runs: int, shape: tuple[int, ...]) -> None:
    model = Weighted(np.ones((1, int(np.prod(shape)))), shape)
    found = explain(model, {"x": np.ones((1, *shape), np.float32)}, runs=runs, fill=0)
    assert sum(model.sizes) == found.runs <= runs
    assert max(model.sizes) <= 32
    assert (found.heat > 0).all()


def test_a_model_without_batches_is_asked_one_by_one() -> None:
    model = Weighted(np.ones((1, 64)), (1, 8, 8), batches=False)
    explain(model, {"x": np.ones((1, 1, 8, 8), np.float32)})
    assert set(model.sizes) == {1}


@pytest.mark.parametrize(
    ("options", "array", "message"),
    [
        ({"runs": 1}, np.ones((1, 1, 8, 8), np.float32), "of 1 runs"),
        ({}, np.ones((2, 1, 8, 8), np.float32), "wants one sample"),
        ({}, np.array([["a"]], object), "wants one sample"),
        ({}, np.full((1, 1, 8, 8), np.nan, np.float32), "y of 0 is nan"),
        ({"target": 7}, np.ones((1, 1, 8, 8), np.float32), "there is no 7"),
        ({"order": "NF"}, np.ones((1, 1, 8, 8), np.float32), "does not lie as NF"),
        ({"order": "NF", "frame": (5, 5)}, np.ones((1, 1, 8, 8), np.float32), r"NF of \(5, 5\)"),
        ({}, np.ones((1, 2, 8, 4, 1), np.float32), "Give the order"),
        ({}, np.ones((1, 2, 8, 4), np.float32), None),
        ({}, np.ones((1, 3, 7, 3), np.float32), "Give the order"),
    ],
)
def test_what_cannot_be_explained_is_said(options: dict[str, Any], array: np.ndarray, message: str | None) -> None:
    model = Weighted(np.ones((1, array[0].size)), array.shape[1:])
    if message is None:
        assert explain(model, {"x": array}, **options).heat.shape == (2, 8)
        return
    with pytest.raises(InvalidInput, match=message):
        explain(model, {"x": array}, **options)


def test_on_the_digits_hiding_the_hottest_pixels_lowers_the_score_more_than_hiding_others() -> None:
    model = runtime.load(pictures.MODEL)
    chance = np.random.default_rng(3)
    hot, others = [], []
    for digit in pictures.digits(20)[0]:
        given = {"pixels": digit[np.newaxis]}
        found = model.explain(digit[np.newaxis])
        order = found.heat.ravel().argsort()[::-1]

        def without(places: np.ndarray, found: Any = found, given: Any = given) -> float:
            hidden = given["pixels"].copy()
            hidden.reshape(-1)[places] = hidden.mean()
            return float(found.score - model({"pixels": hidden})["probabilities"][0, found.target])

        hot.append(without(order[:8]))
        others.append(np.mean([without(chance.permutation(64)[:8]) for _ in range(10)]))
    model.close()
    assert np.mean(hot) > 3 * np.mean(others)
    assert np.mean(np.array(hot) > np.array(others)) >= 0.9


def test_a_heat_map_is_red_over_the_hot_place_of_the_picture_and_blue_over_the_cold_one() -> None:
    heat = np.zeros((10, 10), np.float32)
    heat[2, 7], heat[8, 1] = 1.0, -0.5
    drawn = draw(heat, np.full((300, 300, 3), 100, np.uint8)).astype(int)
    assert drawn.shape == (300, 300, 3)
    assert drawn[75, 225, 0] - drawn[75, 225, 2] > 100
    assert drawn[255, 45, 2] - drawn[255, 45, 0] > 30
    assert drawn[150, 150].tolist() == [100, 100, 100]


def test_a_heat_map_leaves_what_the_model_did_not_see_as_it_is() -> None:
    # 200 × 100 pixels, of which the model saw the middle 100 × 100.
    placement = Placement(100, 200, (100, 200)).moved(100, 100, 0, -50)
    drawn = draw(np.ones((100, 100), np.float32), np.full((100, 200, 1), 90, np.uint8), placement).astype(int)
    assert drawn.shape == (200, 400, 3)  # a small picture is drawn larger
    assert (drawn[:, :98] == 90).all()
    assert (drawn[:, 102:298, 0] > 150).all()
    assert (drawn[:, 302:] == 90).all()


def test_the_png_is_one_that_others_can_read() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (5, 7, 3), np.uint8)
    with Image.open(io.BytesIO(png(pixels))) as opened:
        np.testing.assert_array_equal(np.asarray(opened), pixels)
