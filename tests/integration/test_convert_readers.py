"""Readers that every installation has: scikit-learn and TFLite, through their child process; pickles that are not opened."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import skops.io
from sklearn.cluster import KMeans
from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier
from sklearn.linear_model import RidgeClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC

from converters.errors import DataRejected, ReaderMissing, SourceRejected
from converters.sources import Source, Trust, proof, read_source, sklearn_reader
from converters.sources.exchange import needed
from converters.tflite import emit, prepare
from runtime import load
from tests.support import models
from tests.support.tflite_cases import SAMPLES, Case, graph

pytestmark = pytest.mark.filterwarnings("ignore")

TRUSTED = Trust(pickles=True)


def read(given: object, samples: dict[str, Any], tmp_path: Path, trust: Trust | None = None) -> Source:
    (work := tmp_path / f"work{len(list(tmp_path.iterdir()))}").mkdir()
    return read_source(given, lambda: samples, work, trust or Trust())


def fitted(estimator: Any) -> Any:
    pixels, label = models.samples(300)
    return estimator.fit(pixels, label)


def pipeline() -> Any:
    return fitted(make_pipeline(StandardScaler(), MLPClassifier((16,), max_iter=40, random_state=0)))


def points() -> dict[str, Any]:
    return {"pixels": models.samples(64, seed=9)[0]}


def test_a_skops_pipeline_answers_as_in_scikit_learn(tmp_path: Path) -> None:
    estimator = pipeline()
    skops.io.dump(estimator, tmp_path / "m.skops")
    source = read(tmp_path / "m.skops", points(), tmp_path)
    (tmp_path / "m.onnx").write_bytes(source.content())
    model = load(tmp_path / "m.onnx")
    answers = model(points())
    model.close()
    np.testing.assert_allclose(answers["probabilities"], estimator.predict_proba(points()["pixels"]), atol=1e-5)
    assert [node.op_type for node in source.model.graph.node].count("Gemm") == 2


@pytest.mark.parametrize("estimator", [RandomForestClassifier(10), GradientBoostingRegressor(n_estimators=10)], ids=str)
def test_trees_are_read(estimator: Any, tmp_path: Path) -> None:
    assert read(fitted(estimator), points(), tmp_path).tools["skl2onnx"]


@pytest.mark.parametrize(
    "estimator", [make_pipeline(StandardScaler(), LinearSVC()), LinearSVC(), SVC(), RidgeClassifier()], ids=str
)
def test_two_classes_that_one_number_tells_apart_have_a_score_each(estimator: Any, tmp_path: Path) -> None:
    pixels, label = models.samples(300)
    estimator.fit(pixels, label > 4)
    (tmp_path / "m.onnx").write_bytes(read(estimator, points(), tmp_path).content())
    model = load(tmp_path / "m.onnx")
    scores = model(points())["probabilities"]
    model.close()
    second = estimator.decision_function(points()["pixels"])
    np.testing.assert_allclose(scores, np.stack([-second, second], axis=1), rtol=1e-3, atol=1e-3)


def test_a_linear_support_vector_machine_of_many_classes_is_read(tmp_path: Path) -> None:
    assert read(fitted(LinearSVC()), points(), tmp_path).tools["skl2onnx"]


def test_classes_that_have_names_keep_them(tmp_path: Path) -> None:
    pixels, label = models.samples(300)
    estimator = RandomForestClassifier(5).fit(pixels, np.array([f"kind {at}" for at in range(10)])[label])
    assert read(estimator, points(), tmp_path).classes == tuple(f"kind {at}" for at in range(10))


class Evil:
    """Leaves a directory where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self._mark),))


@pytest.mark.parametrize("name", ["m.pkl", "m.joblib", "m.onnx"])
def test_a_pickle_is_not_opened_whatever_it_is_called(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(pickle.dumps(Evil(tmp_path / "opened")))
    with pytest.raises(SourceRejected, match=r"is a pickle, which can run any code.*--trust-pickle"):
        read(tmp_path / name, points(), tmp_path)
    assert not (tmp_path / "opened").exists()


def test_a_trusted_pickle_is_opened(tmp_path: Path) -> None:
    joblib.dump(pipeline(), tmp_path / "m.joblib", compress=3)
    assert read(tmp_path / "m.joblib", points(), tmp_path, TRUSTED).tools["scikit-learn"]


def test_a_pickle_that_is_not_what_it_says_is_named(tmp_path: Path) -> None:
    joblib.dump({"model": 1}, tmp_path / "m.joblib")
    with pytest.raises(SourceRejected, match="holds a dict, and not a scikit-learn estimator"):
        read(tmp_path / "m.joblib", points(), tmp_path, TRUSTED)


def test_what_is_neither_classifier_nor_regressor_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceRejected, match="KMeans is no classifier and no regressor"):
        read(fitted(KMeans(3)), points(), tmp_path)


def test_float64_tables_are_told_what_to_become(tmp_path: Path) -> None:
    with pytest.raises(DataRejected, match=r"float64; the converted model takes float32"):
        read(pipeline(), {"pixels": points()["pixels"].astype(np.float64)}, tmp_path)


def test_the_first_step_that_differs_is_named() -> None:
    samples = points()
    reading = sklearn_reader.read(pipeline(), samples, stages=True)
    assert proof.differing(reading, samples) == ""
    reading.model.graph.node[0].attribute[0].floats[0] += 100
    assert "is off by up to" in proof.differing(reading, samples)
    assert "StandardScaler 'standardscaler'" in proof.first_difference(reading, samples)


def test_a_framework_that_is_missing_is_named_with_its_extra() -> None:
    with pytest.raises(ReaderMissing, match=r"needs no_such_framework.*pip install 'edgeward\[tensorflow\]'"):
        needed("no_such_framework.part", "tensorflow", "a Keras model")


def tflite(path: Path) -> Path:
    case = Case("Conv", [(SAMPLES, 3, 6, 6)], constants={1: np.ones((2, 3, 3, 3), np.float32)})
    path.write_bytes(emit(prepare(graph(case))))
    return path


def test_a_tflite_file_is_read_in_its_child(tmp_path: Path) -> None:
    source = read(tflite(tmp_path / "m.tflite"), {"image": np.ones((8, 3, 6, 6), np.float32)}, tmp_path)
    assert [value.name for value in source.model.graph.input] == ["image"]


def test_a_damaged_tflite_file_is_told(tmp_path: Path) -> None:
    path = tflite(tmp_path / "m.tflite")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(SourceRejected, match="breaks off or is damaged"):
        read(path, {"image": np.ones((8, 3, 6, 6), np.float32)}, tmp_path)


def test_a_state_belongs_to_a_factory_only(tmp_path: Path) -> None:
    with pytest.raises(SourceRejected, match="holds its own weights"):
        read(tflite(tmp_path / "m.tflite"), points(), tmp_path, Trust(state=tmp_path / "w.pt"))
