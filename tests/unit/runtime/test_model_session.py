"""Asking a model by one array, in an event loop, and in batches."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from fleet_protocol.tensors import DataType, TensorSpec
from runtime import InferenceFailed, InvalidInput, Model
from runtime.engine import Array
from runtime.session import INLINE_S
from tests.support.engines import ScriptedEngine, fixed

ROW = TensorSpec(name="x", datatype="FP32", shape=(-1, 2))
SUM = TensorSpec(name="sum", datatype="FP32", shape=(-1,))


class Seen:
    """Adds up each sample, and remembers what it was asked and where."""

    def __init__(self, shape: tuple[int, ...] = (-1, 2)) -> None:
        spec = TensorSpec(name="x", datatype="FP32", shape=shape)
        self.batches: list[int] = []
        self.threads: list[int] = []
        self.model = Model(ScriptedEngine(self._answer, inputs=(spec,), outputs=(SUM,)))

    def _answer(self, x: Array) -> Array:
        self.batches.append(len(x))
        self.threads.append(threading.get_ident())
        total: Array = x.sum(axis=1)
        return total


def two_headed() -> Model:
    """Two inputs, two outputs."""

    class Both(ScriptedEngine):
        def run(self, inputs: dict[str, Array]) -> list[Array]:
            return [inputs["x"] + inputs["z"], inputs["x"] - inputs["z"]]

    specs = tuple(TensorSpec(name=name, datatype="FP32", shape=(-1, 2)) for name in ("x", "z", "plus", "minus"))
    return Model(Both(lambda x: x, inputs=specs[:2], outputs=specs[2:]))


def test_one_array_in_is_one_array_out() -> None:
    np.testing.assert_array_equal(Seen().model.predict(np.array([[1, 2], [3, 4]], np.float32)), [3, 7])


def test_lists_become_arrays_of_the_wanted_type() -> None:
    np.testing.assert_array_equal(Seen().model.predict([[1, 2], [3, 4]]), [3, 7])


def test_an_array_of_another_type_is_still_refused() -> None:
    with pytest.raises(InvalidInput, match=r"Input x is FP64; wanted x: FP32\[\?, 2\]"):
        Seen().model.predict(np.zeros((1, 2)))


@pytest.mark.parametrize("wrong", [[[1, 2], [3]], "text", [["a", "b"]], {"y": [[1, 2]]}, None])
def test_what_is_no_array_is_refused(wrong: object) -> None:
    with pytest.raises(InvalidInput):
        Seen().model.predict(wrong)


def echo(datatype: DataType) -> Model:
    spec = TensorSpec(name="x", datatype=datatype, shape=(-1,))
    return Model(ScriptedEngine(lambda x: x, inputs=(spec,), outputs=(spec,)))


@pytest.mark.parametrize(
    ("datatype", "values"),
    [
        ("INT64", [1.5]),
        ("INT64", ["1"]),
        ("INT64", [2**64]),
        ("INT8", [128]),
        ("UINT8", [-1]),
        ("BOOL", [1]),
        ("BOOL", ["no"]),
        ("FP32", ["1"]),
        ("FP16", [70000.0]),
        ("FP32", [1e39]),
        ("FP32", [1j]),
    ],
)
def test_a_list_that_would_become_other_values_is_refused(datatype: DataType, values: list[object]) -> None:
    with pytest.raises(InvalidInput, match="Input x cannot be made of this"):
        echo(datatype).predict(values)


@pytest.mark.parametrize(
    ("datatype", "values"),
    [("INT64", []), ("INT8", [-128, 127]), ("UINT64", [2**64 - 1]), ("BOOL", [True]), ("FP16", [1, 2.5]), ("FP32", [True, 7])],
)
def test_a_list_of_what_the_type_can_hold_is_taken(datatype: DataType, values: list[object]) -> None:
    answer = echo(datatype).predict(values)
    assert isinstance(answer, np.ndarray)
    assert answer.tolist() == values


@pytest.mark.parametrize("wrong", [[np.zeros((1, 2), np.float32)], np.zeros((1, 2), np.float32), "x", None])
def test_the_call_takes_a_mapping_and_says_what_takes_the_only_input(wrong: Any) -> None:
    with pytest.raises(InvalidInput, match=f"The inputs are a {type(wrong).__name__}; wanted a mapping .* goes to `predict`"):
        Seen().model(wrong)


def test_a_model_is_closed_at_the_end_of_its_block() -> None:
    with Seen().model as model:
        model.predict([[1, 2]])
    with pytest.raises(InferenceFailed, match="This model is closed"):
        model.predict([[1, 2]])


def test_several_inputs_come_by_name_and_several_outputs_go_so() -> None:
    model = two_headed()
    answers = model.predict({"x": [[3, 4]], "z": [[1, 1]]})
    assert isinstance(answers, dict)
    assert {name: each.tolist() for name, each in answers.items()} == {"plus": [[4, 5]], "minus": [[2, 3]]}
    with pytest.raises(InvalidInput, match="The model has 2 inputs"):
        model.predict([[1, 2]])


class TestInAnEventLoop:
    def test_the_first_run_leaves_the_loop_and_quick_ones_stay_on_it(self) -> None:
        seen = Seen()
        x = {"x": np.ones((1, 2), np.float32)}
        assert asyncio.run(seen.model.infer_async(x))["sum"].tolist() == [2]
        for _ in range(100):
            seen.model._pace.took(INLINE_S / 10, 8)
        asyncio.run(seen.model.infer_async(x))
        here = threading.get_ident()
        assert [each == here for each in seen.threads] == [False, True]

    def test_a_larger_request_than_those_that_were_quick_leaves_the_loop(self) -> None:
        seen = Seen()
        seen.model._pace.took(INLINE_S / 10, 8)
        asyncio.run(seen.model.infer_async({"x": np.ones((1, 2), np.float32)}))
        asyncio.run(seen.model.infer_async({"x": np.ones((2, 2), np.float32)}))
        here = threading.get_ident()
        assert [each == here for each in seen.threads] == [True, False]

    def test_a_slow_model_never_blocks_the_loop(self) -> None:
        go, turned = threading.Event(), []

        def wait(x: Array) -> Array:
            assert go.wait(10)
            return np.ones((len(x), 3), np.float32)

        model = Model(ScriptedEngine(wait))

        async def both() -> None:
            waiting = asyncio.create_task(model.infer_async({"x": np.ones((1, 2), np.float32)}))
            await asyncio.sleep(0)
            turned.append("the loop goes on")
            go.set()
            await waiting

        asyncio.run(asyncio.wait_for(both(), 20))
        assert turned

    def test_errors_arrive_where_they_are_awaited(self) -> None:
        with pytest.raises(InvalidInput):
            asyncio.run(Seen().model.infer_async({}))

    def test_predict_has_an_async_form(self) -> None:
        assert asyncio.run(Seen().model.predict_async([[1, 2]])).tolist() == [3]  # type: ignore[union-attr]  # one output


class TestBatches:
    def test_every_sample_gets_its_own_answer_in_order(self) -> None:
        seen = Seen()
        answers = [float(each) for each in seen.model.predict_batches(([at, 1] for at in range(10)), batch=4)]  # type: ignore[arg-type]  # one output
        assert (answers, seen.batches) == ([float(at + 1) for at in range(10)], [4, 4, 2])

    def test_no_more_than_one_batch_is_taken_before_its_answers_are(self) -> None:
        taken = 0

        def endless() -> Iterator[list[int]]:
            nonlocal taken
            while True:
                taken += 1
                yield [taken, 0]

        answers = Seen().model.predict_batches(endless(), batch=8)
        for _ in range(9):
            next(answers)
        assert taken == 16

    def test_a_model_of_a_fixed_batch_is_filled_up(self) -> None:
        seen = Seen((3, 2))
        assert [float(each) for each in seen.model.predict_batches([[at, 0] for at in range(4)])] == [0, 1, 2, 3]  # type: ignore[arg-type]  # one output
        assert seen.batches == [3, 3]

    def test_no_samples_are_no_answers(self) -> None:
        assert list(Seen().model.predict_batches([])) == []

    def test_samples_of_different_shapes_say_so(self) -> None:
        with pytest.raises(InvalidInput, match="differ in input x"):
            list(Seen((-1, -1)).model.predict_batches([[1, 2], [1, 2, 3]]))

    def test_a_sample_without_an_input_says_so(self) -> None:
        with pytest.raises(InvalidInput, match="lacks input z"):
            list(two_headed().predict_batches([{"x": [1, 2]}]))

    @pytest.mark.parametrize("batch", [0, -1])
    def test_a_batch_of_nothing_is_refused(self, batch: int) -> None:
        with pytest.raises(InvalidInput, match="asks nothing"):
            next(Seen().model.predict_batches([[1, 2]], batch=batch))

    def test_inputs_without_a_batch_axis_cannot_be_batched(self) -> None:
        with pytest.raises(InvalidInput, match="no common batch axis"):
            next(Seen(()).model.predict_batches([1]))


def test_a_model_knows_its_labels() -> None:
    assert Model(fixed(1, 2, 3), labels=("a", "b", "c")).labels == ("a", "b", "c")
