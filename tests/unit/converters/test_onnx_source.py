"""What `read_onnx` takes, and the clear word that each bad file gets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from converters.errors import SourceRejected
from converters.graphs.observe import session
from converters.quantizing.quantize import Quantizer
from converters.recipe import StaticRecipe
from converters.sources import read_onnx
from fleet_protocol.digests import digest_of
from tests.support.models import constant, external_data, linear_classifier, samples, truncated


def test_a_good_model_is_read_with_its_digest(tmp_path: Path) -> None:
    path = linear_classifier(tmp_path / "m.onnx")
    source = read_onnx(path)
    assert source.digest.startswith("sha256:")
    assert [value.name for value in source.model.graph.input] == ["pixels"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceRejected, match=r"nothing\.onnx does not exist"):
        read_onnx(tmp_path / "nothing.onnx")


def test_a_directory_is_not_a_model(tmp_path: Path) -> None:
    with pytest.raises(SourceRejected, match="is a directory"):
        read_onnx(tmp_path)


def test_an_empty_file_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").touch()
    with pytest.raises(SourceRejected, match="is empty"):
        read_onnx(tmp_path / "m.onnx")


@pytest.mark.parametrize("content", [b"# Not a model\n", b"\x80\x04\x95pickle", b"PK\x03\x04zip", b"\x00" * 64, b"\xff" * 64])
def test_other_files_are_not_onnx(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(SourceRejected, match="is not an ONNX file"):
        read_onnx(path)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
def test_a_truncated_model_is_told_from_other_files(tmp_path: Path, keep: float) -> None:
    path = truncated(linear_classifier(tmp_path / "whole.onnx"), tmp_path / "half.onnx", keep=keep)
    with pytest.raises(SourceRejected, match=r"half\.onnx .*(breaks off|is not a valid ONNX model|holds no graph)"):
        read_onnx(path)


def test_an_operator_that_onnx_does_not_know_is_named_with_its_node(tmp_path: Path) -> None:
    path = linear_classifier(tmp_path / "m.onnx")
    model = onnx.load(str(path))
    model.graph.node[0].op_type, model.graph.node[0].name = "Frobnicate", "third-layer"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(SourceRejected, match="Name: third-layer OpType: Frobnicate"):
        read_onnx(path)


def test_an_invalid_graph_is_refused(tmp_path: Path) -> None:
    path = linear_classifier(tmp_path / "m.onnx")
    model = onnx.load(str(path))
    model.graph.node[0].input[0] = "nowhere"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(
        SourceRejected, match=r"is not a valid ONNX model: .*'nowhere' of node: name: .* previous nodes\. Export"
    ):
        read_onnx(path)


def test_weights_that_are_inputs_too_as_in_old_files_are_constants_and_quantized(tmp_path: Path) -> None:
    path = linear_classifier(tmp_path / "model.onnx")
    given = onnx.load(path)
    old = onnx.load(path)
    for tensor in old.graph.initializer:
        old.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    old.ir_version = 3
    onnx.save(old, path)
    source = read_onnx(path)
    assert [value.name for value in source.model.graph.input] == [value.name for value in given.graph.input]
    assert source.digest == digest_of(path.read_bytes())
    pixels, _ = samples(64)
    made = onnx.load_from_string(Quantizer(source, batches=lambda: [{"pixels": pixels}]).apply(StaticRecipe()))
    assert "QuantizeLinear" in {node.op_type for node in made.graph.node}
    np.testing.assert_array_equal(
        *(session(each).run(None, {"pixels": pixels})[0] for each in (path.read_bytes(), source.content()))
    )


def test_nan_in_the_weights_is_named_with_its_tensor(tmp_path: Path) -> None:
    path = constant(tmp_path / "m.onnx", float("nan"))
    with pytest.raises(SourceRejected, match="weights 'value' hold 1 NaN"):
        read_onnx(path)


def test_nan_in_a_constant_node_is_found_too(tmp_path: Path) -> None:
    tensor = numpy_helper.from_array(np.array([np.nan, 1, 2, 3], np.float32), "inner")
    nodes = [helper.make_node("Constant", [], ["c"], value=tensor), helper.make_node("Add", ["x", "c"], ["y"])]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in ("x", "y")]
    model = helper.make_model(
        helper.make_graph(nodes, "g", values[:1], values[1:]), opset_imports=[helper.make_opsetid("", 17)]
    )
    model.ir_version = 9
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(SourceRejected, match="'inner' hold 1 NaN"):
        read_onnx(tmp_path / "m.onnx")


def test_external_data_beside_the_model_is_put_inside(tmp_path: Path) -> None:
    plain = read_onnx(linear_classifier(tmp_path / "plain.onnx"))
    source = read_onnx(external_data(tmp_path / "m.onnx", "weights.bin"))
    assert not any(tensor.external_data for tensor in source.model.graph.initializer)
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in plain.model.graph.initializer}
    for tensor in source.model.graph.initializer:
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), weights[tensor.name])


def test_the_digest_covers_the_external_data(tmp_path: Path) -> None:
    path = external_data(tmp_path / "m.onnx", "weights.bin")
    before = read_onnx(path).digest
    data = tmp_path / "weights.bin"
    data.write_bytes(bytes([data.read_bytes()[0] ^ 1]) + data.read_bytes()[1:])
    assert read_onnx(path).digest != before


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/hostname", "a/../../weights.bin"])
def test_external_data_outside_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    (tmp_path / "weights.bin").write_bytes(bytes(4 * 64 * 10))
    path = external_data(folder / "m.onnx", location, write=False)
    with pytest.raises(SourceRejected, match="outside the model's folder"):
        read_onnx(path)


def test_external_data_through_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    (tmp_path / "weights.bin").write_bytes(bytes(4 * 64 * 10))
    (folder / "weights.bin").symlink_to(tmp_path / "weights.bin")
    path = external_data(folder / "m.onnx", "weights.bin", write=False)
    with pytest.raises(SourceRejected, match="outside the model's folder"):
        read_onnx(path)


def test_missing_external_data_is_named(tmp_path: Path) -> None:
    path = external_data(tmp_path / "m.onnx", "weights.bin", write=False)
    with pytest.raises(SourceRejected, match=r"'weights\.bin', which is not beside the model"):
        read_onnx(path)


def test_external_data_that_breaks_off_is_refused(tmp_path: Path) -> None:
    path = external_data(tmp_path / "m.onnx", "weights.bin")
    (tmp_path / "weights.bin").write_bytes((tmp_path / "weights.bin").read_bytes()[:100])
    with pytest.raises(SourceRejected, match="'weights'"):
        read_onnx(path)


def test_external_data_that_is_longer_than_its_weights_is_refused(tmp_path: Path) -> None:
    path = external_data(tmp_path / "m.onnx", "weights.bin")
    (tmp_path / "weights.bin").write_bytes((tmp_path / "weights.bin").read_bytes() + b"more")
    model = onnx.load(str(path), load_external_data=False)
    for tensor in model.graph.initializer:
        kept = [entry for entry in tensor.external_data if entry.key == "location"]
        del tensor.external_data[:]
        tensor.external_data.extend(kept)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(SourceRejected, match=r"weights\.bin gives 2564 bytes for the weights 'weights', which need 2560"):
        read_onnx(path)
