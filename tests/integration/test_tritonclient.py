"""The local server as tritonclient knows a server: unmodified, raw and JSON, from greenlets and from asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from onnx import TensorProto
from tritonclient.utils import InferenceServerException

import runtime
from runtime import ModelHost, ModelIdentity, sources
from runtime.hosting.repository import Repository
from runtime.local_server.server import LocalServer
from tests.support import models

LABELS = tuple(f"digit {number}" for number in range(models.CLASSES))
MANIFEST = "sha256:" + "0" * 64


def activate(host: ModelHost, path: Path, *, version: str = "1.0.0", labels: tuple[str, ...] = ()) -> None:
    host.activate(ModelIdentity(path.stem, version, MANIFEST, "float"), runtime.load(path), labels)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with models of several datatypes; `host:port`, as tritonclient wants it."""
    directory, host = tmp_path_factory.mktemp("models"), ModelHost()
    activate(host, models.linear_classifier(directory / "digits.onnx"), labels=LABELS)
    activate(host, models.two_inputs(directory / "pair.onnx"))
    activate(host, models.not_a_number(directory / "broken.onnx"))
    for name, kind in KINDS.items():
        activate(host, models.identity(directory / f"{name}.onnx", kind, ("batch", 2)))
    server = LocalServer(host)
    server.start()
    yield server.url.removeprefix("http://")
    server.stop()


KINDS = {
    "bool": TensorProto.BOOL,
    "bytes": TensorProto.STRING,
    "fp16": TensorProto.FLOAT16,
    "fp64": TensorProto.DOUBLE,
    "int8": TensorProto.INT8,
    "int64": TensorProto.INT64,
    "uint8": TensorProto.UINT8,
}
VALUES: dict[str, Any] = {
    "bool": np.array([[True, False]]),
    "bytes": np.array([["a", "ß\U0001f600"], ["", "d"]], object),
    "fp16": np.array([[1.5, -2]], np.float16),
    "fp64": np.array([[1.5, 1e300]], np.float64),
    "int8": np.array([[-128, 127]], np.int8),
    "int64": np.array([[-(2**63), 2**63 - 1]], np.int64),
    "uint8": np.array([[0, 255]], np.uint8),
}


@pytest.fixture
def client(url: str) -> Iterator[Any]:
    with triton.InferenceServerClient(url) as client:
        yield client


def tensor(name: str, array: np.ndarray, datatype: str, *, binary: bool = True) -> Any:
    given = triton.InferInput(name, list(array.shape), datatype)
    given.set_data_from_numpy(array, binary_data=binary)
    return given


def pixels(count: int = 3, *, binary: bool = True) -> tuple[np.ndarray, Any]:
    values, _ = models.samples(count)
    return values, tensor("pixels", values, "FP32", binary=binary)


