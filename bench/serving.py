"""Requests per second over HTTP beside other Python servers, with one and the same model on onnxruntime (issue 3's figures).

`python -m bench.serving --peers VENV`: the peers run from that virtual environment, made outside of the repository with
`pip install mlserver fastapi uvicorn[standard] onnxruntime`. Without it only our own server is measured, and the result says
so. Triton's server cannot be installed with pip, so it is not among them. Every server is a process of its own, all run at
once and only one is asked at a time, in turn; the client is one thread with 8 connections that wait for each answer.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import selectors
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import numpy as np
import psutil

from bench.runtime import _mlp, _mobilenet

CLIENTS: Final = 8
ROUNDS: Final = 7
SECONDS: Final = 1.0
START_S: Final = 120.0
_OURS: Final = "edgeward"

_MLSERVER_MODEL: Final = """
import numpy as np
import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse


class Onnx(MLModel):
    async def load(self):
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(self.settings.parameters.uri, options, ["CPUExecutionProvider"])
        return True

    async def predict(self, payload):
        x = NumpyCodec.decode_input(payload.inputs[0]).astype(np.float32, copy=False)
        (y,) = self.session.run(None, {"x": x})
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("y", y)])
"""
_FASTAPI: Final = """
import sys

import numpy as np
import onnxruntime
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

options = onnxruntime.SessionOptions()
options.add_session_config_entry("session.intra_op.allow_spinning", "0")
session = onnxruntime.InferenceSession(sys.argv[1], options, ["CPUExecutionProvider"])
app = FastAPI()


class Tensor(BaseModel):
    name: str
    datatype: str
    shape: list[int]
    data: list[float]


class InferRequest(BaseModel):
    inputs: list[Tensor]


class InferResponse(BaseModel):
    model_name: str
    outputs: list[Tensor]


@app.post("/v2/models/tiny/infer")
async def infer(request: InferRequest) -> InferResponse:
    given = request.inputs[0]
    (y,) = session.run(None, {"x": np.array(given.data, np.float32).reshape(given.shape)})
    answer = Tensor(name="y", datatype="FP32", shape=list(y.shape), data=y.ravel().tolist())
    return InferResponse(model_name="tiny", outputs=[answer])


uvicorn.run(app, port=int(sys.argv[2]), log_level="warning", access_log=False)
"""


@dataclass(frozen=True)
class Server:
    """A server process that listens. `first_s`: from its start to its first answer."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    first_s: float

    def _family(self) -> list[psutil.Process]:
        whole = psutil.Process(self.process.pid)
        return [whole, *whole.children(recursive=True)]

    def resident_bytes(self) -> int:
        """Memory of the process and its children."""
        return sum(each.memory_info().rss for each in self._family())

    def cpu_s(self) -> float:
        """Processor time that they took until now."""
        return sum(sum(each.cpu_times()[:2]) for each in self._family())


def measure(peers: Path | None = None) -> dict[str, object]:
    """Requests per second of each server, and ours divided by each peer's."""
    with tempfile.TemporaryDirectory() as directory:
        tiny, vision = _mlp(Path(directory) / "tiny.onnx"), _mobilenet(Path(directory) / "vision.onnx")
        with contextlib.ExitStack() as running:

            def start(name: str, command: list[str], port: int, request: bytes) -> Server:
                return running.enter_context(_running(name, command, port, request))

            json_request, raw_request = _json_request("tiny"), _raw_request("vision")
            small = [_start_ours(start, tiny, json_request), *_start_peers(start, peers, Path(directory), tiny, vision)]
            large = [_start_ours(start, vision, raw_request), *(each for each in small if each.name == "mlserver")]
            startup = {each.name: round(each.first_s, 3) for each in small}
            results = {"json_tiny": _compared(small, json_request), "binary_602_kb": _compared(large, raw_request)}
            memory = {each.name: each.resident_bytes() for each in small}
    return {
        "peers": str(peers) if peers else "none: give --peers VENV",
        "triton": "not measured: its server cannot be installed with pip",
        "requests_per_second": results,
        "first_answer_s": startup,
        "first_answer_ratio": {name: round(startup[_OURS] / seconds, 3) for name, seconds in startup.items()},
        "resident_bytes": memory,
    }


Start = Callable[[str, list[str], int, bytes], Server]


def _start_ours(start: Start, model: Path, request: bytes) -> Server:
    port = _free_port()
    return start(_OURS, [sys.executable, "-m", "edgeward", "serve", str(model), "--port", str(port)], port, request)


def _start_peers(start: Start, peers: Path | None, directory: Path, tiny: Path, vision: Path) -> Iterator[Server]:
    if peers is None:
        return
    port, home = _free_port(), directory / "mlserver"
    for name, model in (("tiny", tiny), ("vision", vision)):
        (home / name).mkdir(parents=True)
        (home / name / "onnx_model.py").write_text(_MLSERVER_MODEL)
        settings = {"name": name, "implementation": "onnx_model.Onnx", "parameters": {"uri": str(model)}}
        (home / name / "model-settings.json").write_text(json.dumps(settings))
    ports = {"http_port": port, "grpc_port": _free_port(), "metrics_port": _free_port()}
    # In one process: its default of a worker process costs the tiny model more than it gains.
    (home / "settings.json").write_text(json.dumps({**ports, "parallel_workers": 0, "debug": False}))
    yield start("mlserver", [str(peers / "bin" / "mlserver"), "start", str(home)], port, _json_request("tiny"))
    program, port = directory / "fastapi_server.py", _free_port()
    program.write_text(_FASTAPI)
    command = [str(peers / "bin" / "python"), str(program), str(tiny), str(port)]
    yield start("fastapi_pydantic", command, port, _json_request("tiny"))


