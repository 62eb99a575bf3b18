"""The server when too much is asked, when a model hangs, and when models share a memory budget: over real sockets."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from runtime import ModelHost, ModelIdentity, ModelRejected, sources
from runtime.hosting.admission import Limits
from runtime.hosting.pool import ModelPool
from runtime.hosting.repository import Repository
from runtime.hosting.serving import Serving
from runtime.local_server.answering import INLINE_S
from runtime.local_server.server import LocalServer
from tests.support import models
from tests.support.engines import ScriptedEngine, fixed, model_of
from tests.support.waiting import until

WAIT_S = 20.0
ASKED = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [0.0, 0.0]}]}


def identity(model: str) -> ModelIdentity:
    return ModelIdentity(model, "1.0.0", "sha256:" + "0" * 64, "float")


@pytest.fixture
def serving() -> Iterator[Any]:
    held: list[Any] = []

    def start(host: Serving, **options: Any) -> httpx.Client:
        server = LocalServer(host, **options)
        server.start()
        client = httpx.Client(base_url=server.url, timeout=WAIT_S)
        held.extend([server.stop, client.close])
        return client

    yield start
    for end in reversed(held):
        end()


class Stuck:
    """A host with one model that lets nobody out, and one that is quick."""

    def __init__(self, limits: Limits) -> None:
        self.go = threading.Event()
        self.host = ModelHost(limits=limits)
        self.host.activate(identity("stuck"), model_of(ScriptedEngine(self._answer)))
        self.host.activate(identity("quick"), model_of(fixed(1, 2, 3)))
        self.threads = ThreadPoolExecutor(8)

    def ask(self, client: httpx.Client, **parameters: int) -> Future[httpx.Response]:
        before = self.count()
        body = {**ASKED, "parameters": parameters}
        asked = self.threads.submit(client.post, "/v2/models/stuck/infer", json=body)
        until(lambda: self.count() > before or asked.done(), "the request is in")
        return asked

    def count(self) -> int:
        served = self.host.describe("stuck")
        return served.running + served.waiting

    def _answer(self, x: np.ndarray) -> np.ndarray:
        assert self.go.wait(WAIT_S)
        return np.ones((len(x), 3), np.float32)


def test_a_full_line_is_a_503_at_once_and_who_is_in_it_is_answered(serving: Any) -> None:
    stuck = Stuck(Limits(1, waiting=1))
    client = serving(stuck.host)
    asked = [stuck.ask(client), stuck.ask(client)]
    for path, body in (("/v2/models/stuck/infer", ASKED), ("/v1/models/stuck:predict", {"instances": [[0.0, 0.0]]})):
        refused = client.post(path, json=body)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert "is busy and 1 requests wait for it already" in refused.json()["error"]
    metrics = client.get("/metrics").text
    assert 'edgeward_running_requests{model="stuck",version="1.0.0"} 1' in metrics
    assert 'edgeward_waiting_requests{model="stuck",version="1.0.0"} 1' in metrics
    assert 'outcome="overloaded"} 2' in metrics
    stuck.go.set()
    assert [each.result(WAIT_S).status_code for each in asked] == [200, 200]


def test_a_request_gets_a_504_when_its_own_time_is_over_whether_it_runs_or_waits(serving: Any) -> None:
    stuck = Stuck(Limits(1, waiting=4))
    client = serving(stuck.host)
    running = stuck.ask(client, timeout=50_000)
    assert running.result(WAIT_S).status_code == 504
    assert "It was allowed 0.05 s" in running.result().json()["error"]
    waiting = client.post("/v2/models/stuck/infer", json={**ASKED, "parameters": {"timeout": 50_000}})
    assert waiting.status_code == 504
    assert stuck.host.describe("stuck").waiting == 0
    assert client.post("/v2/models/quick/infer", json=ASKED).status_code == 200
    stuck.go.set()
    until(lambda: stuck.host.describe("stuck").running == 0, "the run that nobody waits for has ended")
    assert client.post("/v2/models/stuck/infer", json=ASKED).status_code == 200
    assert 'outcome="late"} 1' in client.get("/metrics").text


def test_the_servers_own_timeout_holds_where_the_request_says_nothing(serving: Any) -> None:
    stuck = Stuck(Limits(1, waiting=4))
    client = serving(stuck.host, timeout_s=0.05)
    assert stuck.ask(client).result(WAIT_S).status_code == 504
    stuck.go.set()


def test_a_model_that_hangs_is_refused_and_reported_and_others_answer(serving: Any) -> None:
    stuck = Stuck(Limits(2, waiting=4, hang_s=0.05))
    client = serving(stuck.host)
    hanging = [stuck.ask(client), stuck.ask(client)]
    until(lambda: stuck.host.describe("stuck").hung == 2, "both runs count as hung")
    refused = client.post("/v2/models/stuck/infer", json=ASKED)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "10")
    assert "hangs: 2 runs take longer" in refused.json()["error"]
    assert client.get("/v2/models/stuck/ready").status_code == 503
    assert client.get("/v2/models/quick/ready").status_code == 200
    assert client.get("/v2/health/live").status_code == 200
    assert client.post("/v2/models/quick/infer", json=ASKED).status_code == 200
    assert 'edgeward_hung_requests{model="stuck",version="1.0.0"} 2' in client.get("/metrics").text
    stuck.go.set()
    assert [each.result(WAIT_S).status_code for each in hanging] == [200, 200]
    assert client.get("/v2/models/stuck/ready").status_code == 200


def test_a_server_with_a_run_that_never_ends_stops_all_the_same() -> None:
    stuck = Stuck(Limits(1, waiting=4))
    server = LocalServer(stuck.host)
    server.start()
    with httpx.Client(base_url=server.url, timeout=WAIT_S) as client:
        assert stuck.ask(client, timeout=10_000).result(WAIT_S).status_code == 504
    server.stop()
    stuck.go.set()


class Hanging:
    """A host with one quick model, whose next answer never comes once `hangs` is set."""

    def __init__(self) -> None:
        self.hangs, self.go = threading.Event(), threading.Event()
        self.told = queue.SimpleQueue[str]()
        self.host = ModelHost()
        self.host.activate(identity("quick"), model_of(ScriptedEngine(self._answer)))

    def hang(self, client: httpx.Client) -> None:
        def is_quick() -> bool:
            assert client.post("/v2/models/quick/infer", json=ASKED).status_code == 200
            return (self.host.describe("quick").typical_s or 1.0) < INLINE_S / 2

        until(is_quick, "the model is known to be quick")
        self.hangs.set()

    def _answer(self, x: np.ndarray) -> np.ndarray:
        assert not self.hangs.is_set() or self.go.wait(WAIT_S)
        return np.ones((len(x), 3), np.float32)


def test_a_quick_model_that_hangs_on_the_servers_own_thread_is_told_of(serving: Any) -> None:
    hanging = Hanging()
    client = serving(hanging.host, hung=hanging.told.put, hang_s=2)
    hanging.hang(client)
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(client.post, "/v2/models/quick/infer", json=ASKED)
        assert "quick 1.0.0 hangs on the server's own thread" in hanging.told.get(timeout=WAIT_S)
        hanging.go.set()
        assert asked.result(WAIT_S).status_code == 200


def test_a_server_that_a_model_holds_up_says_so_when_it_is_stopped_too() -> None:
    hanging = Hanging()
    server = LocalServer(hanging.host, hung=hanging.told.put, hang_s=2)
    server.start()
    with httpx.Client(base_url=server.url, timeout=WAIT_S) as client, ThreadPoolExecutor(2) as threads:
        hanging.hang(client)
        asked = threads.submit(client.post, "/v2/models/quick/infer", json=ASKED)
        until(lambda: hanging.host.describe("quick").running == 1, "the request is in")
        stopped = threads.submit(server.stop)
        assert "quick 1.0.0 hangs" in hanging.told.get(timeout=WAIT_S)
        hanging.go.set()
        asked.result(WAIT_S)
        stopped.result(WAIT_S)


@pytest.mark.parametrize("wrong", [-1, "soon", 1.5])
def test_a_timeout_that_is_no_number_of_microseconds_is_the_requests_fault(serving: Any, wrong: object) -> None:
    client = serving(Stuck(Limits(1)).host)
    refused = client.post("/v2/models/quick/infer", json={**ASKED, "parameters": {"timeout": wrong}})
    assert refused.status_code == 400
    assert "timeout" in refused.json()["error"]


def test_who_says_that_it_is_important_goes_first(serving: Any) -> None:
    order: list[float] = []
    go = threading.Semaphore(0)

    def answer(x: np.ndarray) -> np.ndarray:
        order.append(float(x[0, 0]))
        assert go.acquire(timeout=WAIT_S)
        return np.ones((len(x), 3), np.float32)

    host = ModelHost(limits=Limits(1))
    host.activate(identity("stuck"), model_of(ScriptedEngine(answer)))
    client = serving(host)
    with ThreadPoolExecutor(4) as threads:
        asked = []
        for number, priority in enumerate((0, 3, 0, 1)):
            inputs = [{**ASKED["inputs"][0], "data": [float(number), 0.0]}]
            body = {"inputs": inputs, "parameters": {"priority": priority}}
            asked.append(threads.submit(client.post, "/v2/models/stuck/infer", json=body))
            until(lambda: host.describe("stuck").running + host.describe("stuck").waiting == len(asked), "it is in")
        go.release(4)
        assert [each.result(WAIT_S).status_code for each in asked] == [200] * 4
    assert order == [0, 3, 2, 1]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three models of 16 MiB."""
    directory = tmp_path_factory.mktemp("pool")
    names = ("one", "two", "three")
    return [models.constant(directory / f"{name}.onnx", at, features=4096, classes=1024) for at, name in enumerate(names)]


