"""The Python API: any iterable as data, any callable as metric, any model object; and what of it fails clearly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from sklearn.linear_model import LogisticRegression

import converters
from converters.errors import DataRejected, SettingsRejected, SourceRejected
from converters.judging.answering import Answering
from fleet_io.bundle_directory import Bundle
from tests.support import models


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    return models.mlp_classifier(tmp_path / "m.onnx")


def convert(source: object, data: Any, out: Path, **settings: Any) -> Bundle:
    return converters.convert(source, data, model="m", version="1.0.0", out=out, prefer="float32", **settings)


def test_batches_from_a_generator_give_the_bytes_that_arrays_give(classifier: Path, tmp_path: Path) -> None:
    pixels, label = models.samples(300)

    def batches() -> Iterator[dict[str, Any]]:
        for start in range(0, 300, 70):
            yield {"pixels": pixels[start : start + 70], "label": label[start : start + 70]}

    streamed = convert(classifier, batches(), tmp_path / "a")
    whole = convert(classifier, {"pixels": pixels, "label": label}, tmp_path / "b")
    assert streamed.digest == whole.digest


def test_one_array_goes_to_the_only_input(classifier: Path, tmp_path: Path) -> None:
    bundle = convert(classifier, models.samples(100)[0], tmp_path / "out")
    assert bundle.manifest.inputs[0].name == "pixels"


def test_pairs_of_samples_and_labels_are_data(classifier: Path, tmp_path: Path) -> None:
    pixels, label = models.samples(200)
    bundle = convert(classifier, zip(pixels, label, strict=True), tmp_path / "out")
    assert converters.read_report(bundle).samples.labelled


def test_a_function_judges_every_variant(classifier: Path, tmp_path: Path) -> None:
    pixels, label = models.samples(400, seed=5)
    asked = []

    def recall_of_class_three(model: Answering) -> float:
        asked.append(model)
        chosen = model(pixels).argmax(axis=1)
        assert np.array_equal(chosen, model({"pixels": pixels})["scores"].argmax(axis=1))
        return float((chosen[label == 3] == 3).mean())

    bundle = convert(classifier, {"pixels": models.samples(300)[0]}, tmp_path / "out", evaluate=recall_of_class_three)
    assert len(asked) >= 3
    assert {variant.accuracy.metric for variant in bundle.manifest.variants if variant.accuracy} == {"recall_of_class_three"}


def test_a_variant_that_the_function_finds_worse_does_not_ship(classifier: Path, tmp_path: Path) -> None:
    pixels, _ = models.samples(64, seed=5)
    wanted: list[Any] = []

    def sameness(model: Answering) -> float:
        answers = model(pixels)
        wanted.append(answers)
        return 1.0 if np.allclose(answers, wanted[0], atol=1e-6) else 0.9

    bundle = convert(classifier, {"pixels": models.samples(300)[0]}, tmp_path / "out", evaluate=sameness, budget=0.05)
    assert {variant.name for variant in bundle.manifest.variants} == {"float32", "tflite-float32"}
    report = converters.read_report(bundle)
    assert any("of sameness (1.0000 to 0.9000)" in variant.reason for variant in report.variants)


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        (lambda model: 1 / 0, "raised ZeroDivisionError"),
        (lambda model: float("nan"), "gave nan"),
        (lambda model: "x", "ValueError"),
    ],
)
def test_a_function_that_does_not_judge_stops_the_conversion(metric: Any, said: str, classifier: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsRejected, match=said):
        convert(classifier, {"pixels": models.samples(100)[0]}, tmp_path / "out", evaluate=metric)
    assert not (tmp_path / "out").exists()


def test_a_model_proto_is_a_source(classifier: Path, tmp_path: Path) -> None:
    data = {"pixels": models.samples(100)[0]}
    convert(onnx.load_model(str(classifier)), data, tmp_path / "out")


def test_a_fitted_estimator_is_a_source(tmp_path: Path) -> None:
    pixels, label = models.samples(400)
    estimator = LogisticRegression(max_iter=200).fit(pixels[:200], label[:200])
    bundle = convert(estimator, {"pixels": pixels[200:], "label": label[200:]}, tmp_path / "out")
    assert bundle.manifest.variants[0].name == "float32"
    assert bundle.manifest.lineage.tools["scikit-learn"]
    assert converters.read_report(bundle).tools == bundle.manifest.lineage.tools
    assert [spec.name for spec in bundle.manifest.outputs] == ["probabilities"]


def test_samples_that_are_all_alike_are_told_to_say_little(classifier: Path, tmp_path: Path) -> None:
    alike = np.repeat(models.samples(1)[0], 100, axis=0)
    bundle = convert(classifier, {"pixels": alike}, tmp_path / "out")
    assert any("answers the same to all" in warning for warning in converters.read_report(bundle).warnings)


def test_an_object_that_is_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceRejected, match="A dict is no model that can be read"):
        convert({"a": 1}, {"x": np.zeros((40, 3), np.float32)}, tmp_path / "out")


def _branches(path: Path) -> Path:
    """Two inputs that meet after a layer each, two outputs."""
    chance = np.random.default_rng(0)
    weights = {name: chance.normal(size=(8, 4)).astype(np.float32) for name in ("wa", "wb")}
    weights["wc"] = chance.normal(size=(4, 3)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["a", "wa"], ["ha"]),
        helper.make_node("MatMul", ["b", "wb"], ["hb"]),
        helper.make_node("Add", ["ha", "hb"], ["sum"]),
        helper.make_node("MatMul", ["sum", "wc"], ["scores"]),
        helper.make_node("Sigmoid", ["sum"], ["gate"]),
    ]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 8]) for name in ("a", "b")]
    outputs = [helper.make_tensor_value_info(name, 1, ["batch", size]) for name, size in (("scores", 3), ("gate", 4))]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(v, k) for k, v in weights.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def _pair(count: int = 120) -> dict[str, Any]:
    chance = np.random.default_rng(1)
    return {name: chance.normal(size=(count, 8)).astype(np.float32) for name in ("a", "b")}


@pytest.mark.parametrize("target", ["any", "arm64"])
def test_several_inputs_and_outputs_convert_for_every_processor(target: Any, tmp_path: Path) -> None:
    bundle = convert(_branches(tmp_path / "two.onnx"), _pair(), tmp_path / "out", target=target, budget=0.05)
    assert [spec.name for spec in bundle.manifest.inputs] == ["a", "b"]
    assert [spec.name for spec in bundle.manifest.outputs] == ["scores", "gate"]


def test_inputs_with_different_numbers_of_samples_are_told(tmp_path: Path) -> None:
    data = _pair() | {"b": _pair(60)["b"]}
    with pytest.raises(DataRejected, match="different numbers of samples"):
        convert(_branches(tmp_path / "two.onnx"), data, tmp_path / "out")


def test_constant_activations_convert(classifier: Path, tmp_path: Path) -> None:
    bundle = convert(classifier, {"pixels": np.full((64, 64), 0.5, np.float32)}, tmp_path / "out")
    assert bundle.manifest.variant("float32") is not None


def test_a_single_sample_is_refused(classifier: Path, tmp_path: Path) -> None:
    with pytest.raises(DataRejected, match="The data has 1 samples; at least 32 are needed"):
        convert(classifier, {"pixels": models.samples(1)[0]}, tmp_path / "out")


def test_control_flow_converts_with_what_can_be_made_of_it(tmp_path: Path) -> None:
    branch = [
        helper.make_graph([helper.make_node(kind, ["x"], [kind])], kind, [], [helper.make_tensor_value_info(kind, 1, None)])
        for kind in ("Relu", "Neg")
    ]
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0),
        helper.make_node("Greater", ["total", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["y"], then_branch=branch[0], else_branch=branch[1]),
    ]
    values = [helper.make_tensor_value_info(name, 1, ["batch", 4]) for name in ("x", "y")]
    zero = numpy_helper.from_array(np.array(0, np.float32), "zero")
    model = helper.make_model(
        helper.make_graph(nodes, "g", values[:1], values[1:], [zero]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    data = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    bundle = convert(model, {"x": data}, tmp_path / "out")
    assert bundle.manifest.variants[0].name == "float32"
    report = converters.read_report(bundle)
    assert all(variant.reason for variant in report.variants)


def test_a_wrong_layout_is_told_how_to_turn(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("image", 1, ["batch", 3, 8, 8])
    node = helper.make_node("GlobalAveragePool", ["image"], ["y"])
    graph = helper.make_graph([node], "g", [value], [helper.make_tensor_value_info("y", 1, ["batch", 3, 1, 1])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(DataRejected, match=r"numpy\.transpose\(x, \(0, 3, 1, 2\)\)"):
        convert(model, {"image": np.zeros((40, 8, 8, 3), np.float32)}, tmp_path / "out")