def test_the_server_and_its_models_are_well(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits")
    assert client.is_model_ready("digits", "1.0.0")
    assert not client.is_model_ready("digits", "2.0.0")
    assert not client.is_model_ready("other")


def test_the_server_says_what_it_speaks(client: Any) -> None:
    said = client.get_server_metadata()
    assert said["name"] == "edgeward"
    assert {"binary_tensor_data", "classification", "statistics"} <= set(said["extensions"])


def test_a_model_is_described_and_so_is_how_it_is_run(client: Any) -> None:
    assert client.get_model_metadata("digits")["inputs"] == [{"name": "pixels", "datatype": "FP32", "shape": [-1, 64]}]
    config = client.get_model_config("digits", "1.0.0")
    assert config["name"] == "digits"
    assert config["backend"] == "onnxruntime"
    assert config["max_batch_size"] == 0
    assert config["input"] == [{"name": "pixels", "data_type": "TYPE_FP32", "format": "FORMAT_NONE", "dims": [-1, 64]}]
    assert client.get_model_config("bytes")["output"][0]["data_type"] == "TYPE_STRING"
    assert config["version_policy"] == {"specific": {"versions": ["1.0.0"]}}


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("outputs", [None, True, False])
def test_an_answer_is_the_models_whichever_way_it_travels(client: Any, binary_in: bool, outputs: bool | None) -> None:
    values, given = pixels(binary=binary_in)
    wanted = None if outputs is None else [triton.InferRequestedOutput("scores", binary_data=outputs)]
    result = client.infer("digits", [given], outputs=wanted, request_id="17", parameters={"origin": "line 3"})
    np.testing.assert_allclose(result.as_numpy("scores"), models.scores(values), atol=1e-5)
    said = result.get_response()
    assert (said["model_name"], said["model_version"], said["id"]) == ("digits", "1.0.0", "17")
    assert said["parameters"] == {"origin": "line 3"}
    assert ("data" in result.get_output("scores")) == (outputs is False)


@pytest.mark.parametrize(
    ("name", "binary"),
    [*((name, True) for name in KINDS), *((name, False) for name in KINDS if name != "fp16")],  # it sends halves raw only
)
def test_every_datatype_comes_back_as_it_was_sent(client: Any, name: str, binary: bool) -> None:
    values = VALUES[name]
    given = tensor("x", values, name.upper(), binary=binary)
    result = client.infer(name, [given], outputs=[triton.InferRequestedOutput("y", binary_data=binary)])
    answer = result.as_numpy("y")
    if name == "bytes":
        decoded = [[each.decode() if binary else str(each) for each in row] for row in answer.tolist()]
        assert decoded == values.tolist()
    else:
        assert answer.dtype == values.dtype
        np.testing.assert_array_equal(answer, values)


def test_several_inputs_and_outputs_keep_their_order(client: Any) -> None:
    left, right = np.array([[1, 2]], np.float32), np.array([[10, 0]], np.float32)
    given = [tensor("right", right, "FP32"), tensor("left", left, "FP32", binary=False)]
    wanted = [triton.InferRequestedOutput("largest"), triton.InferRequestedOutput("total", binary_data=False)]
    result = client.infer("pair", given, outputs=wanted)
    assert result.as_numpy("total").tolist() == [[11, 2]]
    assert result.as_numpy("largest").tolist() == [0]


def test_the_best_classes_come_with_their_labels(client: Any) -> None:
    values, given = pixels(2)
    result = client.infer("digits", [given], outputs=[triton.InferRequestedOutput("scores", class_count=2)])
    best = result.as_numpy("scores")
    assert best.shape == (2, 2)
    for row, texts in zip(models.scores(values), best, strict=True):
        score, index, label = texts[0].decode().split(":")
        assert (int(index), label) == (int(row.argmax()), LABELS[row.argmax()])
        assert float(score) == pytest.approx(row.max(), abs=1e-5)


def test_many_requests_may_be_under_way_at_once(url: str) -> None:
    values, given = pixels()
    with triton.InferenceServerClient(url, concurrency=4) as client:
        asked = [client.async_infer("digits", [given], request_id=str(number)) for number in range(20)]
        for number, each in enumerate(asked):
            result = each.get_result(timeout=10)
            assert result.get_response()["id"] == str(number)
            np.testing.assert_allclose(result.as_numpy("scores"), models.scores(values), atol=1e-5)


def test_asyncio_clients_are_answered_too(url: str) -> None:
    values, given = pixels()

    async def ask() -> list[Any]:
        async with triton_aio.InferenceServerClient(url) as client:
            assert await client.is_server_ready()
            assert (await client.get_model_metadata("digits"))["name"] == "digits"
            return await asyncio.gather(*(client.infer("digits", [given]) for _ in range(8)))

    for result in asyncio.run(ask()):
        np.testing.assert_allclose(result.as_numpy("scores"), models.scores(values), atol=1e-5)


def test_a_refusal_is_the_clients_own_exception_and_the_next_request_works(client: Any) -> None:
    values, given = pixels(1)
    wrong = tensor("pixels", values.astype(np.float64), "FP64")
    refusals: list[tuple[str, Callable[[], object]]] = [
        ("400", lambda: client.infer("digits", [wrong])),
        ("404", lambda: client.infer("other", [given])),
        ("404", lambda: client.infer("digits", [given], model_version="9.9.9")),
        ("415", lambda: client.infer("digits", [given], request_compression_algorithm="gzip")),
        ("404", lambda: client.get_model_config("other")),
    ]
    for status, ask in refusals:
        with pytest.raises(InferenceServerException) as refused:
            ask()
        assert refused.value.status() == status
        assert refused.value.message()
    assert client.infer("digits", [given]).as_numpy("scores").shape == (1, 10)


def test_what_is_not_finite_comes_raw_and_flagged_and_never_as_json(client: Any) -> None:
    _, given = pixels(1)
    result = client.infer("broken", [given])
    assert np.isnan(result.as_numpy("scores")).all()
    assert result.get_response()["parameters"] == {"finite": False}
    with pytest.raises(InferenceServerException, match="NaN or infinity"):
        client.infer("broken", [given], outputs=[triton.InferRequestedOutput("scores", binary_data=False)])


def test_statistics_count_what_was_answered_and_what_was_not(tmp_path: Path) -> None:
    host = ModelHost()
    activate(host, models.linear_classifier(tmp_path / "digits.onnx"))
    server = LocalServer(host)
    server.start()
    try:
        with triton.InferenceServerClient(server.url.removeprefix("http://")) as client:
            assert client.get_inference_statistics("digits")["model_stats"][0]["inference_count"] == 0
            _, given = pixels(3)
            for _ in range(4):
                client.infer("digits", [given])
            with pytest.raises(InferenceServerException):
                client.infer("digits", [tensor("pixels", np.zeros((1, 2), np.float32), "FP32")])
            (stats,) = client.get_inference_statistics("digits", "1.0.0")["model_stats"]
            everything = client.get_inference_statistics()["model_stats"]
    finally:
        server.stop()
    assert everything == [stats]
    assert (stats["name"], stats["version"]) == ("digits", "1.0.0")
    assert (stats["inference_count"], stats["execution_count"]) == (12, 4)
    spent = stats["inference_stats"]
    assert (spent["success"]["count"], spent["fail"]["count"]) == (4, 1)
    assert spent["compute_infer"]["ns"] > 0
    assert spent["fail"]["ns"] > 0
    parts = ("queue", "compute_input", "compute_infer", "compute_output")
    assert spent["success"]["ns"] == sum(spent[part]["ns"] for part in parts)
    assert stats["last_inference"] > 1_600_000_000_000


def test_who_decides_elsewhere_what_runs_lists_it_and_refuses_politely_to_change_it(client: Any) -> None:
    index = client.get_model_repository_index()
    assert {"name": "digits", "version": "1.0.0", "state": "READY", "reason": ""} in index
    for change in (client.load_model, client.unload_model):
        with pytest.raises(InferenceServerException, match="decided by whoever started this server") as refused:
            change("digits")
        assert refused.value.status() == "403"
    assert client.is_model_ready("digits")


def test_a_repository_lets_clients_switch_its_models_on_and_off(tmp_path: Path) -> None:
    host = ModelHost()
    files = [models.linear_classifier(tmp_path / "digits.onnx"), models.linear_classifier(tmp_path / "other.onnx")]
    gone = models.linear_classifier(tmp_path / "gone.onnx")
    repository = Repository(host, [sources.find(path) for path in [*files, gone]])
    gone.write_bytes(b"not a model")
    server = LocalServer(host, repository=repository)
    server.start()
    try:
        with triton.InferenceServerClient(server.url.removeprefix("http://")) as client:
            assert [each["state"] for each in client.get_model_repository_index()] == ["UNAVAILABLE"] * 3
            client.load_model("digits")
            client.load_model("digits")
            assert client.is_model_ready("digits")
            assert client.infer("digits", [pixels()[1]]).as_numpy("scores").shape == (3, 10)
            states = {each["name"]: each["state"] for each in client.get_model_repository_index()}
            assert states == {"digits": "READY", "gone": "UNAVAILABLE", "other": "UNAVAILABLE"}
            index = f"{server.url}/v2/repository/index"
            assert [each["name"] for each in httpx.post(index, json={"ready": True}).json()] == ["digits"]
            assert [httpx.post(index, content=wrong).status_code for wrong in (b"[", b"[]", b'{"ready": 1}')] == [400] * 3
            client.unload_model("digits")
            assert not client.is_model_ready("digits")
            for status, name, options in (("404", "stranger", {}), ("400", "gone", {}), ("400", "other", {"config": "{}"})):
                with pytest.raises(InferenceServerException) as refused:
                    client.load_model(name, **options)
                assert refused.value.status() == status
            assert not client.is_model_ready("other")
    finally:
        server.stop()
        host.deactivate("digits")
