"""Sequences of different lengths that are run together are answered as each alone, where the model keeps to its mask."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import runtime
from fleet_protocol.tensors import TensorSpec
from runtime import Model
from runtime.engine import Array, Engine
from runtime.hosting.batching import batched
from runtime.hosting.padding import bucket, padding_for
from tests.support import models
from tests.support.waiting import until

WAIT_S = 20.0
Sentence = dict[str, Array]


class Held:
    """A real engine that waits with its first run until it is told to go, and keeps the shapes that it ran."""

    def __init__(self, engine: Engine) -> None:
        self.go = threading.Event()
        self.shapes: list[tuple[int, ...]] = []
        self._engine = engine
        self.inputs, self.outputs = engine.inputs, engine.outputs
        self.description, self.choice = engine.description, engine.choice
        self.close = engine.close

    def run(self, inputs: Sentence) -> list[Array]:
        self.shapes.append(inputs["input_ids"].shape)
        if len(self.shapes) == 1:
            assert self.go.wait(WAIT_S)
        return self._engine.run(inputs)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.masked_encoder(tmp_path_factory.mktemp("padding") / "m.onnx")


def sentence(words: int, *, rows: int = 1, seed: int = 0) -> Sentence:
    ids = np.random.default_rng(seed).integers(1, 50, (rows, words))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def asked_while_busy(
    path: Path, requests: list[Sentence], *, pads: bool = True
) -> tuple[list[Sentence], list[tuple[int, ...]]]:
    """What is answered to requests that all wait for one run, and the shapes that the engine then ran."""
    held: list[Held] = []

    def hold(engine: Engine) -> Engine:
        held.append(Held(engine))
        return held[0]

    model = batched(runtime.load(path, threads=1).through(hold), most=64, pads=pads)
    waiting = model._engine._waiting  # type: ignore[union-attr]  # what a test must see, and nobody else
    with ThreadPoolExecutor(len(requests) + 1) as threads:
        first = threads.submit(model, sentence(1))
        until(lambda: held[0].shapes, "the first one runs")
        asked = []
        for at, request in enumerate(requests, 1):
            asked.append(threads.submit(model, request))
            until(lambda at=at: len(waiting) == at, "it waits")  # type: ignore[misc]  # a default in a lambda
        held[0].go.set()
        first.result(WAIT_S)
        answers = [each.result(WAIT_S) for each in asked]
    model.close()
    return answers, held[0].shapes[1:]


sentences = st.lists(
    st.builds(sentence, st.integers(0, 20), rows=st.integers(1, 3), seed=st.integers(0, 99)), min_size=1, max_size=5
)


@settings(max_examples=30)
@given(asked=sentences)
def test_padded_answers_are_those_of_each_alone(path: Path, asked: list[Sentence]) -> None:
    answers, _ = asked_while_busy(path, asked)
    with runtime.load(path, threads=1) as alone:
        for request, answer in zip(asked, answers, strict=True):
            for name, wanted in alone(request).items():
                assert answer[name].flags.c_contiguous
                np.testing.assert_allclose(answer[name], wanted, atol=1e-5)


def test_lengths_of_one_bucket_go_together_padded_to_the_longest(path: Path) -> None:
    _, shapes = asked_while_busy(path, [sentence(5), sentence(7, rows=2), sentence(9), sentence(6)])
    assert shapes == [(4, 7), (1, 9)]


def test_without_leave_to_pad_only_equal_lengths_go_together(path: Path) -> None:
    _, shapes = asked_while_busy(path, [sentence(5), sentence(7), sentence(5)], pads=False)
    assert shapes == [(2, 5), (1, 7)]


@given(st.integers(0, 5000))
def test_a_bucket_is_the_power_of_two_at_or_above(length: int) -> None:
    size = bucket(length)
    assert size.bit_count() == 1
    assert size >= length
    assert size == 1 or size // 2 < length


def held_by(path: Path, request: Sentence) -> bool:
    with runtime.load(path, threads=1) as model:
        padding = padding_for(model.inputs, model.outputs)
        assert padding is not None
        return padding.holds(model, request)


def test_a_model_that_keeps_to_its_mask_may_be_padded(path: Path) -> None:
    assert held_by(path, sentence(5))
    assert held_by(path, sentence(8, rows=3))


def test_a_model_that_looks_behind_its_mask_may_not(tmp_path: Path) -> None:
    assert not held_by(models.masked_encoder(tmp_path / "m.onnx", keeps_to_mask=False), sentence(5))


def test_a_request_whose_inputs_do_not_agree_proves_nothing(path: Path) -> None:
    ids, mask = sentence(5)["input_ids"], sentence(1)["attention_mask"]
    assert not held_by(path, {"input_ids": ids, "attention_mask": mask})


WORDS, MASK = (TensorSpec(name=name, datatype="INT64", shape=(-1, -1)) for name in ("input_ids", "attention_mask"))


@pytest.mark.parametrize(
    "inputs",
    [
        (WORDS,),
        (WORDS, TensorSpec(name="attention_mask", datatype="INT64", shape=(-1, 128))),
        (WORDS, MASK, TensorSpec(name="speaker", datatype="FP32", shape=(-1, 16))),
        (TensorSpec(name="text", datatype="BYTES", shape=(-1, -1)), MASK),
    ],
)
def test_without_a_mask_or_with_other_inputs_nothing_is_padded(inputs: tuple[TensorSpec, ...]) -> None:
    assert padding_for(inputs, (TensorSpec(name="y", datatype="FP32", shape=(-1, 8)),)) is None


def test_the_older_name_of_a_mask_will_do(tmp_path: Path) -> None:
    with runtime.load(models.masked_encoder(tmp_path / "m.onnx", mask="input_mask")) as model:
        assert isinstance(model, Model)
        padding = padding_for(model.inputs, model.outputs)
    assert padding is not None
    assert padding.along == (True, False)
