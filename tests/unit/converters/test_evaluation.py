"""Running and judging variants; latency by a stopwatch of our own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from converters.data.calibration import make_dataset
from converters.errors import DataRejected, RecipeFailed, SourceRejected
from converters.judging.evaluation import batch_size, class_output, judge, latencies, load_source, loaded_again, ratio, run
from fleet_protocol.tensors import TensorSpec
from runtime import InferenceFailed, Model, load
from tests.support.conv_models import graph_of
from tests.support.models import custom_operator, identity, linear_classifier, samples, two_inputs

SCORES = (TensorSpec(name="y", datatype="FP32", shape=(-1, 3)),)
LABELS = np.array([0, 1, 2])
PROBABILITIES = {"y": np.eye(3, dtype=np.float32)}
LOGITS = {"y": np.eye(3, dtype=np.float32) * 9}


def test_outputs_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    model = load(linear_classifier(tmp_path / "m.onnx"), threads=1)
    data = make_dataset({"pixels": samples(33)[0]}, model.inputs)
    one, many = run(model, data, batch=1), run(model, data, batch=16)
    assert one["scores"].shape == (33, 10)
    np.testing.assert_allclose(one["scores"], many["scores"], atol=1e-5)


def test_several_inputs_and_outputs_run(tmp_path: Path) -> None:
    model = load(two_inputs(tmp_path / "m.onnx"))
    data = make_dataset({name: np.ones((5, 2), np.float32) for name in ("left", "right")}, model.inputs)
    assert {name: values.shape for name, values in run(model, data, batch=2).items()} == {"total": (5, 2), "largest": (5,)}


def test_a_fixed_batch_of_one_runs_sample_by_sample(tmp_path: Path) -> None:
    model = load(identity(tmp_path / "m.onnx", shape=(1, 4)))
    size = batch_size(model.inputs, tmp_path / "m.onnx")
    data = make_dataset({"x": np.arange(12, dtype=np.float32).reshape(3, 4)}, model.inputs)
    assert size == 1
    np.testing.assert_array_equal(run(model, data, batch=size)["y"], data.inputs["x"])


@pytest.mark.parametrize(("inner", "samples"), [(0, 64), (1024, 64), (2 * 1024**2, 32), (200 * 1024**2, 1)])
def test_fewer_samples_are_run_at_once_where_their_inner_values_are_large(inner: int, samples: int) -> None:
    spec = TensorSpec(name="x", datatype="FP32", shape=(-1, 4))
    assert batch_size((spec,), Path("m.onnx"), lambda: inner) == samples


def test_answers_of_other_shapes_are_no_answers_to_compare(tmp_path: Path) -> None:
    """As many columns as the sum of the samples says: there are detectors that give as many boxes as they see."""
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["count"], to=TensorProto.INT64),
        helper.make_node("Unsqueeze", ["count", "first"], ["end"]),
        helper.make_node("Slice", ["x", "start", "end", "axes"], ["y"]),
    ]
    constants = {"first": np.array([0]), "start": np.array([0]), "axes": np.array([1])}
    path = tmp_path / "m.onnx"
    onnx.save(graph_of(nodes, constants, x=["n", 4], y=["n", "columns"]), path)
    with load(path) as model, pytest.raises(RecipeFailed, match=r"in the shape \[1, 3\] after \[1, 2\]"):
        run(model, make_dataset({"x": np.array([[2.0] * 4, [3.0] * 4], np.float32)}, model.inputs), batch=1)


@pytest.mark.parametrize("shape", [(8, 4), ()])
def test_an_input_without_a_free_first_axis_is_refused(shape: tuple[int, ...]) -> None:
    spec = TensorSpec(name="x", datatype="FP32", shape=shape)
    with pytest.raises(SourceRejected, match="fixes its first axis"):
        batch_size((spec,), Path("m.onnx"))


def test_a_custom_operator_is_refused_with_the_users_own_path(tmp_path: Path) -> None:
    path = custom_operator(tmp_path / "work.onnx")
    with pytest.raises(SourceRejected, match=r"^mine\.onnx cannot be run") as caught:
        load_source(path, Path("mine.onnx"))
    assert str(path) not in str(caught.value)


def test_probabilities_and_labels_make_classes_and_bare_values_do_not() -> None:
    assert class_output(SCORES, PROBABILITIES, None) == "y"
    assert class_output(SCORES, LOGITS, LABELS) == "y"
    assert class_output(SCORES, LOGITS, None) is None


def test_class_numbers_are_classes() -> None:
    spec = TensorSpec(name="y", datatype="INT64", shape=(-1,))
    assert class_output((spec,), {"y": np.array([2, 0])}, None) == "y"


def test_a_label_beyond_the_models_classes_is_named() -> None:
    with pytest.raises(DataRejected, match=r"has the label 3, but .* has 3 classes, 0 to 2"):
        class_output(SCORES, LOGITS, np.array([0, 1, 3]))


def test_labels_for_a_model_that_gives_no_classes_are_refused() -> None:
    spec = TensorSpec(name="y", datatype="FP32", shape=(-1, 1))
    with pytest.raises(DataRejected, match="no row of class scores"):
        class_output((spec,), {"y": np.zeros((3, 1), np.float32)}, LABELS)


def test_quality_counts_against_labels_and_float() -> None:
    outputs = {"y": np.eye(3, dtype=np.float32)[[0, 1, 1]]}
    quality = judge(PROBABILITIES, outputs, LABELS, "y")
    assert quality.accuracy == pytest.approx(2 / 3)
    assert quality.agreement == pytest.approx(2 / 3)
    assert quality.right is not None
    assert quality.right.tolist() == [True, True, False]


@pytest.mark.parametrize(("columns", "guess"), [(3, pytest.approx(2 / 3)), (101, None)])
def test_agreement_is_guessed_at_where_the_first_output_may_be_class_scores(columns: int, guess: object) -> None:
    reference = {"y": 2 * np.eye(columns, dtype=np.float32)[:3]}
    quality = judge(reference, {"y": reference["y"][[0, 1, 1]]}, None, None)
    assert quality.guess == guess
    assert (quality.agreement, quality.accuracy) == (None, None)


def test_nan_is_no_answer() -> None:
    with pytest.raises(RecipeFailed, match="answers NaN or infinity"):
        judge(PROBABILITIES, {"y": np.full((3, 3), np.nan, np.float32)}, LABELS, "y")


class Workshop:
    """A stopwatch, and models whose calls move it on by known seconds; the machine gets slower with every round."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slowness = 1.0

    def read(self) -> float:
        return self.now

    def model(self, seconds: float) -> object:
        def call(inputs: object) -> dict[str, object]:
            self.now += seconds * self.slowness
            self.slowness *= 1.001
            return {}

        return call


