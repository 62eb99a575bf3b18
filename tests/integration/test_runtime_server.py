"""The local server over real HTTP: answers, refusals, limits, and clients that misbehave."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest

import runtime
from runtime import InferenceFailed, ModelHost, ModelIdentity
from runtime.errors import CannotListen
from runtime.local_server import exchange
from runtime.local_server.answering import INLINE_BYTES
from runtime.local_server.oip_facts import EXTENSIONS
from runtime.local_server.server import LocalServer
from tests.support import models
from tests.support.engines import ScriptedEngine, fixed, model_of
from tests.support.oip_requests import BAD_HEADERS, MALFORMED, MALFORMED_BINARY
from tests.support.waiting import until

WAIT_S = 30.0
INFER = "/v2/models/digits/infer"


def identity(version: str = "1.0.0", model: str = "digits") -> ModelIdentity:
    return ModelIdentity(model, version, "sha256:" + "0" * 64, "float")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> ModelHost:
    host = ModelHost()
    path = models.linear_classifier(tmp_path_factory.mktemp("model") / "digits.onnx")
    host.activate(identity(), runtime.load(path))
    return host


@pytest.fixture(scope="module")
def server(host: ModelHost) -> Iterator[LocalServer]:
    server = LocalServer(host)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def client(server: LocalServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=WAIT_S) as client:
        yield client


@pytest.fixture
def serving() -> Iterator[Any]:
    """Starts servers of a test's own host; stops them at its end."""
    started: list[LocalServer] = []

    def start(host: ModelHost, **options: Any) -> httpx.Client:
        server = LocalServer(host, **options)
        server.start()
        started.append(server)
        return httpx.Client(base_url=server.url, timeout=WAIT_S)

    yield start
    for server in started:
        server.stop()


def request(pixels: np.ndarray, **more: Any) -> dict[str, Any]:
    tensor = {"name": "pixels", "shape": list(pixels.shape), "datatype": "FP32", "data": pixels.ravel().tolist()}
    return {"inputs": [tensor], **more}


def scripted(host: ModelHost, engine: ScriptedEngine) -> dict[str, Any]:
    """Activate the engine, and a request that fits it."""
    host.activate(identity(), model_of(engine))
    return {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [0, 0]}]}


def test_it_says_who_it_is_and_that_it_is_well(client: httpx.Client) -> None:
    assert client.get("/v2").json() == {"name": "edgeward", "version": "2", "extensions": [*EXTENSIONS]}
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2/models/digits/ready").json() == {"name": "digits", "ready": True}
    assert client.get("/v2/models/digits/versions/1.0.0/ready").status_code == 200


def test_it_describes_a_model(client: httpx.Client) -> None:
    for path in ("/v2/models/digits", "/v2/models/digits/versions/1.0.0"):
        described = client.get(path).json()
        assert described["name"] == "digits"
        assert described["versions"] == ["1.0.0"]
        assert described["platform"].startswith("onnxruntime")
        assert described["inputs"] == [{"name": "pixels", "datatype": "FP32", "shape": [-1, 64]}]
        assert described["outputs"] == [{"name": "scores", "datatype": "FP32", "shape": [-1, 10]}]


def test_an_answer_is_the_models_and_names_its_version(client: httpx.Client) -> None:
    pixels, _ = models.samples(3)
    for path in (INFER, "/v2/models/digits/versions/1.0.0/infer"):
        response = client.post(path, json=request(pixels, id="a"))
        answer = response.json()
        assert response.status_code == 200
        assert response.headers["content-type"] == "application/json"
        assert (answer["model_name"], answer["model_version"], answer["id"]) == ("digits", "1.0.0", "a")
        (output,) = answer["outputs"]
        assert (output["name"], output["datatype"], output["shape"]) == ("scores", "FP32", [3, 10])
        np.testing.assert_allclose(np.reshape(output["data"], (3, 10)), models.scores(pixels), atol=1e-5)


