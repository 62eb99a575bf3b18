"""What every protocol of the local server shares: metrics, the token, tracing headers, and the Unix socket."""

from __future__ import annotations

import math
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from runtime import ModelHost, ModelIdentity
from runtime.errors import CannotListen
from runtime.local_server.server import LocalServer
from tests.support.engines import fixed, model_of

INFER = "/v2/models/digits/infer"
GOOD = {"inputs": [{"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [0, 0, 0, 0]}]}
BAD = {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [0, 0, 0]}]}
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def host_of(*row: float, model: str = "digits", version: str = "1.0.0") -> ModelHost:
    host = ModelHost()
    host.activate(ModelIdentity(model, version, "sha256:" + "0" * 64, "float"), model_of(fixed(*row)))
    return host


@pytest.fixture
def serving() -> Iterator[Any]:
    """Starts servers; stops them at the test's end."""
    started: list[LocalServer] = []

    def start(host: ModelHost, **options: Any) -> httpx.Client:
        server = LocalServer(host, **options)
        server.start()
        started.append(server)
        if server.url.startswith("unix:"):
            transport = httpx.HTTPTransport(uds=server.url.removeprefix("unix:"))
            return httpx.Client(base_url="http://local", timeout=10, transport=transport)
        return httpx.Client(base_url=server.url, timeout=10)

    yield start
    for server in started:
        server.stop()


def samples(client: httpx.Client) -> dict[str, float]:
    """Every sample of `/metrics`, by its name and labels."""
    response = client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return {
        f"{sample.name} {' '.join(sample.labels.values())}".strip(): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def test_metrics_count_answers_errors_and_latency_by_model_and_version(serving: Any) -> None:
    with serving(host_of(1, 0, 0)) as client:
        assert samples(client)["edgeward_model_info digits 1.0.0 float scripted"] == 1
        for _ in range(3):
            assert client.post(INFER, json=GOOD).status_code == 200
        assert client.post("/v1/models/digits:predict", json={"instances": [[0, 0]]}).status_code == 200
        assert client.post(INFER, json=BAD).status_code == 400
        assert client.post("/v2/models/stranger/infer", json=GOOD).status_code == 404
        got = samples(client)
    assert got["edgeward_requests_total digits 1.0.0 answered"] == 4
    assert got["edgeward_requests_total digits 1.0.0 invalid"] == 1
    assert got["edgeward_samples_total digits 1.0.0"] == 7
    assert got["edgeward_request_seconds_count digits 1.0.0"] == 5
    assert got["edgeward_request_seconds_bucket digits 1.0.0 +Inf"] == 5
    assert 0 < got["edgeward_inference_seconds_total digits 1.0.0"] < got["edgeward_request_seconds_sum digits 1.0.0"]
    assert {name: value for name, value in got.items() if name.startswith("edgeward_refusals_total")} == {
        "edgeward_refusals_total 400": 1,
        "edgeward_refusals_total 404": 1,
    }
    assert got["edgeward_held_body_bytes"] == 0
    assert not any("stranger" in name for name in got)
    buckets = [value for name, value in got.items() if name.startswith("edgeward_request_seconds_bucket")]
    assert buckets == sorted(buckets)


def test_metrics_count_what_is_not_finite(serving: Any) -> None:
    with serving(host_of(math.nan, 0, 0)) as client:
        assert client.post(INFER, json=GOOD).status_code == 500
        raw = client.post(INFER, json=GOOD | {"parameters": {"binary_data_output": True}})
        got = samples(client)
    length = int(raw.headers["inference-header-content-length"])
    assert np.isnan(np.frombuffer(raw.content[length:], "<f4").reshape(2, 3)[:, 0]).all()
    assert got["edgeward_requests_total digits 1.0.0 non_finite"] == 2


def test_a_request_about_the_server_itself_is_refused_as_one_for_nothing(serving: Any) -> None:
    with serving(host_of(1, 0, 0)) as client:
        refused = client.options("/", extensions={"target": b"*"})
    assert refused.status_code == 404
    assert refused.json()["error"].startswith("There is nothing at *.")


def test_labels_are_escaped(serving: Any) -> None:
    version = 'a"b\\c\nd'
    with serving(host_of(1, 0, 0, version=version)) as client:
        assert f"edgeward_model_info digits {version} float scripted" in samples(client)


def test_with_a_token_only_health_is_answered_to_everybody(serving: Any) -> None:
    with serving(host_of(1, 0, 0), token="a secret") as client:
        for path in ("/v2/health/live", "/v2/health/ready"):
            assert client.get(path).status_code == 200
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "a secret"}, {"Authorization": "Basic YQ=="}):
            for method, path in (("GET", "/v2"), ("GET", "/metrics"), ("GET", "/v1/models/digits"), ("POST", INFER)):
                refused = client.request(method, path, headers=headers)
                assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
                assert set(refused.json()) == {"error"}
        assert client.get("/v2", headers={"Authorization": "bearer a secret"}).status_code == 200
        client.headers["Authorization"] = "Bearer a secret"
        assert client.post(INFER, json=GOOD).status_code == 200
        assert client.get("/metrics").status_code == 200


