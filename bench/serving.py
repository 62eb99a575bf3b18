"""Requests per second over HTTP and gRPC beside other Python servers, with one and the same model on onnxruntime (issue 3).

`python -m bench.serving --peers VENV`: the peers run from that virtual environment, made outside of the repository with
`pip install mlserver fastapi uvicorn[standard] onnxruntime`. Without it only our own server is measured, and the result says
so, beside the least that grpcio itself can do. `--triton VENV` adds Triton (`bench.triton_server`), from one made with
`pip install nvidia-pytriton onnxruntime`. Our modules are compiled first, as pip compiles those that it installs. Every server
is a process of its own, all run at once and only one is asked at a time, in turn (`bench.load`).
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from tritonclient.grpc import service_pb2

from bench import triton_server
from bench.load import OURS, GrpcRequest, HttpRequest, Request, Server, compared, running
from bench.runtime import _mlp, _mobilenet
from edgeward.broker import free_port

AS_IT_COMES: Final = "triton_as_it_comes"
"""With onnxruntime's default, threads that spin for some 50 ms after every run; the other peers' are told not to."""
OUR_PACKAGES: Final = ("edgeward", "fleet_io", "fleet_protocol", "fleet_telemetry", "runtime")
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


_GRPC: Final = """
import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import onnxruntime
import uvloop
from tritonclient.grpc import service_pb2 as messages

options = onnxruntime.SessionOptions()
options.add_session_config_entry("session.intra_op.allow_spinning", "0")
session = onnxruntime.InferenceSession(sys.argv[1], options, ["CPUExecutionProvider"])


def infer(request):
    given = request.inputs[0]
    x = np.frombuffer(request.raw_input_contents[0], np.float32).reshape(tuple(given.shape))
    (y,) = session.run(None, {"x": x})
    answer = messages.ModelInferResponse(model_name=request.model_name, model_version="1")
    answer.outputs.add(name="y", datatype="FP32", shape=y.shape)
    answer.raw_output_contents.append(y.tobytes())
    return answer


def handlers(method):
    handler = grpc.unary_unary_rpc_method_handler(
        method, messages.ModelInferRequest.FromString, messages.ModelInferResponse.SerializeToString
    )
    return (grpc.method_handlers_generic_handler("inference.GRPCInferenceService", {"ModelInfer": handler}),)


async def on_a_loop():
    async def method(request, context):
        return infer(request)

    server = grpc.aio.server()
    server.add_generic_rpc_handlers(handlers(method))
    server.add_insecure_port("127.0.0.1:" + sys.argv[2])
    await server.start()
    await server.wait_for_termination()


if sys.argv[3] == "threads":
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers(handlers(lambda request, context: infer(request)))
    server.add_insecure_port("127.0.0.1:" + sys.argv[2])
    server.start()
    server.wait_for_termination()
elif sys.argv[3] == "uvloop":
    uvloop.run(on_a_loop())
else:
    asyncio.run(on_a_loop())
"""


def measure(peers: Path | None = None, triton: Path | None = None) -> dict[str, object]:
    """Requests per second of each server, and ours divided by each peer's."""
    for package in OUR_PACKAGES:
        compileall.compile_dir(Path(__file__).parents[1] / package, quiet=1)
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        tiny, vision = _mlp(Path(directory) / "tiny.onnx"), _mobilenet(Path(directory) / "vision.onnx")

        def start(name: str, command: list[str], port: int, request: Request) -> Server:
            return stack.enter_context(running(name, command, port, request))

        ports = Ports()
        small = [
            _start_ours(start, tiny, ports, _json_request("tiny")),
            *_start_peers(start, peers, {"tiny": tiny, "vision": vision}, ports),
            *_start_triton(start, triton, {"tiny": tiny, "vision": vision}, ports),
        ]
        large = [
            _start_ours(start, vision, Ports(), _raw_request("vision")),
            _start_ours(start, vision, Ports(), _raw_request("vision"), name=f"{OURS}_one_thread", options=("--threads", "1")),
        ]
        large += [each for each in small if each.name in {"mlserver", "triton"}]
        large += _start_triton(start, triton, {"vision": vision}, Ports(), name=AS_IT_COMES, spins=True)
        by_grpc = [replace(each, port=ports.grpc[each.name]) for each in small if each.name in ports.grpc]
        by_grpc += _start_grpc_peers(start, Path(directory), tiny)
        startup = {each.name: round(each.first_s, 3) for each in small}
        results = {
            "json_tiny": compared(small, _json_request("tiny")),
            "binary_602_kb": compared(large, _raw_request("vision")),
            "grpc_tiny": compared(by_grpc, _grpc_request("tiny")),
        }
        memory = {each.name: each.resident_bytes() for each in small}
    return {
        "peers": str(peers) if peers else "none: give --peers VENV",
        "triton": str(triton) if triton else "none: give --triton VENV",
        "requests_per_second": results,
        "first_answer_s": startup,
        "first_answer_ratio": {name: round(startup[OURS] / seconds, 3) for name, seconds in startup.items()},
        "resident_bytes": memory,
    }


