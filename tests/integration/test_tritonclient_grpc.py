"""The local server's gRPC side as tritonclient knows a server: unmodified, with threads, streams and asyncio."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from onnx import TensorProto
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

import runtime
from runtime import ModelHost, ModelIdentity, sources
from runtime.hosting.repository import Repository
from runtime.local_server.server import LocalServer
from tests.support import models

LABELS = tuple(f"digit {number}" for number in range(models.CLASSES))
KINDS = {
    "bool": TensorProto.BOOL,
    "bytes": TensorProto.STRING,
    "fp16": TensorProto.FLOAT16,
    "fp64": TensorProto.DOUBLE,
    "int8": TensorProto.INT8,
    "int64": TensorProto.INT64,
    "uint8": TensorProto.UINT8,
    "uint64": TensorProto.UINT64,
}
VALUES: dict[str, Any] = {
    "bool": np.array([[True, False]]),
    "bytes": np.array([["a", "ß\U0001f600"], ["", "d"]], object),
    "fp16": np.array([[1.5, -2]], np.float16),
    "fp64": np.array([[1.5, 1e300]], np.float64),
    "int8": np.array([[-128, 127]], np.int8),
    "int64": np.array([[-(2**63), 2**63 - 1]], np.int64),
    "uint8": np.array([[0, 255]], np.uint8),
    "uint64": np.array([[0, 2**64 - 1]], np.uint64),
}


def activate(host: ModelHost, path: Path, *, version: str = "1.0.0", labels: tuple[str, ...] = ()) -> None:
    host.activate(ModelIdentity(path.stem, version, "sha256:" + "0" * 64, "float"), runtime.load(path), labels)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a server with models of several datatypes."""
    directory, host = tmp_path_factory.mktemp("models"), ModelHost()
    activate(host, models.linear_classifier(directory / "digits.onnx"), labels=LABELS)
    activate(host, models.two_inputs(directory / "pair.onnx"))
    activate(host, models.not_a_number(directory / "broken.onnx"))
    for name, kind in KINDS.items():
        activate(host, models.identity(directory / f"{name}.onnx", kind, ("batch", 2)))
    server = LocalServer(host, grpc="127.0.0.1:0")
    server.start()
    assert server.grpc_address is not None
    yield server.grpc_address
    server.stop()


@pytest.fixture
def client(address: str) -> Iterator[Any]:
    with triton.InferenceServerClient(address) as client:
        yield client


def tensor(name: str, array: np.ndarray, datatype: str) -> Any:
    given = triton.InferInput(name, list(array.shape), datatype)
    given.set_data_from_numpy(array)
    return given


def pixels(count: int = 3) -> tuple[np.ndarray, Any]:
    values, _ = models.samples(count)
    return values, tensor("pixels", values, "FP32")


