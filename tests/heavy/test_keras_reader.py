"""Keras and SavedModel, with TensorFlow for real: every way to save, what breaks, and what is refused."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import converters
from converters.errors import DataRejected, SourceRejected
from converters.sources import Source, Trust, proof, read_source
from converters.sources.exchange import Reading, Samples
from runtime import load
from tests.support.heavy_models import KERAS, as_keras_2, keras_cnn, numbers

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]


def read(given: object, samples: Samples, tmp_path: Path, trust: Trust | None = None) -> Source:
    (work := tmp_path / "work").mkdir()
    return read_source(given, lambda: samples, work, trust or Trust())


def answers(source: Source, samples: Samples, tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "m.onnx").write_bytes(source.content())
    with contextlib.closing(load(tmp_path / "m.onnx")) as model:
        return dict(model(samples))


@pytest.mark.parametrize("ending", [".keras", ".h5", ""])
@pytest.mark.parametrize("name", sorted(KERAS))
def test_a_saved_model_answers_as_in_keras(name: str, ending: str, tmp_path: Path) -> None:
    build, samples = KERAS[name]
    model, path = build(), tmp_path / f"model{ending}"
    model.save(path) if ending else model.export(path, verbose=False)
    source = read(path, samples, tmp_path)
    assert {value.name for value in source.model.graph.input} == set(samples)
    assert source.tools["tensorflow"]
    got = answers(source, samples, tmp_path)
    arrays = list(samples.values())
    wanted = model({**samples} if name == "two" else arrays[0], training=False)
    if name == "two":
        assert set(got) == {"score", "value"}
        for key, values in got.items():
            np.testing.assert_allclose(values, np.asarray(wanted[key]), atol=1e-4)
    else:
        np.testing.assert_allclose(next(iter(got.values())), np.asarray(wanted), atol=1e-4)


def test_batch_normalisation_is_folded(tmp_path: Path) -> None:
    build, samples = KERAS["cnn"]
    source = read(build(), samples, tmp_path)
    kinds = [node.op_type for node in source.model.graph.node]
    assert "BatchNormalization" not in kinds
    assert kinds.count("Add") == 0
    assert kinds.count("Mul") == 1  # that of swish


def test_what_keras_2_wrote_is_read(tmp_path: Path) -> None:
    path = tmp_path / "old.h5"
    keras_cnn().save(path)
    as_keras_2(path)
    read(path, {"image": numbers(16, 16, 3)}, tmp_path)


def test_the_same_file_gives_the_same_bytes(tmp_path: Path) -> None:
    build, samples = KERAS["two"]
    build().save(tmp_path / "m.keras")
    found = []
    for at in range(2):
        (tmp_path / str(at)).mkdir()
        found.append(read(tmp_path / "m.keras", samples, tmp_path / str(at)).content())
    assert found[0] == found[1]


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_python_code_in_a_file_does_not_run(ending: str, tmp_path: Path) -> None:
    import keras

    given = keras.Input((4,))
    path = tmp_path / f"lambda{ending}"
    keras.Model(given, keras.layers.Lambda(lambda x: x * 2, name="doubled")(given)).save(path)
    with pytest.raises(SourceRejected, match=r"'doubled' is a Lambda.*--trust-pickle"):
        read(path, {"x": numbers(4)}, tmp_path)
    (tmp_path / "trusted").mkdir()
    read(path, {"x": numbers(4)}, tmp_path / "trusted", Trust(pickles=True))


def test_weights_alone_are_no_model(tmp_path: Path) -> None:
    keras_cnn().save_weights(tmp_path / "only.weights.h5")
    with pytest.raises(SourceRejected, match=r"holds weights and no model.*model\.save"):
        read(tmp_path / "only.weights.h5", {"image": numbers(16, 16, 3)}, tmp_path)


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "m.h5"
    keras_cnn().save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(SourceRejected, match="no whole HDF5 file"):
        read(path, {"image": numbers(16, 16, 3)}, tmp_path)


def test_channels_first_data_is_told_how_to_turn(tmp_path: Path) -> None:
    path = tmp_path / "m.keras"
    keras_cnn().save(path)
    with pytest.raises(DataRejected, match=r"numpy\.transpose\(x, \(0, 2, 3, 1\)\)"):
        read(path, {"image": numbers(3, 16, 16)}, tmp_path)


def test_float64_data_is_told_what_to_become(tmp_path: Path) -> None:
    path = tmp_path / "m.keras"
    keras_cnn().save(path)
    with pytest.raises(DataRejected, match=r"float64; the model takes float32"):
        read(path, {"image": numbers(16, 16, 3).astype(np.float64)}, tmp_path)


def test_the_first_layer_that_differs_is_named(tmp_path: Path) -> None:
    from converters.sources import keras_reader

    samples = {"image": numbers(16, 16, 3)}
    reading: Reading = keras_reader.read(keras_cnn(), samples, stages=True)
    assert proof.differing(reading, samples) == ""
    weights = next(each for each in reading.model.graph.initializer if len(each.dims) == 4 and each.dims[1] == 1)
    weights.raw_data = (np.frombuffer(weights.raw_data, np.float32) * 1.1).astype(np.float32).tobytes()
    assert "is off by up to" in proof.differing(reading, samples)
    told = proof.first_difference(reading, samples)
    assert "Conv2D" in told
    assert "all is equal up to ReLU" in told


def test_a_keras_file_becomes_a_bundle(tmp_path: Path) -> None:
    build, samples = KERAS["cnn"]
    build().save(tmp_path / "m.keras")
    bundle = converters.convert(
        tmp_path / "m.keras", samples, model="cnn", version="1.0.0", out=tmp_path / "out", prefer="float32"
    )
    assert bundle.manifest.lineage.tools["keras"]
    assert bundle.manifest.inputs[0].name == "image"
