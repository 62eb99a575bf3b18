"""Graphs of every source become modules that train: each operator against ONNX Runtime, and Keras from file to bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper

import converters
from converters.compression.operators import OPERATORS
from converters.compression.recipes import DistilRecipe, PruneRecipe, QatRecipe, Schedule, SparseRecipe, TrainingRecipe
from converters.compression.trainable import trainable
from converters.compression.training import flat
from converters.errors import SourceRejected
from tests.conformance.test_tflite_operators import CASES, IMAGE, N, ints, numbers
from tests.support.tflite_cases import Case, feeds, graph, run_onnx

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]

DATA = Path(__file__).parents[2] / "examples" / "digits" / "digits.npz"
MORE = [
    Case("Erf", [IMAGE]),
    Case("LayerNormalization", [(N, 3, 4)], {1: numbers(4), 2: numbers(4)}, {"axis": -1}),
    Case("ReduceMin", [IMAGE], attributes={"axes": [2]}, opset=17),
    Case("Reshape", [(N, 4, 6)], {1: ints(-1, 24)}, name="flat"),
    Case("Reshape", [(N, 4, 6)], {1: ints(0, 6, 4)}, name="zero"),
    Case("Split", [IMAGE], {1: ints(1, 3)}, {"axis": 1}, outputs=2, name="uneven"),
    Case("Where", [(N, 3), (N, 3)], {0: np.array([True, False, True])}),
]
KNOWN = [*(case for case in CASES if case.op in OPERATORS and case.dtype is np.float32), *MORE]
REFUSED = {
    "MaxPool-ceil", "AveragePool-ceil", "Gemm-computed-bias", "Gemm-computed", "Gemm-turned", "ReduceSum-nothing",
    "ReduceMean-all", "Reshape-samples", "Transpose-reversed", "Slice-backwards", "Slice-whole", "Slice-opset9", "Pad-reflect",
    "Pad-edge",
}  # fmt: skip
"""Forms of a known operator that have none here."""


def answers(model: onnx.ModelProto, given: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
    module = trainable("m.onnx", model, list(given)).eval()
    with torch.no_grad():
        return [values.numpy() for values in flat(module(*(torch.from_numpy(values) for values in given.values())))]


@pytest.mark.parametrize("case", [case for case in KNOWN if str(case) not in REFUSED], ids=str)
def test_an_operator_answers_as_onnx_runtime_does(case: Case) -> None:
    model = graph(case)
    given = feeds(model, 3, low=case.low, high=case.high)
    for values, wanted in zip(answers(model, given), run_onnx(model, given).values(), strict=True):
        np.testing.assert_allclose(values, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", [case for case in KNOWN if str(case) in REFUSED], ids=str)
def test_a_form_that_cannot_be_trained_is_refused_by_name(case: Case) -> None:
    model = graph(case)
    with pytest.raises(SourceRejected, match=rf"the node .* \({case.op}\) .*\. Give the PyTorch factory"):
        trainable("m.onnx", model, [value.name for value in model.graph.input])


def test_every_operator_of_the_table_has_a_case() -> None:
    assert set(OPERATORS) - {case.op for case in KNOWN if str(case) not in REFUSED} == set()


def test_what_has_no_trainable_form_is_named_with_its_node_and_what_to_do() -> None:
    model = graph(Case("TopK", [(N, 5)], {1: ints(2)}, outputs=2))
    with pytest.raises(
        SourceRejected, match=r"m\.onnx cannot be trained: the node '.*' \(TopK\) has no trainable form here\. Give"
    ):
        trainable("m.onnx", model, [model.graph.input[0].name])


def test_a_dense_layer_takes_the_bias_behind_it_so_that_pruning_sees_one_layer() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Add", ["h", "b"], ["y"])]
    tensors = [onnx.numpy_helper.from_array(values, name) for name, values in (("w", numbers(4, 3)), ("b", numbers(3)))]
    x, y = (helper.make_tensor_value_info(name, 1, ["n", size]) for name, size in (("x", 4), ("y", 3)))
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], tensors), opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    )
    (layer,) = trainable("m.onnx", model, ["x"]).children()
    assert isinstance(layer, torch.nn.Linear)
    assert layer.bias is not None


@pytest.fixture(scope="module")
def digits() -> dict[str, dict[str, NDArray[Any]]]:
    data = np.load(DATA)
    images = {name: np.moveaxis(data[name], 1, -1) for name in ("train_pixels", "pixels")}
    return {
        "train": {"pixels": images["train_pixels"], "label": data["train_label"]},
        "held out": {"pixels": images["pixels"], "label": data["label"]},
    }


def keras_net(train: dict[str, NDArray[Any]], *channels: int, epochs: int) -> Any:
    import keras

    keras.utils.set_random_seed(0)
    layers = [keras.Input((8, 8, 1), name="pixels")]
    for count in channels:
        layers += [keras.layers.Conv2D(count, 3, padding="same"), keras.layers.BatchNormalization(), keras.layers.ReLU()]
    layers += [keras.layers.MaxPooling2D(), keras.layers.Flatten(), keras.layers.Dense(10, activation="softmax")]
    net = keras.Sequential(layers)
    net.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
    net.fit(train["pixels"], train["label"], epochs=epochs, verbose=0)
    return net


def test_a_keras_model_is_pruned_distilled_made_sparse_and_trained_for_integers(
    digits: dict[str, dict[str, NDArray[Any]]], tmp_path: Path
) -> None:
    train = digits["train"]
    keras_net(train, 16, 32, epochs=12).save(tmp_path / "net.keras")
    keras_net(train, 8, epochs=1).save(tmp_path / "small.keras")
    short = Schedule(epochs=10, learning_rate=2e-3)
    recipes: list[TrainingRecipe] = [
        PruneRecipe(amount=0.5, schedule=short),
        DistilRecipe(student=str(tmp_path / "small.keras"), schedule=Schedule(epochs=40, learning_rate=5e-3)),
        SparseRecipe(amount=0.5, schedule=short),
        QatRecipe(schedule=short),
    ]
    bundle = converters.compress(
        tmp_path / "net.keras",
        digits["held out"],
        train,
        recipes,
        model="digits",
        version="1.0.0",
        out=tmp_path / "out",
        budget=0.05,
    )
    report = converters.read_report(bundle)
    given, names = report.variant("float32"), {variant.name for variant in report.variants if variant.shipped}
    assert {"pruned-50-int8-weights", "distilled-int8-weights", "sparse-50-int8-weights", "qat-int8-static"} <= names
    assert given is not None
    for name, share in (("pruned-50-float32", 0.5), ("distilled-float32", 0.6)):
        smaller = report.variant(name)
        assert smaller is not None
        assert (smaller.size or 0) < share * (given.size or 0)
