"""An experiment's key by every way of saying it: header, metadata, and the Open Inference Protocol's parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

import runtime
from runtime import ModelHost, ModelIdentity
from runtime.hosting.experiment import Experiment, Split
from runtime.local_server.server import LocalServer
from tests.support import models

SPLIT = Split("autumn", {"1.0.0": 0.5, "1.1.0": 0.5})
KEYS = ("a", "b", "c", "d", "ü", "customer 4711")
TENSOR = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1.0, 2.0, 3.0, 4.0]}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    path, arms = models.identity(tmp_path_factory.mktemp("models") / "same.onnx"), {}
    for version in ("1.0.0", "1.1.0"):
        arms[version] = ModelHost()
        arms[version].activate(ModelIdentity("same", version, "sha256:" + "0" * 64, "float"), runtime.load(path))
    server = LocalServer(Experiment("same", SPLIT, arms), grpc="127.0.0.1:0")
    server.start()
    yield server
    server.stop()


def over_http(server: LocalServer, *, headers: dict[str, Any] | None = None, **parameters: object) -> str:
    document = {"inputs": [TENSOR], "parameters": parameters}
    response = httpx.post(f"{server.url}/v2/models/same/infer", json=document, headers=headers)
    assert response.status_code == 200, response.text
    return str(response.json()["model_version"])


def over_grpc(server: LocalServer, **said: Any) -> str:
    assert server.grpc_address is not None
    x = triton.InferInput("x", [1, 4], "FP32")
    x.set_data_from_numpy(np.ones((1, 4), np.float32))
    with triton.InferenceServerClient(server.grpc_address) as client:
        return str(client.infer("same", [x], **said).get_response().model_version)


WAYS: dict[str, Callable[[LocalServer, str], str]] = {
    "HTTP header": lambda server, key: over_http(server, headers={"edgeward-key": key.encode()}),
    "HTTP parameter": lambda server, key: over_http(server, edgeward_key=key),
    "gRPC metadata": lambda server, key: over_grpc(server, headers={"edgeward-key": key}),
    "gRPC parameter": lambda server, key: over_grpc(server, parameters={"edgeward_key": key}),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_key_is_answered_by_its_version_however_it_is_said(server: LocalServer, way: str) -> None:
    keys = KEYS if way != "gRPC metadata" else [key for key in KEYS if key.isascii()]
    assert {key: WAYS[way](server, key) for key in keys} == {key: SPLIT.arm(key) for key in keys}
    assert len({SPLIT.arm(key) for key in keys}) == 2


def test_without_a_key_the_first_version_answers(server: LocalServer) -> None:
    assert {over_http(server), over_grpc(server)} == {"1.0.0"}


def test_a_key_in_the_header_goes_before_one_in_the_parameters(server: LocalServer) -> None:
    first, other = (
        next(key for key in KEYS if SPLIT.arm(key) == "1.0.0"),
        next(key for key in KEYS if SPLIT.arm(key) != "1.0.0"),
    )
    assert over_http(server, headers={"edgeward-key": other.encode()}, edgeward_key=first) == "1.1.0"
    assert over_grpc(server, headers={"edgeward-key": other}, parameters={"edgeward_key": first}) == "1.1.0"


def test_a_key_that_is_no_text_is_refused(server: LocalServer) -> None:
    document = {"inputs": [TENSOR], "parameters": {"edgeward_key": 4711}}
    response = httpx.post(f"{server.url}/v2/models/same/infer", json=document)
    assert response.status_code == 400
    assert "edgeward_key" in response.json()["error"]
    with pytest.raises(InferenceServerException, match="edgeward_key is no string"):
        over_grpc(server, parameters={"edgeward_key": 4711})


def test_parameters_come_back_with_the_key_in_them(server: LocalServer) -> None:
    document = {"inputs": [TENSOR], "parameters": {"edgeward_key": "a"}}
    assert httpx.post(f"{server.url}/v2/models/same/infer", json=document).json()["parameters"] == {"edgeward_key": "a"}
