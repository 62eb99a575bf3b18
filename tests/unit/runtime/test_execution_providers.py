"""Where a model runs: what was asked for, or an error that says what to do; and never somewhere else in silence."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import runtime
from runtime import ModelRejected
from runtime.children import Child
from runtime.engines import onnx_engine, provider_child, providers
from runtime.engines.litert_engine import check_taken
from runtime.engines.onnx_engine import Left, said
from runtime.errors import ChildFailed, EngineUnavailable
from tests.support import models, tflite_models


@pytest.fixture
def onnx_file(tmp_path: Path) -> Path:
    return models.linear_classifier(tmp_path / "model.onnx")


@pytest.fixture
def tflite_file(tmp_path: Path) -> Path:
    return tflite_models.linear_classifier(tmp_path / "model.tflite")


def missing() -> providers.Provider:
    return next(each for each in providers.TABLE if each not in providers.present())


def test_the_cpu_is_the_default_and_it_says_so(onnx_file: Path) -> None:
    model = runtime.load(onnx_file)
    assert model.engine.endswith(", CPU")
    assert "no other provider was asked for" in model.choice


def test_what_was_asked_for_is_taken(onnx_file: Path) -> None:
    assert runtime.load(onnx_file, provider="cpu").choice == "CPU was asked for"


def test_an_unknown_provider_is_refused_with_those_that_are_known(onnx_file: Path) -> None:
    with pytest.raises(EngineUnavailable, match=r"no execution provider 'gpu'\. Known are tensorrt, cuda, .*, cpu, and auto"):
        runtime.load(onnx_file, provider="gpu")


def test_a_missing_provider_is_an_error_that_says_what_to_install(onnx_file: Path) -> None:
    wanted = missing()
    with pytest.raises(EngineUnavailable, match=f"no {wanted.title}; it has .*cpu") as refused:
        runtime.load(onnx_file, provider=wanted.name)
    assert wanted.install in str(refused.value)


def test_a_device_is_only_for_providers_that_have_some(onnx_file: Path) -> None:
    with pytest.raises(EngineUnavailable, match="CPU has no devices"):
        runtime.load(onnx_file, provider="cpu:1")
    asked = providers.parse("openvino:GPU")
    assert (asked.describe(), asked.options) == ("OpenVINO:GPU", {"device_type": "GPU"})


def test_cuda_multiplies_in_full_precision_on_every_device() -> None:
    assert providers.parse("cuda").options == {"use_tf32": "0"}
    assert providers.parse("cuda:1").options == {"use_tf32": "0", "device_id": "1"}


# As a machine with one GPU and without TensorRT gave them.
NO_SUCH_GPU = (
    "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_execution_provider_info.cc:63 static"
    " onnxruntime::CUDAExecutionProviderInfo onnxruntime::CUDAExecutionProviderInfo::FromProviderOptions(const"
    " onnxruntime::ProviderOptions&) [ONNXRuntimeError] : 1 : FAIL"
    ' : provider_options_utils.h:187 Parse Failed to parse provider option "device_id": cuda_execution_provider_info.cc:71'
    " operator() Invalid device ID: 7, must be between 0 and 1."
)
NO_TENSORRT = (
    "/onnxruntime_src/onnxruntime/python/onnxruntime_pybind_state.cc:729 void"
    " onnxruntime::python::RegisterTensorRTPluginsAsCustomOps(PySessionOptions&, const onnxruntime::ProviderOptions&)"
    " Please install TensorRT libraries as mentioned in the GPU requirements page."
)


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (NO_SUCH_GPU, 'Failed to parse provider option "device_id": Invalid device ID: 7, must be between 0 and 1.'),
        (NO_TENSORRT, "Please install TensorRT libraries as mentioned in the GPU requirements page."),
        ("[ONNXRuntimeError] : 10 : INVALID_GRAPH : Node (a) is : odd", "Node (a) is : odd"),
    ],
)
def test_the_engines_words_come_without_the_places_in_its_source(words: str, shown: str) -> None:
    assert said(RuntimeError(words)) == shown


def test_auto_takes_the_first_that_works_and_says_why(onnx_file: Path) -> None:
    model = runtime.load(onnx_file, provider="auto")
    first = providers.working()[0]
    assert first.title in model.engine
    assert f"{first.title} is the first provider that works here" in model.choice


def test_the_cpu_always_works() -> None:
    assert providers.working()[-1].name == providers.CPU


def test_a_session_that_lost_its_provider_is_an_error(onnx_file: Path) -> None:
    key = missing().key
    with pytest.warns(UserWarning, match=key), pytest.raises(EngineUnavailable, match=f"left {key} out"):
        onnx_engine.open_session(str(onnx_file), {}, None, providers.Asked(missing()))


def test_the_trial_runs_in_a_child() -> None:
    with Child(provider_child.__name__) as child:
        order = provider_child.Try(provider="cpu")
        assert child.ask(order, provider_child.Ran, timeout_s=60) == provider_child.Ran()
        with pytest.raises(ChildFailed, match="left"):
            child.ask(provider_child.Try(provider=missing().name), provider_child.Ran, timeout_s=60)


def test_what_is_left_to_the_cpu_is_counted_and_named() -> None:
    left = Left(Counter({"TopK": 1, "NonZero": 2}), 12)
    assert left.describe() == ", 3 of 12 nodes on the CPU (NonZero, TopK)"
    assert left.taken_share == 0.75
    assert Left(Counter(), 12).describe() == ""


def test_a_provider_that_takes_no_node_is_refused() -> None:
    asked, path = providers.parse("cuda"), Path("model.onnx")
    with pytest.raises(EngineUnavailable, match=r"CUDA takes none of the 3 nodes of model\.onnx"):
        onnx_engine.check_taken(asked, Left(Counter({"TopK": 3}), 3), path)
    onnx_engine.check_taken(asked, Left(Counter({"TopK": 2}), 3), path)
    onnx_engine.check_taken(asked, Left(Counter(), 0), path)  # an onnxruntime that does not say


def test_many_kinds_of_nodes_are_not_all_named() -> None:
    left = Left(Counter("abcdef"), 10)
    assert left.describe() == ", 6 of 10 nodes on the CPU (a, b, c, d…)"


def test_a_tflite_model_takes_no_provider_and_an_onnx_model_no_delegate(onnx_file: Path, tflite_file: Path) -> None:
    with pytest.raises(ModelRejected, match="takes a delegate and no provider 'cuda'"):
        runtime.load(tflite_file, provider="cuda")
    with pytest.raises(ModelRejected, match="takes an execution provider and no delegate"):
        runtime.load(onnx_file, delegate=Path("libedgetpu.so.1"))


def test_a_delegate_that_is_not_there_is_refused(tflite_file: Path) -> None:
    with pytest.raises(EngineUnavailable, match=r"There is no delegate /nowhere/libedgetpu\.so\.1"):
        runtime.load(tflite_file, delegate=Path("/nowhere/libedgetpu.so.1"))


def test_a_library_that_is_no_delegate_is_refused(tflite_file: Path, tmp_path: Path) -> None:
    library = Path(np.linalg._umath_linalg.__file__)
    with pytest.raises(EngineUnavailable, match="cannot be loaded as a delegate of LiteRT"):
        runtime.load(tflite_file, delegate=library)
    text = tmp_path / "delegate.so"
    text.write_text("no library")
    with pytest.raises(EngineUnavailable, match="tflite_plugin_create_delegate"):
        runtime.load(tflite_file, delegate=text)


def test_a_delegate_that_takes_nothing_is_refused() -> None:
    left = [{"op_name": "CONV_2D"}, {"op_name": "SOFTMAX"}]
    with pytest.raises(EngineUnavailable, match="takes none of the model's 2 operators"):
        check_taken(left, Path("libedgetpu.so.1"))
    check_taken([*left, {"op_name": "DELEGATE"}], Path("libedgetpu.so.1"))