def test_the_server_and_its_models_are_well(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits")
    assert client.is_model_ready("digits", "1.0.0")
    assert not client.is_model_ready("digits", "2.0.0")
    assert not client.is_model_ready("other")


def test_server_and_models_are_described_as_over_http(client: Any) -> None:
    said = client.get_server_metadata(as_json=True)
    assert said["name"] == "edgeward"
    assert {"binary_tensor_data", "classification", "statistics"} <= set(said["extensions"])
    metadata = client.get_model_metadata("digits", as_json=True)
    assert metadata["inputs"] == [{"name": "pixels", "datatype": "FP32", "shape": ["-1", "64"]}]
    assert metadata["versions"] == ["1.0.0"]
    config = client.get_model_config("digits", "1.0.0").config
    assert (config.name, config.backend, config.max_batch_size) == ("digits", "onnxruntime", 0)
    assert (config.input[0].name, list(config.input[0].dims)) == ("pixels", [-1, 64])
    assert client.get_model_config("bytes", as_json=True)["config"]["output"][0]["data_type"] == "TYPE_STRING"


def test_an_answer_is_the_models_and_repeats_what_the_request_is_called(client: Any) -> None:
    values, given = pixels()
    wanted = [triton.InferRequestedOutput("scores")]
    for outputs in (None, wanted):
        result = client.infer("digits", [given], outputs=outputs, request_id="17", parameters={"origin": "line 3"})
        np.testing.assert_allclose(result.as_numpy("scores"), models.scores(values), atol=1e-5)
        said = result.get_response()
        assert (said.model_name, said.model_version, said.id) == ("digits", "1.0.0", "17")
        assert {name: each.string_param for name, each in said.parameters.items()} == {"origin": "line 3"}
        assert len(said.raw_output_contents) == 1


@pytest.mark.parametrize("name", KINDS)
def test_every_datatype_comes_back_as_it_was_sent(client: Any, name: str) -> None:
    answer = client.infer(name, [tensor("x", VALUES[name], name.upper())]).as_numpy("y")
    if name == "bytes":
        assert [[each.decode() for each in row] for row in answer.tolist()] == VALUES[name].tolist()
    else:
        assert answer.dtype == VALUES[name].dtype
        np.testing.assert_array_equal(answer, VALUES[name])


CONTENTS = {"bool": "bool", "int8": "int", "int64": "int64", "uint8": "uint", "uint64": "uint64", "fp64": "fp64"}


@pytest.mark.parametrize(("name", "field"), [*CONTENTS.items(), ("bytes", "bytes")])
def test_typed_contents_are_read_as_well_as_raw_ones(address: str, name: str, field: str) -> None:
    request = service_pb2.ModelInferRequest(model_name=name)
    given = request.inputs.add(name="x", datatype=name.upper(), shape=VALUES[name].shape)
    values = VALUES[name].ravel().tolist()
    getattr(given.contents, f"{field}_contents").extend([each.encode() for each in values] if name == "bytes" else values)
    with grpc.insecure_channel(address) as channel:
        raw = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(request.SerializeToString(), timeout=10)
    answer = service_pb2.ModelInferResponse.FromString(raw)
    result = triton.InferResult(answer).as_numpy("y")
    expected = np.array([[each.encode() for each in row] for row in VALUES[name]]) if name == "bytes" else VALUES[name]
    np.testing.assert_array_equal(result.astype(expected.dtype), expected)


def test_several_inputs_and_outputs_keep_their_order(client: Any) -> None:
    left, right = np.array([[1, 2]], np.float32), np.array([[10, 0]], np.float32)
    given = [tensor("right", right, "FP32"), tensor("left", left, "FP32")]
    result = client.infer("pair", given, outputs=[triton.InferRequestedOutput("largest"), triton.InferRequestedOutput("total")])
    assert result.as_numpy("total").tolist() == [[11, 2]]
    assert result.as_numpy("largest").tolist() == [0]
    assert [each.name for each in result.get_response().outputs] == ["largest", "total"]


def test_the_best_classes_come_with_their_labels(client: Any) -> None:
    values, given = pixels(2)
    best = client.infer("digits", [given], outputs=[triton.InferRequestedOutput("scores", class_count=2)]).as_numpy("scores")
    assert best.shape == (2, 2)
    for row, texts in zip(models.scores(values), best, strict=True):
        score, index, label = texts[0].decode().split(":")
        assert (int(index), label) == (int(row.argmax()), LABELS[row.argmax()])
        assert float(score) == pytest.approx(row.max(), abs=1e-5)


def test_many_requests_may_be_under_way_at_once(client: Any) -> None:
    values, given = pixels()
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    for number in range(20):
        client.async_infer(
            "digits", [given], callback=lambda result, error: answers.put((result, error)), request_id=str(number)
        )
    results = [answers.get(timeout=10) for _ in range(20)]
    assert {result.get_response().id for result, error in results if error is None} == {str(number) for number in range(20)}
    for result, _ in results:
        np.testing.assert_allclose(result.as_numpy("scores"), models.scores(values), atol=1e-5)


def test_a_stream_answers_in_order_and_goes_on_after_a_refusal(client: Any) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    values, given = pixels()
    for model in ("digits", "other", "digits"):
        client.async_stream_infer(model, [given], request_id=model)
    said = [answers.get(timeout=10) for _ in range(3)]
    client.stop_stream()
    assert "No model 'other' is active here" in str(said[1][1])
    for result in (said[0][0], said[2][0]):
        np.testing.assert_allclose(result.as_numpy("scores"), models.scores(values), atol=1e-5)


def test_asyncio_clients_are_answered_too(address: str) -> None:
    values, given = pixels()

    async def ask() -> list[Any]:
        async with triton_aio.InferenceServerClient(address) as client:
            assert await client.is_server_ready()
            assert (await client.get_model_metadata("digits")).name == "digits"
            return await asyncio.gather(*(client.infer("digits", [given]) for _ in range(8)))

    for result in asyncio.run(ask()):
        np.testing.assert_allclose(result.as_numpy("scores"), models.scores(values), atol=1e-5)


def test_a_refusal_is_the_clients_own_exception_and_the_next_request_works(client: Any) -> None:
    values, given = pixels(1)
    wrong = tensor("pixels", values.astype(np.float64), "FP64")
    big = tensor("pixels", np.zeros((70_000, 64), np.float32), "FP32")
    unknown = [triton.InferRequestedOutput("other")]
    refusals: list[tuple[str, Callable[[], object]]] = [
        ("INVALID_ARGUMENT", lambda: client.infer("digits", [wrong])),
        ("INVALID_ARGUMENT", lambda: client.infer("digits", [given], outputs=unknown)),
        ("NOT_FOUND", lambda: client.infer("other", [given])),
        ("NOT_FOUND", lambda: client.infer("digits", [given], model_version="9.9.9")),
        ("NOT_FOUND", lambda: client.get_model_config("other")),
        ("UNIMPLEMENTED", lambda: client.infer("digits", [given], compression_algorithm="gzip")),
        ("UNIMPLEMENTED", client.get_trace_settings),
        ("RESOURCE_EXHAUSTED", lambda: client.infer("digits", [big])),
        ("DEADLINE_EXCEEDED", lambda: client.infer("digits", [given], timeout=1)),
    ]
    for status, ask in refusals:
        with pytest.raises(InferenceServerException) as refused:
            ask()
        assert refused.value.status() == f"StatusCode.{status}"
        assert refused.value.message()
        assert client.infer("digits", [given]).as_numpy("scores").shape == (1, 10)


def test_what_is_not_finite_comes_flagged(client: Any) -> None:
    result = client.infer("broken", [pixels(1)[1]])
    assert np.isnan(result.as_numpy("scores")).all()
    assert not result.get_response().parameters["finite"].bool_param
    assert result.get_response().parameters["finite"].WhichOneof("parameter_choice") == "bool_param"


def test_statistics_count_what_came_by_either_protocol(tmp_path: Path) -> None:
    host = ModelHost()
    activate(host, models.linear_classifier(tmp_path / "digits.onnx"))
    server = LocalServer(host, grpc="127.0.0.1:0")
    server.start()
    try:
        with triton.InferenceServerClient(server.grpc_address) as client:
            _, given = pixels(3)
            for _ in range(4):
                client.infer("digits", [given])
            with pytest.raises(InferenceServerException):
                client.infer("digits", [tensor("pixels", np.zeros((1, 2), np.float32), "FP32")])
            (stats,) = client.get_inference_statistics("digits", "1.0.0").model_stats
            everything = client.get_inference_statistics().model_stats
    finally:
        server.stop()
    assert list(everything) == [stats]
    assert (stats.inference_count, stats.execution_count) == (12, 4)
    assert (stats.inference_stats.success.count, stats.inference_stats.fail.count) == (4, 1)
    assert stats.inference_stats.compute_infer.ns > 0
    assert stats.last_inference > 1_600_000_000_000


def test_a_repository_lets_clients_switch_its_models_on_and_off(tmp_path: Path) -> None:
    host = ModelHost()
    repository = Repository(host, [sources.find(models.linear_classifier(tmp_path / "digits.onnx"))])
    server = LocalServer(host, repository=repository, grpc="127.0.0.1:0")
    server.start()
    try:
        with triton.InferenceServerClient(server.grpc_address) as client:
            assert [each.state for each in client.get_model_repository_index().models] == ["UNAVAILABLE"]
            assert not client.is_server_ready()
            client.load_model("digits")
            assert client.is_model_ready("digits")
            assert [each.state for each in client.get_model_repository_index().models] == ["READY"]
            client.unload_model("digits")
            assert not client.is_model_ready("digits")
            for status, name, options in (("NOT_FOUND", "stranger", {}), ("INVALID_ARGUMENT", "digits", {"config": "{}"})):
                with pytest.raises(InferenceServerException) as refused:
                    client.load_model(name, **options)
                assert refused.value.status() == f"StatusCode.{status}"
    finally:
        server.stop()


def test_who_decides_elsewhere_what_runs_refuses_politely_to_change_it(client: Any) -> None:
    for change in (client.load_model, client.unload_model):
        with pytest.raises(InferenceServerException, match="decided by whoever started this server") as refused:
            change("digits")
        assert refused.value.status() == "StatusCode.PERMISSION_DENIED"
