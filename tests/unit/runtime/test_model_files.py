"""Files that are no models, and what onnxruntime alone is held to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

import runtime
from runtime import InferenceFailed, InvalidInput, ModelRejected
from runtime.engines import onnx_engine
from tests.support import models, tflite_models


def test_importing_the_runtime_imports_no_engine() -> None:
    code = "import sys, runtime; print([m for m in ('onnxruntime', 'ai_edge_litert', 'uvicorn', 'onnx') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelRejected, match=r"nothing\.onnx cannot be read: No such file"):
        runtime.load(tmp_path / "nothing.onnx")


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelRejected, match="is not a file"):
        runtime.load(tmp_path)


def test_a_file_whose_name_is_no_utf_8_is_refused(tmp_path: Path) -> None:
    path = models.identity(tmp_path / "model.onnx").rename(tmp_path / os.fsdecode(b"\xff.onnx"))
    with pytest.raises(ModelRejected, match=r"udcff\.onnx' is no UTF-8, and engines open no such file"):
        runtime.load(path)


def test_a_device_file_is_refused() -> None:
    with pytest.raises(ModelRejected, match="is not a file"):
        runtime.load(Path("/dev/zero"))


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(ModelRejected, match="is empty"):
        runtime.load(tmp_path / "empty")


@pytest.mark.parametrize("content", [b"hello", b"PK\x03\x04" + bytes(100), b"\x80\x04pickle", b"\x00" * 64, b"location" * 8])
def test_any_other_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ModelRejected):
        runtime.load(tmp_path / "file")


def test_external_data_beside_the_model_is_loaded(tmp_path: Path) -> None:
    model = runtime.load(models.external_data(tmp_path / "model.onnx", "weights.bin"))
    pixels, _ = models.samples(2)
    np.testing.assert_allclose(model({"pixels": pixels})["scores"], models.scores(pixels), atol=1e-5)


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/hostname", "a/../../weights.bin", "..\\weights.bin"])
def test_external_data_elsewhere_is_refused(tmp_path: Path, location: str) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "weights.bin").write_bytes(bytes(4096))
    with pytest.raises(ModelRejected, match="outside its own directory"):
        runtime.load(models.external_data(inside / "model.onnx", location, write=False))


def test_external_data_behind_a_link_that_leads_away_is_refused(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "weights.bin").write_bytes(bytes(4096))
    (inside / "link.bin").symlink_to(tmp_path / "weights.bin")
    with pytest.raises(ModelRejected, match="outside its own directory"):
        runtime.load(models.external_data(inside / "model.onnx", "link.bin", write=False))


def test_external_data_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelRejected, match="no such file beside it"):
        runtime.load(models.external_data(tmp_path / "model.onnx", "weights.bin", write=False))


def test_external_data_inside_a_nested_graph_is_found(tmp_path: Path) -> None:
    outer = onnx.load(models.identity(tmp_path / "outer.onnx"))
    inner = onnx.load(models.external_data(tmp_path / "inner.onnx", "../weights.bin", write=False), load_external_data=False)
    branch = helper.make_node("If", ["flag"], ["z"], then_branch=inner.graph, else_branch=inner.graph)
    outer.graph.node.append(branch)
    (tmp_path / "nested.onnx").write_bytes(outer.SerializeToString())
    with pytest.raises(ModelRejected, match="outside its own directory"):
        runtime.load(tmp_path / "nested.onnx")


def test_the_word_location_alone_harms_no_model(tmp_path: Path) -> None:
    model = runtime.load(models.linear_classifier(tmp_path / "model.onnx", output_name="location"))
    assert set(model({"pixels": models.samples(1)[0]})) == {"location"}


@pytest.mark.parametrize(
    "options",
    [
        {"session.disable_quant_qdq": "1"},
        {"graph_optimization_level": "disable"},
        {"session.intra_op.allow_spinning": "1", "graph_optimization_level": "all"},
    ],
)
def test_a_variants_session_options_are_taken(tmp_path: Path, options: dict[str, str]) -> None:
    model = runtime.load(models.linear_classifier(tmp_path / "model.onnx"), session_options=options)
    assert model({"pixels": models.samples(1)[0]})["scores"].shape == (1, 10)


def test_threads_wait_for_a_moment_where_onnxruntime_can_bound_it_and_sleep_where_it_cannot() -> None:
    assert onnx_engine.waiting({}, "1.26.0") == {
        "session.inter_op.allow_spinning": "0",
        "session.intra_op.spin_duration_us": "20",
    }
    assert onnx_engine.waiting({}, "1.25.1")["session.intra_op.allow_spinning"] == "0"


@pytest.mark.parametrize("version", ["1.25.1", "1.26.0"])
def test_a_variant_that_says_how_threads_wait_is_not_overruled(version: str) -> None:
    assert onnx_engine.waiting({"session.intra_op.allow_spinning": "1"}, version) == {"session.inter_op.allow_spinning": "0"}


def test_the_installed_onnxruntime_takes_how_its_threads_wait() -> None:
    made = onnx_engine.make_options({}, None)
    for key, value in onnx_engine.waiting({}, ort.__version__).items():
        assert made.get_session_config_entry(key) == value


@pytest.mark.parametrize(
    "key", ["session.model_external_initializers_file_folder_path", "session.use_ort_model_bytes_directly", "ep.whatever", ""]
)
def test_an_option_that_names_files_or_skips_checks_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(ModelRejected, match="not one that a variant may set"):
        runtime.load(models.linear_classifier(tmp_path / "model.onnx"), session_options={key: "/"})


def test_a_level_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelRejected, match="disable, basic, extended, all"):
        runtime.load(models.linear_classifier(tmp_path / "model.onnx"), session_options={"graph_optimization_level": "9"})


@pytest.mark.parametrize(
    ("elem_type", "dtype"),
    [
        (TensorProto.BOOL, "bool"),
        (TensorProto.UINT8, "uint8"),
        (TensorProto.INT8, "int8"),
        (TensorProto.UINT16, "uint16"),
        (TensorProto.INT16, "int16"),
        (TensorProto.INT32, "int32"),
        (TensorProto.UINT32, "uint32"),
        (TensorProto.INT64, "int64"),
        (TensorProto.UINT64, "uint64"),
        (TensorProto.FLOAT16, "float16"),
        (TensorProto.FLOAT, "float32"),
        (TensorProto.DOUBLE, "float64"),
    ],
)
def test_every_type_that_travels_goes_in_and_comes_out(tmp_path: Path, elem_type: int, dtype: str) -> None:
    model = runtime.load(models.identity(tmp_path / "model.onnx", elem_type))
    sent = np.array([[0, 1, 1, 0]], dtype)
    got = model({"x": sent})["y"]
    assert got.dtype == sent.dtype
    np.testing.assert_array_equal(got, sent)


def test_texts_go_in_and_come_out(tmp_path: Path) -> None:
    model = runtime.load(models.identity(tmp_path / "model.onnx", TensorProto.STRING, ("n",)))
    for sent in (np.array(["a", "ß"], object), np.array(["a", "ß"])):
        assert model({"x": sent})["y"].tolist() == ["a", "ß"]


@pytest.mark.parametrize("sent", [np.array([b"a"], object), np.array([1], object), np.array([b"a"]), np.array(["\ud800"])])
def test_what_is_no_text_is_refused(tmp_path: Path, sent: np.ndarray) -> None:
    model = runtime.load(models.identity(tmp_path / "model.onnx", TensorProto.STRING, ("n",)))
    with pytest.raises(InvalidInput, match=r"Input x|A text cannot be said in UTF-8"):
        model({"x": sent})


def test_a_type_that_does_not_travel_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelRejected, match=r"x is a tensor\(bfloat16\)"):
        runtime.load(models.identity(tmp_path / "model.onnx", TensorProto.BFLOAT16))


def test_a_model_without_outputs_is_refused(tmp_path: Path) -> None:
    model = onnx.load(models.identity(tmp_path / "model.onnx"))
    del model.graph.output[:]
    onnx.save(model, tmp_path / "mute.onnx")
    with pytest.raises(ModelRejected, match="has no outputs"):
        runtime.load(tmp_path / "mute.onnx")


def test_a_failure_inside_the_engine_is_the_models_own(tmp_path: Path) -> None:
    model = runtime.load(models.two_inputs(tmp_path / "model.onnx"))
    with pytest.raises(InferenceFailed, match="onnxruntime failed"):
        model({"left": np.zeros((3, 2), np.float32), "right": np.zeros((2, 2), np.float32)})


_CUT = """
import sys, numpy as np, runtime
with runtime.load(sys.argv[1]) as model:
    rows = {"rows": np.array([2], np.int32)}
    before = model(rows)["found"]
    open(sys.argv[1], "wb").close()
    print(np.array_equal(model(rows)["found"], before))
"""


def test_a_small_model_outlives_its_file_being_cut_in_place(tmp_path: Path) -> None:
    path = tflite_models.lookup(tmp_path / "lookup.tflite")
    ended = subprocess.run([sys.executable, "-c", _CUT, str(path)], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "True\n")


@pytest.mark.parametrize("provider", ["openvino", "auto"])
def test_a_model_that_holds_compiled_code_never_reaches_a_providers_library(tmp_path: Path, provider: str) -> None:
    (x, y) = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy")
    node = helper.make_node("EPContext", ["x"], ["y"], domain="com.microsoft", embed_mode=1, ep_cache_context=b"code")
    domains = [helper.make_opsetid("com.microsoft", 1), helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(helper.make_graph([node], "g", [x], [y]), opset_imports=domains), tmp_path / "model.onnx")
    with pytest.raises(ModelRejected, match="compiled for one processor"):
        runtime.load(tmp_path / "model.onnx", provider=provider)
