"""TensorFlow Serving's gRPC API: what its own client sent, replayed, and requests that are wrong.

The client itself needs TensorFlow: tests/heavy/test_tensorflow_serving_client.py asks with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from runtime.local_server.grpc_messages import message_class
from tests.support import models
from tests.support.tensorflow_serving import LABELS, PIXELS, recorded, served

PREDICTION, MODELS = "/tensorflow.serving.PredictionService", "/tensorflow.serving.ModelService"
HALF, FLOAT, UINT8, STRING, COMPLEX = 19, 1, 4, 7, 8


def message(name: str) -> Any:
    return message_class(f"tensorflow.serving.{name}")


@pytest.fixture(scope="module")
def channel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    server = served(tmp_path_factory.mktemp("models"))
    with grpc.insecure_channel(str(server.grpc_address)) as channel:
        yield channel
    server.stop()


def ask(channel: Any, path: str, content: Any) -> bytes:
    body = content if isinstance(content, bytes) else content.SerializeToString()
    answer: bytes = channel.unary_unary(path)(body, timeout=10)
    return answer


def predicted(channel: Any, content: Any) -> Any:
    return message("PredictResponse").FromString(ask(channel, f"{PREDICTION}/Predict", content))


def array(tensor: Any) -> np.ndarray:
    """A numeric output, from its `tensor_content`."""
    dtype = {FLOAT: np.float32, HALF: np.float16, UINT8: np.uint8}[tensor.dtype]
    return np.frombuffer(tensor.tensor_content, dtype).reshape([each.size for each in tensor.tensor_shape.dim])


@pytest.mark.parametrize("name", ["predict", "predict one version"])
def test_a_recorded_prediction_is_the_models(channel: Any, name: str) -> None:
    answer = predicted(channel, recorded()[name])
    np.testing.assert_allclose(array(answer.outputs["scores"]), models.scores(PIXELS), atol=1e-5)
    spec = answer.model_spec
    assert (spec.name, spec.version_label, spec.signature_name) == ("digits", "1.2.0", "serving_default")


def test_fewer_values_than_the_shape_wants_repeat_the_last(channel: Any) -> None:
    answer = predicted(channel, recorded()["predict the same value everywhere"])
    np.testing.assert_allclose(array(answer.outputs["scores"]), models.scores(np.full((2, 64), 0.5, np.float32)), atol=1e-5)
    assert array(predicted(channel, recorded()["predict the same half everywhere"]).outputs["y"]).tolist() == [[1.5, 1.5]]


def test_other_types_come_back_as_they_were_sent(channel: Any) -> None:
    assert array(predicted(channel, recorded()["predict halves"]).outputs["y"]).tolist() == [[1.5, -2]]
    assert array(predicted(channel, recorded()["predict bytes"]).outputs["y"]).tolist() == [[0, 255]]
    texts = predicted(channel, recorded()["predict texts"]).outputs["y"]
    assert (texts.dtype, list(texts.string_val)) == (STRING, [b"a", "ß".encode()])


def test_classes_and_numbers_come_for_each_example(channel: Any) -> None:
    answer = message("ClassificationResponse").FromString(ask(channel, f"{PREDICTION}/Classify", recorded()["classify"]))
    for row, result in zip(models.scores(PIXELS), answer.result.classifications, strict=True):
        assert [each.label for each in result.classes] == list(LABELS)
        np.testing.assert_allclose([each.score for each in result.classes], row, atol=1e-5)
    shared = ask(channel, f"{PREDICTION}/Classify", recorded()["classify with a context"])
    assert len(message("ClassificationResponse").FromString(shared).result.classifications) == 2
    numbers = message("RegressionResponse").FromString(ask(channel, f"{PREDICTION}/Regress", recorded()["regress"]))
    np.testing.assert_allclose([each.value for each in numbers.result.regressions], PIXELS[:, :2].sum(axis=1), atol=1e-5)
    assert numbers.model_spec.version.value == 7


def test_metadata_names_the_one_signature(channel: Any) -> None:
    answer = ask(channel, f"{PREDICTION}/GetModelMetadata", recorded()["metadata"])
    packed = message("GetModelMetadataResponse").FromString(answer).metadata["signature_def"]
    assert packed.type_url == "type.googleapis.com/tensorflow.serving.SignatureDefMap"
    signature = message("SignatureDefMap").FromString(packed.value).signature_def["serving_default"]
    assert (signature.inputs["pixels"].dtype, signature.inputs["pixels"].name) == (FLOAT, "pixels")
    assert [each.size for each in signature.outputs["scores"].tensor_shape.dim] == [-1, 10]
    assert signature.method_name == "tensorflow/serving/predict"


def test_the_status_has_the_version_where_that_is_a_number(channel: Any) -> None:
    answer = message("GetModelStatusResponse").FromString(ask(channel, f"{MODELS}/GetModelStatus", recorded()["status"]))
    (status,) = answer.model_version_status
    assert (status.version, status.state, status.status.error_code) == (7, 30, 0)


def predict(model: str = "digits", name: str = "pixels", *, shape: tuple[int, ...] = (1, 64), **tensor: Any) -> Any:
    request = message("PredictRequest")(model_spec={"name": model})
    given = request.inputs[name]
    given.MergeFrom(message_class("tensorflow.TensorProto")(**{"dtype": FLOAT} | tensor))
    for size in shape:
        given.tensor_shape.dim.add(size=size)
    return request


def labelled(**spec: Any) -> Any:
    request = message("PredictRequest").FromString(recorded()["predict"])
    request.model_spec.MergeFrom(message("ModelSpec")(**spec))
    return request


def wanting(output: str) -> Any:
    request = message("PredictRequest").FromString(recorded()["predict"])
    request.output_filter.append(output)
    return request


def classify(**feature: Any) -> Any:
    request = message("ClassificationRequest")(model_spec={"name": "digits"})
    example = request.input.example_list.examples.add()
    example.features.feature["pixels"].MergeFrom(message_class("tensorflow.Feature")(**feature))
    return request


INVALID = grpc.StatusCode.INVALID_ARGUMENT
REFUSED: dict[str, tuple[str, Any, grpc.StatusCode, str]] = {
    "no message": ("Predict", b"\xff\xff", INVALID, "is no tensorflow.serving.PredictRequest"),
    "another model": ("Predict", predict("other"), grpc.StatusCode.NOT_FOUND, "No model 'other'"),
    "another version": ("Predict", labelled(version_label="9"), grpc.StatusCode.NOT_FOUND, "9"),
    "a numbered version": ("Predict", labelled(version={"value": 3}), grpc.StatusCode.NOT_FOUND, "3"),
    "another signature": ("Predict", labelled(signature_name="train"), INVALID, "no signature 'train'"),
    "another output": ("Predict", wanting("other"), INVALID, "no output other"),
    "another input": ("Predict", predict(name="x", float_val=[0]), INVALID, "The inputs are x; wanted exactly pixels"),
    "an unknown type": ("Predict", predict(dtype=COMPLEX), INVALID, "has the type 8"),
    "no values": ("Predict", predict(), INVALID, "has 0 values; its shape .1, 64. wants 64"),
    "too many values": ("Predict", predict(float_val=[0.0] * 65), INVALID, "has 65 values"),
    "a negative size": ("Predict", predict(shape=(-1, 64), float_val=[0]), INVALID, "impossible shape"),
    "an impossible shape": ("Predict", predict(shape=(0, 2**39, 2**39)), INVALID, "impossible shape"),
    "a rank beyond all bounds": ("Predict", predict(shape=(1,) * 17, float_val=[0]), INVALID, "impossible shape"),
    "one value for 2 GB": ("Predict", predict(shape=(2**23, 64), float_val=[0]), INVALID, "has 1 values; its shape"),
    "content cut short": ("Predict", predict(tensor_content=bytes(255)), INVALID, "has 255 bytes of binary data"),
    "texts as content": ("Predict", predict(dtype=STRING, tensor_content=b"a"), INVALID, "texts come as string_val"),
    "values of another width": ("Predict", predict("bytes", "x", dtype=UINT8, int_val=[256]), INVALID, "outside of UINT8"),
    "halves out of range": ("Predict", predict("halves", "x", dtype=HALF, half_val=[-1]), INVALID, "outside of FP16"),
    "not a number": ("Predict", predict("broken", float_val=[0]), grpc.StatusCode.INTERNAL, "NaN or infinity"),
    "no examples": ("Classify", message("ClassificationRequest")(model_spec={"name": "digits"}), INVALID, "no examples"),
    "an empty feature": ("Classify", classify(), INVALID, "Feature pixels is empty"),
    "a feature of texts": ("Classify", classify(bytes_list={"value": [b"a"]}), INVALID, "Feature pixels is bytes_list"),
    "too few numbers": ("Classify", classify(float_list={"value": [1, 2]}), INVALID, "Input pixels has 2 values"),
    "no single number": ("Regress", classify(float_list={"value": [0] * 64}), INVALID, "does not answer one number"),
    "no metadata": ("GetModelMetadata", message("GetModelMetadataRequest")(), INVALID, "metadata_field has to be"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_request_is_refused_with_its_reason_and_the_next_one_works(channel: Any, case: str) -> None:
    method, content, code, reason = REFUSED[case]
    with pytest.raises(grpc.RpcError) as refused:
        ask(channel, f"{PREDICTION}/{method}", content)
    assert refused.value.code() == code
    assert re.search(reason, refused.value.details())
    assert predicted(channel, recorded()["predict"]).outputs["scores"].dtype == FLOAT
