"""The quick way through a model's checks lets pass what the slow way lets pass, and nothing else."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

import runtime
from runtime.errors import InvalidInput
from tests.support import models

ONE = models.samples(1)[0]
THREE = models.samples(3)[0]


@pytest.fixture
def model(tmp_path: Path) -> runtime.Model:
    """A model that has answered well, so that it knows a shape."""
    loaded = runtime.load(models.linear_classifier(tmp_path / "linear.onnx"))
    loaded({"pixels": ONE})
    return loaded


def test_shapes_may_change_from_call_to_call(model: runtime.Model) -> None:
    for batch in (ONE, THREE, ONE, THREE, THREE):
        assert model({"pixels": batch})["scores"].shape == (len(batch), 10)


@pytest.mark.parametrize(
    "wrong",
    [ONE.astype(np.float64), ONE.astype(">f4"), ONE[:, :63], ONE[0], ONE[np.newaxis], ONE.tolist(), None, np.float32(1)],
    ids=["type", "byte order", "features", "rank below", "rank above", "list", "none", "scalar"],
)
def test_one_good_call_lets_nothing_wrong_pass(model: runtime.Model, wrong: object) -> None:
    for _ in range(2):
        with pytest.raises(InvalidInput, match="wanted"):
            model({"pixels": wrong})  # type: ignore[dict-item]  # wrong on purpose
    assert model({"pixels": ONE})["scores"].shape == (1, 10)


@pytest.mark.parametrize("wrong", [{}, {"pixel": ONE}, {"pixels": ONE, "more": ONE}], ids=["none", "another", "too many"])
def test_one_good_call_lets_no_wrong_name_pass(model: runtime.Model, wrong: dict[str, np.ndarray]) -> None:
    with pytest.raises(InvalidInput, match="wanted exactly"):
        model(wrong)


@pytest.mark.parametrize("kind", [dict, OrderedDict, MappingProxyType])
def test_any_mapping_is_as_good_as_a_dict(model: runtime.Model, kind: type) -> None:
    np.testing.assert_array_equal(model(kind({"pixels": THREE}))["scores"], model({"pixels": THREE})["scores"])


def test_arrays_that_are_not_laid_out_in_order_give_the_same(model: runtime.Model) -> None:
    want = model({"pixels": THREE})["scores"]
    spread = np.zeros((3, 2 * models.FEATURES), np.float32)
    spread[:, ::2] = THREE
    for array in (np.asfortranarray(THREE), spread[:, ::2], THREE.view(np.memmap)):
        np.testing.assert_allclose(model({"pixels": array})["scores"], want, rtol=1e-5)


def test_texts_are_looked_at_every_time(tmp_path: Path) -> None:
    loaded = runtime.load(models.identity(tmp_path / "texts.onnx", 8, ["batch"]))
    good = np.array(["a", "b"], object)
    assert loaded({"x": good})["y"].tolist() == ["a", "b"]
    with pytest.raises(InvalidInput, match="wanted str"):
        loaded({"x": np.array(["a", 1], object)})


def test_several_inputs_and_outputs_keep_their_names(tmp_path: Path) -> None:
    loaded = runtime.load(models.two_inputs(tmp_path / "two.onnx"))
    left, right = np.array([[1, 5]], np.float32), np.array([[2, 1]], np.float32)
    for inputs in ({"left": left, "right": right}, {"right": right, "left": left}):
        answer = loaded(inputs)
        assert answer["total"].tolist() == [[3, 6]]
        assert answer["largest"].tolist() == [1]
    with pytest.raises(InvalidInput, match="right has shape"):
        loaded({"left": left, "right": right[:, :1]})