def _compared(servers: list[Server], request: bytes) -> dict[str, object]:
    """Medians of rounds in turn, and ours divided by each. A server that refuses is left out and named.

    Processor time a request says the same as the rate, and less of who else is busy on this machine.
    """
    statuses = {server.name: _ask_once(server.port, request) for server in servers}
    asked = [server for server in servers if statuses[server.name] == 200]
    rates: dict[str, list[float]] = {server.name: [] for server in asked}
    costs: dict[str, list[float]] = {server.name: [] for server in asked}
    for _ in range(ROUNDS):
        for server in asked:
            before = server.cpu_s()
            rate = _rate(server.port, request)
            rates[server.name].append(rate)
            costs[server.name].append((server.cpu_s() - before) / (rate * SECONDS))
    rate_of = {name: statistics.median(each) for name, each in rates.items()}
    cost_of = {name: statistics.median(each) for name, each in costs.items()}
    return {
        "rate": {name: round(rate, 1) for name, rate in rate_of.items()},
        "rate_ratio": {name: round(rate_of[_OURS] / rate, 2) for name, rate in rate_of.items()},
        "cpu_ms": {name: round(cost * 1000, 3) for name, cost in cost_of.items()},
        "cpu_ratio": {name: round(cost_of[_OURS] / cost, 3) for name, cost in cost_of.items()},
        **{name: f"answers {status}" for name, status in statuses.items() if status != 200},
    }


class _Connection:
    """One client: sends the request, waits for the whole answer, sends again."""

    def __init__(self, port: int, request: bytes) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(0)
        self.request = memoryview(request)
        self.answered = 0
        self._sent = 0
        self._received = bytearray()

    def write(self) -> bool:
        """Send what fits; whether all is sent."""
        self._sent += self.socket.send(self.request[self._sent :])
        return self._sent == len(self.request)

    def read(self) -> bool:
        """Take what came; whether the answer is whole."""
        self._received += self.socket.recv(1 << 18)
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = bytes(self._received[:end]).lower()
        length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        if len(self._received) < end + 4 + length:
            return False
        if not head.startswith(b"http/1.1 200"):
            raise SystemExit(f"A server answered {head[:20]!r} in the middle of a measurement.")
        self.answered += 1
        self._sent = 0
        self._received.clear()
        return True


def _rate(port: int, request: bytes) -> float:
    """Answers per second to `CLIENTS` connections in `SECONDS`."""
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        connections = [_Connection(port, request) for _ in range(CLIENTS)]
        for each in connections:
            stack.callback(each.socket.close)
            selector.register(each.socket, selectors.EVENT_WRITE, each)
        began = time.perf_counter()
        while (took := time.perf_counter() - began) < SECONDS:
            for key, events in selector.select(0.1):
                connection: _Connection = key.data
                if events & selectors.EVENT_READ and not connection.read():
                    continue
                wanted = selectors.EVENT_READ if connection.write() else selectors.EVENT_WRITE
                if wanted != key.events:
                    selector.modify(key.fd, wanted, connection)
        return sum(each.answered for each in connections) / took


def _ask_once(port: int, request: bytes) -> int:
    """The status of one answer; 0 when there is none."""
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    try:
        return httpx.post(f"http://127.0.0.1:{port}{first.split()[1]}", content=body, headers=headers, timeout=10).status_code
    except httpx.HTTPError:
        return 0


@contextlib.contextmanager
def _running(name: str, command: list[str], port: int, request: bytes) -> Iterator[Server]:
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while _ask_once(port, request) != 200:
            if process.poll() is not None or time.perf_counter() - began > START_S:
                raise SystemExit(f"{name} did not start: {' '.join(command)}")
        yield Server(name, port, process, time.perf_counter() - began)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _json_request(model: str) -> bytes:
    values = np.random.default_rng(3).normal(size=64).round(4).tolist()
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 64], "data": values}
    return _post(model, json.dumps({"inputs": [tensor]}).encode(), "Content-Type: application/json")


def _raw_request(model: str) -> bytes:
    image = np.random.default_rng(4).normal(size=(1, 3, 224, 224)).astype("<f4").tobytes()
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 3, 224, 224], "parameters": {"binary_data_size": len(image)}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return _post(model, head + image, f"Inference-Header-Content-Length: {len(head)}")


def _post(model: str, body: bytes, header: str) -> bytes:
    lines = [f"POST /v2/models/{model}/infer HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}", header, "", ""]
    return "\r\n".join(lines).encode() + body


def _free_port() -> int:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=Path, help="virtual environment with mlserver and fastapi")
    print(json.dumps(measure(parser.parse_args().peers), indent=2))