Start = Callable[[str, list[str], int, Request], Server]


class Ports:
    """Where the servers that speak gRPC too do, by name."""

    def __init__(self) -> None:
        self.grpc: dict[str, int] = {}

    def take(self, name: str) -> str:
        """A free one for that server."""
        self.grpc[name] = free_port()
        return str(self.grpc[name])


def _start_ours(
    start: Start, model: Path, ports: Ports, request: Request, *, name: str = OURS, options: tuple[str, ...] = ()
) -> Server:
    port = free_port()
    command = [sys.executable, "-m", "edgeward", "serve", str(model), "--port", str(port), "--grpc-port", ports.take(name)]
    return start(name, [*command, *options], port, request)


def _start_peers(start: Start, peers: Path | None, models: dict[str, Path], grpc_ports: Ports) -> Iterator[Server]:
    if peers is None:
        return
    directory = models["tiny"].parent
    port, home = free_port(), directory / "mlserver"
    for name, model in models.items():
        (home / name).mkdir(parents=True)
        (home / name / "onnx_model.py").write_text(_MLSERVER_MODEL)
        settings = {"name": name, "implementation": "onnx_model.Onnx", "parameters": {"uri": str(model)}}
        (home / name / "model-settings.json").write_text(json.dumps(settings))
    ports = {"http_port": port, "grpc_port": int(grpc_ports.take("mlserver")), "metrics_port": free_port()}
    # In one process: its default of a worker process costs the tiny model more than it gains.
    (home / "settings.json").write_text(json.dumps({**ports, "parallel_workers": 0, "debug": False}))
    yield start("mlserver", [str(peers / "bin" / "mlserver"), "start", str(home)], port, _json_request("tiny"))
    program, port = directory / "fastapi_server.py", free_port()
    program.write_text(_FASTAPI)
    command = [str(peers / "bin" / "python"), str(program), str(models["tiny"]), str(port)]
    yield start("fastapi_pydantic", command, port, _json_request("tiny"))


def _start_triton(
    start: Start, venv: Path | None, models: dict[str, Path], ports: Ports, *, name: str = "triton", spins: bool = False
) -> Iterator[Server]:
    if venv is None:
        return
    shapes = {"tiny": [-1, 64], "vision": [-1, 3, 224, 224]}
    given = {model: (path, shapes[model]) for model, path in models.items()}
    http, grpc = free_port(), int(ports.take(name))
    home = next(iter(models.values())).parent / name
    command = triton_server.command(venv, home, given, http=http, grpc=grpc, metrics=free_port(), spins=spins)
    yield start(name, command, http, _json_request("tiny") if "tiny" in models else _raw_request("vision"))


def _start_grpc_peers(start: Start, directory: Path, tiny: Path) -> list[Server]:
    """The least that a server on grpcio can do: on asyncio, on uvloop, on threads."""
    program = directory / "grpc_server.py"
    program.write_text(_GRPC)
    servers = []
    for name in ("asyncio", "uvloop", "threads"):
        port = free_port()
        servers.append(
            start(f"grpc_{name}", [sys.executable, str(program), str(tiny), str(port), name], port, _grpc_request("tiny"))
        )
    return servers


def _json_request(model: str) -> HttpRequest:
    values = np.random.default_rng(3).normal(size=64).round(4).tolist()
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 64], "data": values}
    return _post(model, json.dumps({"inputs": [tensor]}).encode(), "Content-Type: application/json")


def _raw_request(model: str) -> HttpRequest:
    image = np.random.default_rng(4).normal(size=(1, 3, 224, 224)).astype("<f4").tobytes()
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 3, 224, 224], "parameters": {"binary_data_size": len(image)}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return _post(model, head + image, f"Inference-Header-Content-Length: {len(head)}")


def _grpc_request(model: str) -> GrpcRequest:
    message = service_pb2.ModelInferRequest(model_name=model)
    message.inputs.add(name="x", datatype="FP32", shape=[1, 64])
    message.raw_input_contents.append(np.random.default_rng(3).normal(size=64).astype("<f4").tobytes())
    return GrpcRequest("/inference.GRPCInferenceService/ModelInfer", message.SerializeToString())


def _post(model: str, body: bytes, header: str) -> HttpRequest:
    lines = [f"POST /v2/models/{model}/infer HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}", header, "", ""]
    return HttpRequest("\r\n".join(lines).encode() + body)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=Path, help="virtual environment with mlserver and fastapi")
    parser.add_argument("--triton", type=Path, help="virtual environment with nvidia-pytriton and onnxruntime")
    asked = parser.parse_args()
    print(json.dumps(measure(asked.peers, asked.triton), indent=2))
