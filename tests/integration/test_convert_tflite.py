"""Variants for LiteRT, made by the whole pipeline: measured like the others, taken by the device's gate, left out by name."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import converters
from converters.errors import SettingsRejected
from converters.judging.answering import Answering
from converters.report.explain import explanation
from converters.tflite import emit, prepare
from edgeward.cli import main
from fleet_io.bundle_directory import Bundle, open_bundle
from runtime import load
from runtime.gate import GateRequest, ModelFile, examine
from tests.support import models

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "examples" / "digits" / "digits-v1.onnx"
DATA = ROOT / "examples" / "digits" / "digits.npz"
NAMES = ("tflite-float32", "tflite-int8", "tflite-int8-dynamic", "tflite-int8-weights")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("tflite") / "digits-1.0.0"
    return converters.convert(MODEL, DATA, model="digits", version="1.0.0", out=out, tflite=True, prefer="tflite-int8")


def test_all_litert_variants_ship_within_half_a_point_of_float(bundle: Bundle) -> None:
    report = converters.read_report(bundle)
    accuracies = {each.name: each.accuracy.value for each in report.variants if each.accuracy is not None}
    assert set(NAMES) < set(accuracies)
    assert all(each.shipped for each in report.variants)
    assert min(accuracies.values()) >= accuracies["float32"] - 0.005
    assert report.preferred == bundle.manifest.variants[0].name == "tflite-int8"


def test_the_manifest_says_what_they_are(bundle: Bundle) -> None:
    for name in NAMES:
        variant = bundle.manifest.variant(name)
        assert variant is not None
        assert variant.format == "tflite"
        assert variant.file.path == f"variants/{name}.tflite"
        assert variant.file.media_type == "application/vnd.edgeward.model.tflite"
        assert bundle.path(variant.file).read_bytes()[4:8] == b"TFL3"
    assert {"ai-edge-litert", "ai-edge-quantizer", "flatbuffers"} < set(bundle.manifest.lineage.tools)


def test_quantized_ones_are_at_most_a_third_of_float(bundle: Bundle) -> None:
    ratios = {each.name: each.size_ratio for each in converters.read_report(bundle).variants}
    for name in NAMES[1:]:
        assert ratios[name] is not None
        assert ratios[name] <= 0.30  # type: ignore[operator]  # not None, as was asserted


@pytest.mark.parametrize("name", NAMES)
def test_the_runtime_sees_the_models_own_inputs_and_outputs_with_a_free_batch(bundle: Bundle, name: str) -> None:
    variant = bundle.manifest.variant(name)
    assert variant is not None
    model = load(bundle.path(variant.file))
    try:
        assert model.inputs == bundle.manifest.inputs
        assert model.outputs == bundle.manifest.outputs
        for count in (1, 7, 3):
            answer = model({"pixels": np.zeros((count, 1, 8, 8), np.float32)})["probabilities"]
            assert answer.shape == (count, 10)
            np.testing.assert_allclose(answer.sum(axis=1), 1, atol=0.02)
    finally:
        model.close()


def test_the_runtime_sees_several_inputs_and_outputs_in_the_models_order(tmp_path: Path) -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4]) for name in ("b", "a", "z", "m", "c")]
    nodes = [
        helper.make_node("Relu", ["b"], ["z"]),
        helper.make_node("Sub", ["a", "b"], ["m"]),
        helper.make_node("Neg", ["a"], ["c"]),
    ]
    made = helper.make_graph(nodes, "several", values[:2], values[2:])
    source = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (tmp_path / "m.tflite").write_bytes(emit(prepare(source)))
    model = load(tmp_path / "m.tflite")
    try:
        assert [spec.name for spec in model.inputs] == ["b", "a"]
        assert [spec.name for spec in model.outputs] == ["z", "m", "c"]
        answer = model({"b": np.full((2, 4), 3, np.float32), "a": np.full((2, 4), 5, np.float32)})
        assert {name: float(each[1, 1]) for name, each in answer.items()} == {"z": 3.0, "m": 2.0, "c": -5.0}
    finally:
        model.close()


@pytest.mark.parametrize("name", NAMES)
def test_the_devices_gate_takes_them(bundle: Bundle, name: str) -> None:
    variant = bundle.manifest.variant(name)
    assert variant is not None
    request = GateRequest(
        candidate=ModelFile(path=bundle.path(variant.file), session_options={}),
        golden=bundle.path(bundle.manifest.golden.file),
        tolerance=variant.tolerance,
        min_accuracy=None,
        max_regression=0.1,
        baseline=None,
    )
    verdict = examine(request, timeout_s=60, memory_bytes=4 * 1024**3)
    assert verdict.passed, verdict.reason


def test_the_same_inputs_give_the_same_files_in_another_process(bundle: Bundle, tmp_path: Path) -> None:
    given = ["--data", DATA, "--name", "digits", "--version", "1.0.0", "--out", tmp_path / "b", "--tflite", "--json"]
    subprocess.run(
        [sys.executable, "-m", "edgeward", "convert", str(MODEL), *map(str, given)],
        check=True, capture_output=True, env={"PYTHONHASHSEED": "7"}, cwd=ROOT, timeout=100,
    )  # fmt: skip
    again = open_bundle(tmp_path / "b")
    for name in NAMES:
        first, second = bundle.manifest.variant(name), again.manifest.variant(name)
        assert first is not None
        assert second is not None
        assert first.file.digest == second.file.digest
        assert first.accuracy == second.accuracy


def classifier(path: Path, *extra: onnx.NodeProto, name: str = "scores") -> Path:
    """A linear classifier over 64 features, with these nodes behind it."""
    weights = np.random.default_rng(0).normal(size=(64, 10)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["pixels", "w"], ["products"], name="product"), *extra]
    made = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 64])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


def odd() -> list[onnx.NodeProto]:
    """Nodes of which one will never have a form: it draws by chance, though nothing that could be seen."""
    return [
        helper.make_node("RandomNormalLike", ["products"], ["noise"], name="odd", scale=1e-30),
        helper.make_node("Add", ["products", "noise"], ["scores"]),
    ]


def samples(path: Path) -> Path:
    points, labels = models.samples(200)
    np.savez(path, pixels=points, label=labels)
    return path


def converted(tmp_path: Path, model: Path, **given: Any) -> Bundle:
    data = samples(tmp_path / "data.npz")
    return converters.convert(model, data, model="m", version="1.0.0", out=tmp_path / "b", budget=1.0, tflite=True, **given)


def test_an_operator_that_is_lacking_leaves_the_variants_out_and_is_named(tmp_path: Path) -> None:
    model = classifier(tmp_path / "m.onnx", *odd())
    made = converted(tmp_path, model)
    warnings = converters.read_report(made).warnings
    assert {variant.name for variant in made.manifest.variants} <= {"float32", "int8-static", "int8-weights"}
    for name in NAMES:
        assert any(
            f"{name} was left out: it cannot be made: TFLite variants have no form for RandomNormalLike 'odd'" in each
            for each in warnings
        )


def test_a_litert_variant_cannot_be_preferred_where_none_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(SettingsRejected, match="variants for LiteRT were not asked for"):
        converters.convert(MODEL, DATA, model="m", version="1.0.0", out=tmp_path / "b", prefer="tflite-int8", tflite=False)


def test_where_nobody_asked_a_lacking_operator_costs_one_quiet_note(tmp_path: Path) -> None:
    model = classifier(tmp_path / "m.onnx", *odd())
    made = converters.convert(model, samples(tmp_path / "d.npz"), model="m", version="1.0.0", out=tmp_path / "b", budget=1.0)
    report = converters.read_report(made)
    assert not [each.name for each in report.variants if "tflite" in each.name]
    assert not [each for each in report.warnings if "tflite" in each.lower()]
    assert len(report.notes) == 1
    assert (
        "No variants for LiteRT: tflite-int8 cannot be made: TFLite variants have no form for RandomNormalLike"
        in report.notes[0]
    )
    assert report.notes[0] in "\n".join(explanation(report, None))
    assert "RandomNormalLike &#x27;odd&#x27;" in (made.directory / "parity.html").read_text(encoding="utf-8")


def test_a_variant_that_nobody_asked_for_is_left_out_with_its_reason_and_float_stands_in(tmp_path: Path) -> None:
    data = samples(tmp_path / "d.npz")
    made = converters.convert(
        classifier(tmp_path / "m.onnx", helper.make_node("Identity", ["products"], ["scores"])), data,
        model="m", version="1.0.0", out=tmp_path / "b", evaluate=exactness(data),
    )  # fmt: skip
    assert "tflite-float32" in {variant.name for variant in made.manifest.variants}
    report = converters.read_report(made)
    left = {each.name: each.reason for each in report.variants if not each.shipped}
    assert {"tflite-int8", "tflite-int8-weights"} <= set(left)
    assert "of exactness" in left["tflite-int8"]
    assert not [each for each in report.warnings if each.startswith("tflite")]


def exactness(data: Path) -> Callable[[Answering], float]:
    """A metric that takes float's own answers only."""
    with np.load(data) as arrays:
        pixels = arrays["pixels"]
    first: list[Any] = []

    def exactness(model: Answering) -> float:
        first.append(model(pixels))
        return float(np.abs(first[-1] - first[0]).max() < 1e-4)

    return exactness


def test_the_command_makes_the_two_that_pay_unless_told_otherwise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def names(*more: str) -> set[str]:
        given = ["--data", DATA, "--name", "d", "--version", "1.0.0", "--out", tmp_path / f"b{len(more)}", "--json", *more]
        with pytest.raises(SystemExit) as ended:
            main([str(each) for each in ("convert", MODEL, *given)])
        assert ended.value.code == 0
        return {each["name"] for each in json.loads(capsys.readouterr().out)["report"]["variants"]} & set(NAMES)

    assert names() == {"tflite-int8", "tflite-int8-weights"}
    assert names("--no-tflite") == set()
