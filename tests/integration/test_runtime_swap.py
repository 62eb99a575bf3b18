"""Versions change under load: no request fails, and none is answered by two versions."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

import runtime
from runtime import Inference, ModelHost, ModelIdentity
from runtime.local_server.server import LocalServer
from tests.support import models

SWAPS = 200
ASKERS = 4
PIXELS = models.samples(4)[0]


def identity(number: int) -> ModelIdentity:
    return ModelIdentity("digits", f"{number}.0.0", "sha256:" + "0" * 64, "float")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Version n answers n + 1 in every element."""
    directory = tmp_path_factory.mktemp("versions")
    return [models.constant(directory / f"{number}.onnx", number + 1) for number in range(5)]


def swap_through(host: ModelHost, files: list[Path], swaps: int) -> None:
    for number in range(1, swaps + 1):
        host.activate(identity(number), runtime.load(files[number % len(files)]))


def consistent(answer: Inference) -> bool:
    number = int(answer.identity.version.split(".")[0])
    return bool((answer.outputs["scores"] == number % 5 + 1).all())


def test_no_request_fails_or_mixes_versions_while_they_change(files: list[Path]) -> None:
    host = ModelHost()
    host.activate(identity(0), runtime.load(files[0]))
    stop, problems, seen = threading.Event(), [], Counter[str]()

    def ask() -> None:
        while not stop.is_set():
            try:
                answer = host.infer("digits", {"pixels": PIXELS})
            except Exception as error:  # noqa: BLE001  # any failure at all is what this test looks for
                problems.append(repr(error))
                return
            seen[answer.identity.version] += 1
            if not consistent(answer):
                problems.append(f"{answer.identity.version} answered {answer.outputs['scores'][0, 0]}")

    threads = [threading.Thread(target=ask) for _ in range(ASKERS)]
    for thread in threads:
        thread.start()
    swap_through(host, files, SWAPS)
    stop.set()
    for thread in threads:
        thread.join()
    assert not problems
    assert len(seen) > 10, "the load did not see the switches"
    counted = sum(usage.latency.count for usage in host.take_usage(1e10))
    assert counted <= sum(seen.values())  # a host keeps the usages of its last 64 versions
    assert not any(usage.errors for usage in host.take_usage(1e10))


def test_no_http_request_fails_or_mixes_versions_while_they_change(files: list[Path]) -> None:
    host = ModelHost()
    host.activate(identity(0), runtime.load(files[0]))
    server = LocalServer(host)
    server.start()
    body = {"inputs": [{"name": "pixels", "shape": [1, 64], "datatype": "FP32", "data": [0.0] * 64}]}
    stop, problems, seen = threading.Event(), [], Counter[str]()

    def ask() -> None:
        with httpx.Client(base_url=server.url, timeout=20.0) as client:
            while not stop.is_set():
                response = client.post("/v2/models/digits/infer", json=body)
                if response.status_code != 200:
                    problems.append(response.text)
                    return
                answer = response.json()
                number = int(answer["model_version"].split(".")[0])
                seen[answer["model_version"]] += 1
                if answer["outputs"][0]["data"] != [number % 5 + 1.0] * 10:
                    problems.append(response.text)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    swap_through(host, files, SWAPS)
    stop.set()
    for thread in threads:
        thread.join()
    server.stop()
    assert not problems
    assert len(seen) > 10, "the load did not see the switches"


def test_replaced_versions_give_their_memory_back(tmp_path: Path) -> None:
    """A version of 16 MiB, 40 times: kept, they would be 640 MiB."""
    large = models.constant(tmp_path / "large.onnx", 1.0, features=4096, classes=1024)
    host = ModelHost()
    inputs = {"pixels": np.zeros((1, 4096), np.float32)}

    def replace(times: int) -> int:
        for number in range(times):
            host.activate(identity(number), runtime.load(large))
            host.infer("digits", inputs)
        return int(psutil.Process().memory_info().rss)

    after_a_few = replace(5)
    assert replace(40) - after_a_few < 100 << 20
