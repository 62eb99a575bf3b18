"""What tensorflow-serving-api's client sends over gRPC, recorded from it, and a server with the models that it asks for.

`.venv-heavy/bin/python -m tests.heavy.test_tensorflow_serving_client` records anew; `make heavy` holds the recording against
the client.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any, Final

import numpy as np
from onnx import TensorProto

import runtime
from fleet_protocol.tensors import TensorSpec
from runtime import ModelHost, ModelIdentity
from runtime.local_server.server import LocalServer
from tests.support import models
from tests.support.engines import ScriptedEngine, model_of

RECORDING: Final = Path(__file__).with_name("tensorflow_serving_requests.json")
LABELS: Final = tuple(f"digit {number}" for number in range(models.CLASSES))
PIXELS: Final = (np.arange(192, dtype=np.float32).reshape(3, 64) / 192).astype(np.float32)


def recorded() -> dict[str, bytes]:
    """Messages by name."""
    return {name: base64.b64decode(content) for name, content in json.loads(RECORDING.read_text()).items()}


def served(directory: Path) -> LocalServer:
    """A server, started."""
    host = ModelHost()

    def activate(name: str, model: Any, *, version: str = "1.2.0", labels: tuple[str, ...] = ()) -> None:
        host.activate(ModelIdentity(name, version, "sha256:" + "0" * 64, "float"), model, labels)

    activate("digits", runtime.load(models.linear_classifier(directory / "digits.onnx")), labels=LABELS)
    activate("texts", runtime.load(models.identity(directory / "texts.onnx", TensorProto.STRING, ("batch", 1))))
    activate("halves", runtime.load(models.identity(directory / "halves.onnx", TensorProto.FLOAT16, ("batch", 2))))
    activate("bytes", runtime.load(models.identity(directory / "bytes.onnx", TensorProto.UINT8, ("batch", 2))))
    activate("broken", runtime.load(models.not_a_number(directory / "broken.onnx")))
    number = TensorSpec(name="y", datatype="FP32", shape=(-1, 1))
    price = model_of(ScriptedEngine(lambda x: x.sum(axis=1, keepdims=True), outputs=(number,)))
    activate("price", price, version="7")
    server = LocalServer(host, grpc="127.0.0.1:0")
    server.start()
    return server
