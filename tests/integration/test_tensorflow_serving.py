"""TensorFlow Serving's REST API over real HTTP, as its clients ask: answers, refusals, and the next request."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from onnx import TensorProto

import runtime
from fleet_protocol.tensors import TensorSpec
from runtime import ModelHost, ModelIdentity
from runtime.local_server.server import LocalServer
from tests.support import models
from tests.support.engines import ScriptedEngine, model_of

LABELS = tuple(f"digit {number}" for number in range(models.CLASSES))
MODEL = "/v1/models/digits"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    directory, host = tmp_path_factory.mktemp("models"), ModelHost()

    def activate(name: str, model: Any, labels: tuple[str, ...] = ()) -> None:
        host.activate(ModelIdentity(name, "1.0.0", "sha256:" + "0" * 64, "float"), model, labels)

    activate("digits", runtime.load(models.linear_classifier(directory / "digits.onnx")), LABELS)
    activate("pair", runtime.load(models.two_inputs(directory / "pair.onnx")))
    activate("broken", runtime.load(models.not_a_number(directory / "broken.onnx")))
    activate("texts", runtime.load(models.identity(directory / "texts.onnx", TensorProto.STRING, ("batch", 1))))
    number = TensorSpec(name="y", datatype="FP32", shape=(-1, 1))
    activate("price", model_of(ScriptedEngine(lambda x: x.sum(axis=1, keepdims=True), outputs=(number,))))
    server = LocalServer(host)
    server.start()
    with httpx.Client(base_url=server.url, timeout=10) as client:
        yield client
    server.stop()


def test_predictions_are_the_models_in_the_form_of_the_question(client: httpx.Client) -> None:
    pixels, _ = models.samples(3)
    for path in (f"{MODEL}:predict", f"{MODEL}/versions/1.0.0:predict"):
        for request, key in (({"instances": pixels.tolist()}, "predictions"), ({"inputs": pixels.tolist()}, "outputs")):
            response = client.post(path, json=request)
            assert response.status_code == 200
            assert response.headers["content-type"] == "application/json"
            np.testing.assert_allclose(response.json()[key], models.scores(pixels), atol=1e-5)


def test_several_inputs_and_outputs_have_names(client: httpx.Client) -> None:
    rows = {"instances": [{"left": [1, 2], "right": [3, 0]}, {"left": [0, 1], "right": [0, 1]}]}
    assert client.post("/v1/models/pair:predict", json=rows).json() == {
        "predictions": [{"total": [4, 2], "largest": 0}, {"total": [0, 2], "largest": 1}]
    }
    columns = {"inputs": {"left": [[1, 2]], "right": [[3, 0]]}}
    assert client.post("/v1/models/pair:predict", json=columns).json() == {"outputs": {"total": [[4, 2]], "largest": [0]}}


def test_texts_may_be_base64(client: httpx.Client) -> None:
    request = {"instances": [{"b64": "w58="}, "plain"]}
    response = client.post("/v1/models/texts:predict", json={"instances": [[each] for each in request["instances"]]})
    assert response.json() == {"predictions": [["ß"], ["plain"]]}


def test_classes_come_with_their_labels(client: httpx.Client) -> None:
    pixels, _ = models.samples(2)
    response = client.post(f"{MODEL}:classify", json={"examples": [{"pixels": row.tolist()} for row in pixels]})
    assert response.status_code == 200
    results = response.json()["results"]
    for row, classes in zip(models.scores(pixels), results, strict=True):
        assert [label for label, _ in classes] == list(LABELS)
        np.testing.assert_allclose([score for _, score in classes], row, atol=1e-5)


def test_regressions_are_a_number_for_each_example(client: httpx.Client) -> None:
    response = client.post("/v1/models/price:regress", json={"examples": [{"x": [1, 2]}, {"x": [3, 4]}]})
    assert (response.status_code, response.json()) == (200, {"results": [3, 7]})


def test_a_models_status_and_its_metadata_are_told(client: httpx.Client) -> None:
    for path in (MODEL, f"{MODEL}/versions/1.0.0"):
        (status,) = client.get(path).json()["model_version_status"]
        assert (status["version"], status["state"], status["status"]["error_code"]) == ("1.0.0", "AVAILABLE", "OK")
    for path in (f"{MODEL}/metadata", f"{MODEL}/versions/1.0.0/metadata"):
        said = client.get(path).json()
        assert said["model_spec"] == {"name": "digits", "signature_name": "", "version": "1.0.0"}
        signature = said["metadata"]["signature_def"]["signature_def"]["serving_default"]
        assert signature["method_name"] == "tensorflow/serving/predict"
        assert signature["inputs"]["pixels"]["dtype"] == "DT_FLOAT"
        shape = signature["inputs"]["pixels"]["tensor_shape"]
        assert [dimension["size"] for dimension in shape["dim"]] == ["-1", "64"]
        assert shape["unknown_rank"] is False


GOOD = {"instances": [[0] * 64]}


@pytest.mark.parametrize(
    ("asked", "request_", "status", "message"),
    [
        ("POST /v1/models/other:predict", GOOD, 404, "No model 'other' is active"),
        (f"POST {MODEL}/versions/2:predict", GOOD, 404, "digits 2 is not active here; 1.0.0 is"),
        (f"POST {MODEL}:explain", GOOD, 404, "There is nothing at"),
        (f"POST {MODEL}:predict/more", GOOD, 404, "There is nothing at"),
        ("GET /v1", None, 404, "There is nothing at"),
        ("GET /v1/models", None, 404, "There is nothing at"),
        ("GET /v1/models/other", None, 404, "No model 'other' is active"),
        (f"GET {MODEL}/versions/2", None, 404, "digits 2 is not active here"),
        (f"GET {MODEL}:predict", None, 405, "takes POST"),
        (f"POST {MODEL}", GOOD, 405, "takes GET"),
        (f"POST {MODEL}:predict", {}, 400, "either `instances`"),
        (f"POST {MODEL}:predict", {"instances": [[0, 0]]}, 400, "shape [1, 2]; wanted"),
        (f"POST {MODEL}:predict", {"inputs": {}}, 400, "The inputs are nothing"),
        ("POST /v1/models/pair:classify", {"examples": [{"left": [0, 0]}]}, 400, "The inputs are left; wanted exactly"),
        ("POST /v1/models/texts:classify", {"examples": [{"x": ["a"]}]}, 400, "has no class scores"),
        (f"POST {MODEL}:regress", {"examples": [{"pixels": [0] * 64}]}, 400, "does not answer one number"),
        ("POST /v1/models/broken:predict", GOOD, 500, "NaN or infinity"),
    ],
)
def test_a_refusal_says_why_and_the_next_request_works(
    client: httpx.Client, asked: str, request_: Any, status: int, message: str
) -> None:
    method, path = asked.split()
    response = client.request(method, path, content=None if request_ is None else json.dumps(request_))
    assert response.status_code == status
    assert set(response.json()) == {"error"}
    assert message in response.json()["error"]
    assert client.post(f"{MODEL}:predict", json=GOOD).status_code == 200
