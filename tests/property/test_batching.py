"""Requests that are merged are answered as they would be alone."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import runtime
from fleet_protocol.tensors import TensorSpec
from runtime import InferenceFailed, Model
from runtime.engine import Array
from runtime.hosting.batching import batched, most_worth
from tests.support import models
from tests.support.engines import ScriptedEngine
from tests.support.waiting import until

WAIT_S = 20.0
ROWS = TensorSpec(name="x", datatype="FP32", shape=(-1, -1))
SUMS = TensorSpec(name="y", datatype="FP32", shape=(-1, 2))


class Gated:
    """An engine that sums each row, says NaN and inputs it cannot take, and holds the first run until it is told."""

    def __init__(self, *, refuses: float | None = None, misshapes: bool = False) -> None:
        self.go = threading.Event()
        self.runs: list[int] = []
        self._refuses, self._misshapes = refuses, misshapes
        self.engine = ScriptedEngine(self._answer, inputs=(ROWS,), outputs=(SUMS,))

    def _answer(self, x: Array) -> Array:
        self.runs.append(len(x))
        if len(self.runs) == 1:
            assert self.go.wait(WAIT_S)
        if self._refuses is not None and (x == self._refuses).any():
            raise InferenceFailed("one of these I do not take")
        answer = np.stack([x.sum(axis=1), x[:, 0]], axis=1).astype(np.float32)
        return answer[:1] if self._misshapes and len(x) > 1 else answer


def ask_all(gated: Gated, requests: list[Array], *, most: int) -> list[Future[dict[str, Array]]]:
    """All of them, while the first run is held; then all are let go."""
    model = batched(Model(gated.engine), most=most)
    waiting = model._engine._waiting  # type: ignore[union-attr]  # what a test must see, and nobody else
    with ThreadPoolExecutor(len(requests) + 1) as threads:
        first = threads.submit(model, {"x": np.zeros((1, 3), np.float32)})
        until(lambda: gated.runs, "the first one runs")
        asked = []
        for at, request in enumerate(requests, 1):
            asked.append(threads.submit(model, {"x": request}))
            until(lambda at=at: len(waiting) == at, "it waits")  # type: ignore[misc]  # a default in a lambda
        gated.go.set()
        first.result(WAIT_S)
        for each in asked:
            each.exception(WAIT_S)
    return asked


requests = st.lists(st.tuples(st.integers(1, 4), st.sampled_from([2, 3]), st.integers(0, 1000)), min_size=1, max_size=6).map(
    lambda shapes: [np.random.default_rng(seed).integers(-9, 9, (rows, wide)).astype(np.float32) for rows, wide, seed in shapes]
)


@settings(max_examples=40, deadline=None)
@given(requests, st.integers(2, 12))
def test_merged_answers_are_those_of_each_alone(asked: list[Array], most: int) -> None:
    gated = Gated()
    answers = ask_all(gated, asked, most=most)
    for request, answer in zip(asked, answers, strict=True):
        expected = np.stack([request.sum(axis=1), request[:, 0]], axis=1)
        np.testing.assert_array_equal(answer.result()["y"], expected)
    assert sum(gated.runs) == 1 + sum(len(request) for request in asked)
    assert all(size <= max(most, 4) for size in gated.runs)


def test_what_waits_is_run_together_and_other_shapes_apart() -> None:
    gated = Gated()
    ask_all(gated, [np.zeros((2, 3), np.float32), np.zeros((1, 2), np.float32), np.zeros((3, 3), np.float32)], most=8)
    assert gated.runs == [1, 5, 1]


def test_no_more_than_may_are_run_together() -> None:
    gated = Gated()
    ask_all(gated, [np.zeros((3, 3), np.float32)] * 3, most=6)
    assert gated.runs == [1, 6, 3]


def test_one_bad_request_never_fails_anothers() -> None:
    gated = Gated(refuses=666.0)
    good, bad = np.ones((1, 3), np.float32), np.full((1, 3), 666.0, np.float32)
    first, second, third = ask_all(gated, [good, bad, good], most=8)
    assert first.result()["y"].tolist() == third.result()["y"].tolist() == [[3.0, 1.0]]
    assert isinstance(second.exception(), InferenceFailed)
    assert gated.runs == [1, 3, 1, 1, 1]


def test_an_answer_that_cannot_be_split_is_asked_for_one_by_one() -> None:
    gated = Gated(misshapes=True)
    answers = ask_all(gated, [np.full((1, 3), at, np.float32) for at in range(3)], most=8)
    assert [answer.result()["y"][0, 1] for answer in answers] == [0.0, 1.0, 2.0]


def test_a_request_that_finds_the_engine_idle_runs_at_once_and_alone() -> None:
    gated = Gated()
    gated.go.set()
    model = batched(Model(gated.engine), most=8)
    for _ in range(3):
        model({"x": np.zeros((2, 3), np.float32)})
    assert gated.runs == [2, 2, 2]
    model.close()
    assert gated.engine.closed.is_set()


def test_a_real_model_answers_merged_what_it_answers_alone(tmp_path: Path) -> None:
    path = models.mlp_classifier(tmp_path / "m.onnx")
    model, alone = batched(runtime.load(path, threads=1), most=16), runtime.load(path, threads=1)
    inputs = [models.samples(1 + at % 3, seed=at)[0] for at in range(200)]
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda pixels: model({"pixels": pixels})["scores"], inputs))
    for pixels, scores in zip(inputs, answers, strict=True):
        np.testing.assert_allclose(scores, alone({"pixels": pixels})["scores"], atol=1e-6)
    model.close()


def test_a_model_of_a_fixed_batch_is_left_as_it_is() -> None:
    fixed = TensorSpec(name="x", datatype="FP32", shape=(1, 3))
    model = Model(ScriptedEngine(lambda x: x, inputs=(fixed,)))
    assert batched(model, most=8) is model
    with pytest.raises(ValueError, match="most = 0"):
        batched(model, most=0)


def test_merging_is_worth_it_where_tuning_saw_a_gain() -> None:
    assert most_worth({2: 1.5, 4: 1.9, 8: 1.21, 16: 1.2}) == 8
    assert most_worth({2: 1.1, 4: 1.0}) == most_worth({}) == 1