def test_many_requests_on_one_connection_do_not_wait_for_the_network(client: httpx.Client) -> None:
    """Without TCP_NODELAY each answer takes 40 ms, and these take 4 s."""
    pixels, _ = models.samples(1)
    content = json.dumps(request(pixels))
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(lambda: [client.post(INFER, content=content).status_code for _ in range(100)])
        assert asked.result(3.0) == [200] * 100


@pytest.mark.parametrize("case", MALFORMED + MALFORMED_BINARY, ids=lambda case: case.name)
def test_a_malformed_request_gets_a_400_that_says_what_is_wrong_and_the_next_one_works(client: httpx.Client, case: Any) -> None:
    response = client.post(INFER, content=case.body, headers=case.headers)
    assert response.status_code == 400
    assert set(response.json()) == {"error"}
    pixels, _ = models.samples(1)
    assert client.post(INFER, json=request(pixels)).status_code == 200


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "The inputs are nothing; wanted exactly pixels: FP32[?, 64]."),
        ([{"name": "image", "shape": [1, 64], "datatype": "FP32", "data": [0] * 64}], "The inputs are image; wanted"),
        ([{"name": "pixels", "shape": [1, 64], "datatype": "FP64", "data": [0] * 64}], "Input pixels is FP64; wanted"),
        ([{"name": "pixels", "shape": [64], "datatype": "FP32", "data": [0] * 64}], "Input pixels has shape [64]; wanted"),
    ],
)
def test_a_request_that_does_not_fit_the_model_gets_a_400(client: httpx.Client, inputs: list[Any], message: str) -> None:
    response = client.post(INFER, json={"inputs": inputs})
    assert response.status_code == 400
    assert response.json()["error"].startswith(message)


def test_an_output_that_the_model_does_not_have_gets_a_400(client: httpx.Client) -> None:
    response = client.post(INFER, json=request(models.samples(1)[0], outputs=[{"name": "boxes"}]))
    assert (response.status_code, response.json()) == (400, {"error": "The model has no output boxes; it has scores."})


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v3/models/digits", 404),
        ("GET", "/metrics/more", 404),
        ("GET", "/v2/repository", 404),
        ("POST", "/v2/models/stats", 405),
        ("GET", "/v2/models", 404),
        ("GET", "/v2/models/", 404),
        ("GET", "/v2/models/other", 404),
        ("GET", "/v2/models/other/ready", 404),
        ("GET", "/v2/models/digits/versions/2.0.0", 404),
        ("GET", "/v2/models/digits/versions", 404),
        ("GET", "/v2/models/digits/explain", 404),
        ("GET", "/v2/models/..%2f..%2fetc", 404),
        ("POST", "/v2/models/other/infer", 404),
        ("POST", "/v2/models/digits/versions/2.0.0/infer", 404),
        ("GET", INFER, 405),
        ("PUT", INFER, 405),
        ("POST", "/v2/health/live", 405),
        ("DELETE", "/v2/models/digits", 405),
    ],
)
def test_what_is_not_there_is_said_so(client: httpx.Client, method: str, path: str, status: int) -> None:
    response = client.request(method, path, content=b"{}" if method in ("POST", "PUT") else None)
    assert response.status_code == status
    assert set(response.json()) == {"error"}


def test_what_is_not_spoken_is_said_so(client: httpx.Client) -> None:
    compressed = client.post(INFER, content=b"abc", headers={"Content-Encoding": "gzip"})
    assert (compressed.status_code, set(compressed.json())) == (415, {"error"})
    for value in BAD_HEADERS:
        binary = client.post(INFER, content=b"{}", headers=[(b"Inference-Header-Content-Length", value.encode())])
        assert (binary.status_code, "Inference-Header-Content-Length" in binary.json()["error"]) == (400, True)


def test_no_active_model_is_alive_and_not_ready(serving: Any) -> None:
    with serving(ModelHost()) as client:
        assert client.get("/v2/health/live").status_code == 200
        assert client.get("/v2/health/ready").status_code == 503
        assert client.post(INFER, json=request(models.samples(1)[0])).status_code == 404


