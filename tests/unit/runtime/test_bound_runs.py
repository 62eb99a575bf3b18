"""Small tensors in buffers that are used again: the same answers as ever, and each belongs to who asked."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

import runtime
from runtime import InvalidInput
from runtime.engine import Array
from runtime.engines.onnx_buffers import SMALL_BYTES
from tests.support import models

X = np.arange(4, dtype=np.float32).reshape(1, 4)


def test_answers_are_onnxruntimes_and_stay_as_they_are_when_others_are_asked(tmp_path: Path) -> None:
    path = models.mlp_classifier(tmp_path / "m.onnx")
    plain, model = ort.InferenceSession(str(path)), runtime.load(path)
    asked = models.samples(20)[0][:, None]
    answers = [next(iter(model({model.inputs[0].name: each}).values())) for each in asked]
    for each, answer in zip(asked, answers, strict=True):
        np.testing.assert_array_equal(answer, plain.run(None, {model.inputs[0].name: each})[0])


@pytest.mark.usefixtures("restless_threads")
def test_each_of_many_threads_gets_its_own_answers(tmp_path: Path) -> None:
    model, together, wrong = runtime.load(models.identity(tmp_path / "m.onnx")), threading.Barrier(4), list[float]()
    (given,), (answered,) = ([spec.name for spec in specs] for specs in (model.inputs, model.outputs))
    model({given: X})

    def ask(number: int) -> None:
        together.wait(20)
        for turn in range(500):
            mine = np.full((1, 4), number * 1000 + turn, np.float32)
            answer = model({given: mine})[answered]
            if not np.array_equal(answer, mine):
                wrong.append(float(answer[0, 0]))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert wrong == []


def test_other_shapes_layouts_and_sizes_are_answered_too(tmp_path: Path) -> None:
    model = runtime.load(models.identity(tmp_path / "m.onnx"))
    (given,), (answered,) = ([spec.name for spec in specs] for specs in (model.inputs, model.outputs))

    def check(array: Array) -> None:
        for _ in range(3):
            np.testing.assert_array_equal(model({given: array})[answered], array)

    for array in (X, np.ones((3, 4), np.float32), np.asfortranarray(np.arange(16.0, dtype=np.float32).reshape(4, 4)), X + 1):
        check(array)
    check(np.ones((SMALL_BYTES, 4), np.float32))
    check(np.zeros((0, 4), np.float32))
    check(X)


def test_an_output_whose_shape_hangs_on_the_values_is_answered(tmp_path: Path) -> None:
    model = runtime.load(models.nonzero(tmp_path / "m.onnx"))
    for values in np.array([[1, 0, 0, 1], [1, 0, 1, 0], [1, 1, 1, 1], [0, 0, 0, 1], [1, 0, 0, 1]], np.float32):
        assert model({"x": values})["places"].tolist() == [np.flatnonzero(values).tolist()]


def test_a_run_that_fails_says_why_and_the_next_is_answered(tmp_path: Path) -> None:
    model = runtime.load(models.picked(tmp_path / "m.onnx"))
    for _ in range(2):
        assert model({"places": np.array([3, 2])})["picked"].tolist() == [9.0, 4.0]
    for _ in range(2):
        with pytest.raises(InvalidInput, match="out of data bounds"):
            model({"places": np.array([3, 99])})
        assert model({"places": np.array([1, 2])})["picked"].tolist() == [1.0, 4.0]


def test_a_closed_model_says_so_and_who_is_inside_gets_an_answer(tmp_path: Path) -> None:
    engine = runtime.engine.open_engine(models.identity(tmp_path / "m.onnx"), session_options={}, threads=1)
    name = engine.inputs[0].name
    engine.run({name: X})
    bound = engine._bound  # type: ignore[attr-defined]  # what a run that is under way holds
    engine.close()
    assert bound is not None
    np.testing.assert_array_equal(bound.answer({name: X}), X)