PIXELS = np.zeros((1, 4096), np.float32)
ROW = {"instances": [[0.0] * 4096]}


def test_models_of_a_pool_are_loaded_when_asked_and_make_room_for_each_other(serving: Any, files: list[Path]) -> None:
    pool = ModelPool(budget_bytes=45_000_000)
    for path in files:
        pool.offer(sources.find(path))
    client = serving(pool)
    assert client.get("/v2/health/ready").status_code == 200
    ready = [
        client.get(f"/v2/models/{each}/ready").status_code for each in ("one", "one/versions/0.0.0", "one/versions/1", "four")
    ]
    assert ready == [200, 200, 404, 404]
    assert "edgeward_model_info{" not in client.get("/metrics").text
    for at, name in enumerate(("one", "two", "three", "one")):
        answer = client.post(f"/v1/models/{name}:predict", json=ROW)
        assert answer.json()["predictions"][0][0] == at % 3
        assert sum(each.memory_bytes for each in pool.standings()) <= 45_000_000
    held = {each.identity.model: each for each in pool.standings()}
    assert (held["one"].loads, held["one"].evictions, held["two"].memory_bytes) == (2, 1, 0)
    assert 16e6 < held["one"].memory_bytes < 22e6
    metrics = client.get("/metrics").text
    assert 'edgeward_model_evictions_total{model="one",version="0.0.0"} 1' in metrics
    assert 'edgeward_model_memory_bytes{model="two",version="0.0.0"} 0' in metrics
    assert client.get("/v2/models/two").json()["inputs"][0]["name"] == "pixels"
    pool.close()