def test_a_body_beyond_the_limit_gets_a_413_whether_it_says_its_length_or_not(serving: Any, host: ModelHost) -> None:
    with serving(host, body_bytes=10_000) as client:
        for content in (b" " * 1_000_000, (b" " * 1000 for _ in range(1000))):
            response = client.post(INFER, content=content)
            assert (response.status_code, set(response.json())) == (413, {"error"})
        assert client.post(INFER, json=request(models.samples(1)[0])).status_code == 200


def connection(client: httpx.Client) -> socket.socket:
    return socket.create_connection((client.base_url.host, client.base_url.port or 0), WAIT_S)


def head(length: int, *more: str) -> bytes:
    return "\r\n".join([f"POST {INFER} HTTP/1.1", "Host: x", f"Content-Length: {length}", *more, "", ""]).encode()


def test_a_client_that_asks_first_is_refused_before_it_sends(serving: Any, host: ModelHost) -> None:
    with serving(host, body_bytes=10_000) as client, connection(client) as asking:
        asking.sendall(head(1_000_000, "Expect: 100-continue"))
        assert asking.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_a_client_that_sends_everything_before_it_looks_still_sees_why_it_was_refused(serving: Any, host: ModelHost) -> None:
    with serving(host, body_bytes=10_000) as client, connection(client) as sending:
        sending.sendall(head(32_000_000))
        for _ in range(32):
            sending.sendall(b" " * 1_000_000)
        assert sending.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_all_bodies_together_are_bounded_and_room_comes_back(
    serving: Any, host: ModelHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "_UNREAD_TIMEOUT_S", 600.0)  # a refusal that waits for more of a whole body comes too late
    body = json.dumps(request(models.samples(1)[0])).encode().ljust(9_000)
    with serving(host, body_bytes=10_000) as client, contextlib.ExitStack() as stack:
        held = [stack.enter_context(connection(client)) for _ in range(4)]
        for each in held:
            each.sendall(head(9_001) + body)  # and one byte is still to come
        until(lambda: client.post(INFER, content=body).status_code == 503, "the bodies under way were counted")
        assert client.post(INFER, content=body).headers["retry-after"] == "1"
        held[0].sendall(b" ")
        assert held[0].recv(4096).startswith(b"HTTP/1.1 200 ")
        for each in held[1:]:
            each.close()
        for _ in range(10):  # more than fit at once
            until(lambda: client.post(INFER, content=body).status_code == 200, "there was room again")


def test_an_answer_that_is_no_number_gets_a_500_that_says_so(serving: Any) -> None:
    host = ModelHost()
    body = scripted(host, fixed(float("nan"), 0, 0))
    with serving(host) as client:
        response = client.post(INFER, json=body)
        assert (response.status_code, response.json()["error"]) == (
            500,
            "digits 1.0.0 answered NaN or infinity, which JSON cannot say.",
        )
    assert host.errors("digits") == 1


def test_a_model_that_fails_gets_a_500_and_the_next_one_works(serving: Any) -> None:
    host, broken = ModelHost(), threading.Event()
    broken.set()

    def answer(_: np.ndarray) -> np.ndarray:
        if broken.is_set():
            raise InferenceFailed("no answer today")
        return np.ones((1, 3), np.float32)

    body = scripted(host, ScriptedEngine(answer))
    with serving(host) as client:
        assert client.post(INFER, json=body).json() == {"error": "no answer today"}
        broken.clear()
        assert client.post(INFER, json=body).status_code == 200


def test_a_fault_of_ours_is_not_shown_and_the_next_request_works(serving: Any, caplog: pytest.LogCaptureFixture) -> None:
    host, broken = ModelHost(), threading.Event()
    broken.set()

    def answer(_: np.ndarray) -> np.ndarray:
        if broken.is_set():
            raise ZeroDivisionError("a secret")
        return np.ones((1, 3), np.float32)

    body = scripted(host, ScriptedEngine(answer))
    with serving(host) as client:
        response = client.post(INFER, json=body)
        assert (response.status_code, "secret" in response.text) == (500, False)
        broken.clear()
        assert client.post(INFER, json=body).status_code == 200
    assert "a secret" in caplog.text