def test_latency_is_compared_in_turns_so_that_a_slowing_machine_does_not_matter() -> None:
    workshop = Workshop()
    data = make_dataset({"x": np.zeros((4, 1), np.float32)}, (TensorSpec(name="x", datatype="FP32", shape=(-1, 1)),))
    models = {"float32": workshop.model(0.010), "int8": workshop.model(0.012)}
    measured = latencies(models, data, seconds=1.0, stopwatch=workshop.read, clock=workshop.read)  # type: ignore[arg-type]  # calls are all it takes
    assert measured["int8"] / measured["float32"] == pytest.approx(1.2, rel=0.01)


def test_a_moment_of_other_work_does_not_count() -> None:
    workshop = Workshop()
    workshop.slowness = 50.0
    data = make_dataset({"x": np.zeros((4, 1), np.float32)}, (TensorSpec(name="x", datatype="FP32", shape=(-1, 1)),))

    def quick(inputs: object) -> dict[str, object]:
        workshop.now += 0.001 * workshop.slowness
        workshop.slowness = max(1.0, workshop.slowness / 2)
        return {}

    measured = latencies({"float32": quick}, data, seconds=1.0, stopwatch=workshop.read, clock=workshop.read)  # type: ignore[dict-item]  # as above
    assert measured["float32"] == pytest.approx(0.001)


def test_weights_that_another_model_pushed_out_of_the_cache_do_not_count() -> None:
    workshop, last = Workshop(), [""]
    data = make_dataset({"x": np.zeros((4, 1), np.float32)}, (TensorSpec(name="x", datatype="FP32", shape=(-1, 1)),))

    def model(name: str, *, cold: float) -> object:
        def call(inputs: object) -> dict[str, object]:
            workshop.now += 0.0001 if last[0] == name else cold
            last[0] = name
            return {}

        return call

    models = {"float32": model("float32", cold=0.0002), "int8": model("int8", cold=0.0009)}
    measured = latencies(models, data, seconds=0.1, stopwatch=workshop.read, clock=workshop.read)  # type: ignore[arg-type]  # as above
    assert measured["int8"] == pytest.approx(measured["float32"])


def test_timing_stops_after_the_time_it_was_given() -> None:
    workshop = Workshop()
    data = make_dataset({"x": np.zeros((4, 1), np.float32)}, (TensorSpec(name="x", datatype="FP32", shape=(-1, 1)),))
    latencies({"float32": workshop.model(0.5)}, data, seconds=1.0, stopwatch=workshop.read, clock=workshop.read)  # type: ignore[dict-item]  # as above
    assert 3.5 <= workshop.now <= 6.0  # at least seven rounds, whatever they cost, and no more after the time is over


def test_a_round_that_the_machine_slowed_says_nothing_about_either_model() -> None:
    slow = np.where(np.arange(60) % 3, 1.0, 9.0)
    found = ratio(0.0105 * slow, 0.0100 * slow)
    assert (found.value, found.low, found.high) == pytest.approx((1.05, 1.05, 1.05))


def test_rounds_that_disagree_leave_the_verdict_open() -> None:
    found = ratio(np.where(np.arange(30) % 2, 0.9, 1.2), np.ones(30))
    assert found.low < 1.0 < found.high


def test_a_model_is_loaded_anew_and_closed_each_time_it_is_timed_again(tmp_path: Path) -> None:
    path, opened = linear_classifier(tmp_path / "m.onnx"), list[Model]()

    def fresh() -> Model:
        opened.append(load(path, threads=1))
        return opened[-1]

    with load(path) as model:
        data = make_dataset({"pixels": samples(4)[0]}, model.inputs)
    one, other = loaded_again(fresh, fresh, data, seconds=0.001)
    assert len(one) == len(other) >= 4 * 7
    assert len({id(model) for model in opened}) == 8
    for model in opened:
        with pytest.raises(InferenceFailed, match="closed"):
            model(next(data.batches(1)))