def test_a_trace_is_repeated_on_answers_and_refusals(serving: Any) -> None:
    with serving(host_of(1, 0, 0)) as client:
        for content in (GOOD, BAD):
            assert client.post(INFER, json=content, headers={"traceparent": TRACE}).headers["traceparent"] == TRACE
        later = "01" + TRACE[2:] + "-more"
        assert client.get("/v2", headers={"traceparent": later}).headers["traceparent"] == later


@pytest.mark.parametrize(
    "value",
    ["", "1", TRACE.upper(), "ff" + TRACE[2:], TRACE.replace("b7ad6b7169203331", "0" * 16), TRACE + "x" * 300, TRACE[:-1]],
)
def test_what_is_no_trace_is_not_repeated(serving: Any, value: str) -> None:
    with serving(host_of(1, 0, 0)) as client:
        assert "traceparent" not in client.get("/v2", headers={"traceparent": value}).headers


@pytest.fixture
def socket_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unix sockets' paths are short."""
    return tmp_path_factory.mktemp("s") / "s"


def test_a_unix_socket_is_listened_on_by_whom_its_permissions_allow(serving: Any, socket_path: Path) -> None:
    with serving(host_of(1, 0, 0), address=f"unix:{socket_path}") as client:
        assert client.post(INFER, json=GOOD).status_code == 200
        assert stat.S_IMODE(socket_path.stat().st_mode) == 0o660


def test_a_socket_ends_with_its_server_and_one_that_a_killed_server_left_is_replaced(serving: Any, socket_path: Path) -> None:
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(socket_path))
    left.close()
    server = LocalServer(host_of(1, 0, 0), address=f"unix:{socket_path}")
    server.start()
    try:
        with pytest.raises(CannotListen, match=r"Cannot listen on unix:.*: Address already in use\."):
            LocalServer(ModelHost(), address=f"unix:{socket_path}").start()
    finally:
        server.stop()
    assert not socket_path.exists()


def test_an_empty_address_is_not_every_address(serving: Any) -> None:
    with pytest.raises(CannotListen, match="empty address"):
        serving(host_of(1, 0, 0), address="")


def test_a_file_that_is_no_socket_is_left_alone(socket_path: Path) -> None:
    socket_path.write_text("precious")
    refused = {
        socket_path: "Address already in use. Stop the program that does",
        socket_path.parent / "no such directory" / "s": "No such file or directory. Choose another path",
        Path("/" + "x" * 200): "AF_UNIX path too long. Choose another path",
    }
    for path, why in refused.items():
        with pytest.raises(CannotListen, match=f"Cannot listen on unix:{path}: {why}"):
            LocalServer(ModelHost(), address=f"unix:{path}").start()
    assert socket_path.read_text() == "precious"