def test_a_fast_model_runs_on_the_servers_own_thread_once_it_is_measured(serving: Any) -> None:
    host, names = ModelHost(), []

    def answer(_: np.ndarray) -> np.ndarray:
        names.append(threading.current_thread().name)
        return np.ones((1, 3), np.float32)

    body = scripted(host, ScriptedEngine(answer))
    with serving(host) as client:
        for _ in range(3):
            assert client.post(INFER, json=body).status_code == 200
    assert names[0].startswith("oip_")
    assert names[-1].startswith("http-")


def test_a_large_body_does_not_run_on_the_servers_own_thread(serving: Any) -> None:
    host, names = ModelHost(), []

    def answer(_: np.ndarray) -> np.ndarray:
        names.append(threading.current_thread().name)
        return np.ones((1, 3), np.float32)

    body = json.dumps(scripted(host, ScriptedEngine(answer)))
    with serving(host) as client:
        for content in (body, body, body.ljust(INLINE_BYTES + 1)):
            assert client.post(INFER, content=content).status_code == 200
    assert names[1].startswith("http-")
    assert names[2].startswith("oip_")


def test_health_is_answered_while_a_slow_model_works(serving: Any) -> None:
    host, entered, go = ModelHost(), threading.Event(), threading.Event()

    def answer(_: np.ndarray) -> np.ndarray:
        entered.set()
        assert go.wait(WAIT_S)
        return np.ones((1, 3), np.float32)

    body = scripted(host, ScriptedEngine(answer))
    with serving(host) as client, ThreadPoolExecutor() as pool:
        slow = pool.submit(client.post, INFER, json=body)
        assert entered.wait(WAIT_S)
        assert client.get("/v2/health/live").status_code == 200
        go.set()
        assert slow.result(WAIT_S).status_code == 200


def test_what_is_under_way_is_answered_when_the_server_stops() -> None:
    host, entered, go = ModelHost(), threading.Event(), threading.Event()

    def answer(_: np.ndarray) -> np.ndarray:
        entered.set()
        assert go.wait(WAIT_S)
        return np.ones((1, 3), np.float32)

    body = scripted(host, ScriptedEngine(answer))
    server = LocalServer(host)
    server.start()
    with httpx.Client(base_url=server.url, timeout=WAIT_S) as client, ThreadPoolExecutor() as pool:
        slow = pool.submit(client.post, INFER, json=body)
        assert entered.wait(WAIT_S)
        stopping = pool.submit(server.stop)
        until(lambda: _refuses(server.url), "the server took no new connection")
        go.set()
        assert slow.result(WAIT_S).status_code == 200
        stopping.result(WAIT_S)
    server.stop()


def _refuses(url: str) -> bool:
    port = int(url.rsplit(":", 1)[1])
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return True
    return False


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET",
        b"\x00\xff\x00\xff\r\n\r\n",
        b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{",
        b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
    ],
)
def test_a_client_that_breaks_off_leaves_the_server_well(server: LocalServer, client: httpx.Client, sent: bytes) -> None:
    port = int(server.url.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), WAIT_S) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(4096):
            pass
    assert client.post(INFER, json=request(models.samples(1)[0])).status_code == 200


def test_a_port_that_is_taken_is_said_so(server: LocalServer) -> None:
    port = int(server.url.rsplit(":", 1)[1])
    with pytest.raises(CannotListen, match=rf"127\.0\.0\.1:{port}: Address already in use\. .*choose another port"):
        LocalServer(ModelHost(), port=port).start()


@pytest.mark.parametrize(("address", "port"), [("192.0.2.1", 0), ("no such host", 0), ("127.0.0.1", 70000)])
def test_an_address_that_cannot_be_is_said_so(address: str, port: int) -> None:
    with pytest.raises(CannotListen, match="Cannot listen on"):
        LocalServer(ModelHost(), address=address, port=port).start()


def test_it_listens_on_ipv6_too(host: ModelHost) -> None:
    server = LocalServer(host, address="::1")
    try:
        server.start()
    except CannotListen:
        pytest.skip("this machine has no IPv6")
    try:
        assert server.url.startswith("http://[::1]:")
        assert httpx.get(f"{server.url}/v2/health/ready").status_code == 200
    finally:
        server.stop()
