"""The client of tensorflow-serving-api, unmodified, against the local server; what is recorded of it is still its own."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from tests.support import models
from tests.support.tensorflow_serving import LABELS, PIXELS, RECORDING, recorded, served

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def channel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    server = served(tmp_path_factory.mktemp("models"))
    with grpc.insecure_channel(str(server.grpc_address)) as channel:
        yield channel
    server.stop()


def made() -> dict[str, Any]:
    """The messages, as an application makes them."""
    import tensorflow as tf
    from tensorflow_serving.apis import (
        classification_pb2,
        get_model_metadata_pb2,
        get_model_status_pb2,
        predict_pb2,
        regression_pb2,
    )

    def predict(model: str, name: str, value: Any, **options: Any) -> Any:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = model
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value, **options))
        return request

    def examples(request: Any, model: str, rows: Any, feature: str, **context: list[float]) -> Any:
        request.model_spec.name = model
        given = request.input.example_list_with_context if context else request.input.example_list
        for name, values in context.items():
            given.context.features.feature[name].float_list.value.extend(values)
        for row in rows:
            example = given.examples.add()
            if feature:
                example.features.feature[feature].float_list.value.extend(row.tolist())
        return request

    labelled = predict("digits", "pixels", PIXELS)
    labelled.model_spec.version_label = "1.2.0"
    labelled.model_spec.signature_name = "serving_default"
    labelled.output_filter.append("scores")
    numbered = examples(regression_pb2.RegressionRequest(), "price", PIXELS[:, :2], "x")
    numbered.model_spec.version.value = 7
    metadata = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    metadata.model_spec.name = "digits"
    status = get_model_status_pb2.GetModelStatusRequest()
    status.model_spec.name = "price"
    return {
        "predict": predict("digits", "pixels", PIXELS),
        "predict one version": labelled,
        "predict the same value everywhere": predict("digits", "pixels", 0.5, shape=[2, 64]),
        "predict texts": predict("texts", "x", np.array([["a"], ["ß"]], object)),
        "predict halves": predict("halves", "x", np.array([[1.5, -2]], np.float16)),
        "predict the same half everywhere": predict("halves", "x", np.float16(1.5), shape=[1, 2]),
        "predict bytes": predict("bytes", "x", np.array([[0, 255]], np.uint8)),
        "classify": examples(classification_pb2.ClassificationRequest(), "digits", PIXELS, "pixels"),
        "classify with a context": examples(
            classification_pb2.ClassificationRequest(), "digits", PIXELS[:2], "", pixels=PIXELS[0].tolist()
        ),
        "regress": numbered,
        "metadata": metadata,
        "status": status,
    }


def test_what_is_recorded_is_what_the_client_sends() -> None:
    messages = made()
    assert messages.keys() == recorded().keys()
    for name, content in recorded().items():
        assert type(messages[name]).FromString(content) == messages[name], name


def test_predictions_come_as_tensorflow_reads_them(channel: Any) -> None:
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_service_pb2_grpc

    stub, messages = prediction_service_pb2_grpc.PredictionServiceStub(channel), made()
    for name in ("predict", "predict one version"):
        answer = stub.Predict(messages[name], timeout=20)
        np.testing.assert_allclose(tf.make_ndarray(answer.outputs["scores"]), models.scores(PIXELS), atol=1e-5)
        assert (answer.model_spec.name, answer.model_spec.version_label) == ("digits", "1.2.0")
    expected: dict[str, Any] = {
        "predict texts": [[b"a"], ["ß".encode()]],
        "predict halves": [[1.5, -2]],
        "predict the same half everywhere": [[1.5, 1.5]],
        "predict bytes": [[0, 255]],
    }
    for name, values in expected.items():
        assert tf.make_ndarray(stub.Predict(messages[name], timeout=20).outputs["y"]).tolist() == values


def test_classes_and_numbers_come_for_each_example(channel: Any) -> None:
    from tensorflow_serving.apis import prediction_service_pb2_grpc

    stub, messages = prediction_service_pb2_grpc.PredictionServiceStub(channel), made()
    results = stub.Classify(messages["classify"], timeout=20).result.classifications
    for row, result in zip(models.scores(PIXELS), results, strict=True):
        assert [each.label for each in result.classes] == list(LABELS)
        np.testing.assert_allclose([each.score for each in result.classes], row, atol=1e-5)
    assert len(stub.Classify(messages["classify with a context"], timeout=20).result.classifications) == 2
    answer = stub.Regress(messages["regress"], timeout=20)
    np.testing.assert_allclose([each.value for each in answer.result.regressions], PIXELS[:, :2].sum(axis=1), atol=1e-5)
    assert answer.model_spec.version.value == 7


def test_metadata_and_status_are_tensorflow_servings_own(channel: Any) -> None:
    from tensorflow_serving.apis import get_model_metadata_pb2, model_service_pb2_grpc, prediction_service_pb2_grpc

    messages, signatures = made(), get_model_metadata_pb2.SignatureDefMap()
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    assert stub.GetModelMetadata(messages["metadata"], timeout=20).metadata["signature_def"].Unpack(signatures)
    signature = signatures.signature_def["serving_default"]
    assert [each.size for each in signature.inputs["pixels"].tensor_shape.dim] == [-1, 64]
    (status,) = (
        model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(messages["status"], timeout=20).model_version_status
    )
    assert (status.version, status.State.Name(status.state), status.status.error_code) == (7, "AVAILABLE", 0)


def record() -> None:
    """Write down what the client sends."""
    contents = {name: message.SerializeToString(deterministic=True) for name, message in made().items()}
    packed = {name: base64.b64encode(content).decode() for name, content in contents.items()}
    RECORDING.write_text(json.dumps(packed, indent=1) + "\n")


if __name__ == "__main__":
    record()