def test_a_model_beyond_the_budget_is_a_503_that_says_so_and_nothing_goes(serving: Any, files: list[Path]) -> None:
    pool = ModelPool(budget_bytes=10_000_000)
    pool.offer(sources.find(files[0]))
    refused = serving(pool).post("/v1/models/one:predict", json=ROW)
    assert refused.status_code == 503
    assert "and the budget is 10.0 MB. Raise the memory budget" in refused.json()["error"]
    pool.close()


def test_memory_of_models_that_take_turns_stays_within_the_budget(files: list[Path]) -> None:
    """Each has 16 MiB; kept, thirty loads would be half a gigabyte."""
    pool = ModelPool(budget_bytes=25_000_000)
    for path in files:
        pool.offer(sources.find(path))
    taken: list[int] = []
    for turn in range(30):
        assert pool.infer(("one", "two", "three")[turn % 3], {"pixels": PIXELS}).finite
        taken.append(int(psutil.Process().memory_info().rss))
    assert max(taken[6:]) - taken[5] < 60 << 20
    pool.close()


def test_a_client_may_unload_and_load_models_of_a_pool(serving: Any, files: list[Path]) -> None:
    pool = ModelPool(budget_bytes=45_000_000)
    found = [sources.find(path) for path in files]
    for each in found:
        pool.offer(each)
    client = serving(pool, repository=Repository(pool, found))
    assert client.post("/v2/repository/models/one/load").status_code == 200
    assert client.post("/v2/repository/models/one/unload").status_code == 200
    assert client.post("/v1/models/one:predict", json=ROW).status_code == 404
    states = {each["name"]: each["state"] for each in client.post("/v2/repository/index").json()}
    assert states == {"one": "UNAVAILABLE", "three": "READY", "two": "READY"}
    assert client.post("/v2/repository/models/one/load").status_code == 200
    assert client.post("/v1/models/one:predict", json=ROW).status_code == 200
    pool.close()


def test_a_file_that_is_gone_or_changed_answers_while_it_is_loaded_and_is_refused_after(tmp_path: Path) -> None:
    path = models.constant(tmp_path / "one.onnx", 1.0, features=64)
    pool = ModelPool(budget_bytes=45_000_000)
    source = sources.find(path)
    pool.offer(source)
    inputs = {"pixels": np.zeros((1, 64), np.float32)}
    assert pool.infer("one", inputs).finite
    models.constant(path, 2.0, features=64)
    assert pool.infer("one", inputs).outputs["scores"][0, 0] == 1.0
    path.unlink()
    assert pool.infer("one", inputs).outputs["scores"][0, 0] == 1.0
    models.constant(path, 2.0, features=64)
    with pytest.raises(ModelRejected, match="has changed since it was found"):
        pool.reload(source)
    assert pool.infer("one", inputs).outputs["scores"][0, 0] == 1.0
    pool.close()
