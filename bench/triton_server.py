"""NVIDIA's Triton Inference Server as a peer: its own HTTP and gRPC front, with the model in its Python backend on onnxruntime.

Of its builds, the one that pip can install is that inside `nvidia-pytriton`, which has no other backend than Python's. Here it
runs without pytriton's proxy in between.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

_MODEL: Final = """
import json

import onnxruntime
import triton_python_backend_utils as backend


class TritonPythonModel:
    def initialize(self, args):
        parameters = json.loads(args["model_config"])["parameters"]
        path = parameters["path"]["string_value"]
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.intra_op.allow_spinning", parameters["spins"]["string_value"])
        self.session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        (y,) = self.session.run(None, {"x": backend.get_input_tensor_by_name(request, "x").as_numpy()})
        return backend.InferenceResponse([backend.Tensor("y", y)])
"""
_CONFIG: Final = """
name: "{name}"
backend: "python"
input {{ name: "x" data_type: TYPE_FP32 dims: {shape} }}
output {{ name: "y" data_type: TYPE_FP32 dims: [-1, -1] }}
instance_group {{ kind: KIND_CPU }}
parameters {{ key: "path" value {{ string_value: "{path}" }} }}
parameters {{ key: "spins" value {{ string_value: "{spins:d}" }} }}
"""


def command(
    venv: Path,
    home: Path,
    models: Mapping[str, tuple[Path, Sequence[int]]],
    *,
    http: int,
    grpc: int,
    metrics: int,
    spins: bool = False,
) -> list[str]:
    """What starts it; `models`: file and input shape by name. `venv` has nvidia-pytriton and onnxruntime; `home` is made.

    `spins`: onnxruntime's threads spin when they wait, which is its default. Raises `FileNotFoundError` where `venv` has no
    Triton for its Python.
    """
    (packages,) = (venv / "lib").glob("python3.*/site-packages")
    triton, python = packages / "pytriton" / "tritonserver", packages.parent.name.removeprefix("python")
    backends = home / "backends"
    shutil.copytree(triton / "backends", backends)
    shutil.copy(triton / "python_backend_stubs" / python / "triton_python_backend_stub", backends / "python")
    for name, (path, shape) in models.items():
        (home / "models" / name / "1").mkdir(parents=True)
        (home / "models" / name / "1" / "model.py").write_text(_MODEL)
        (home / "models" / name / "config.pbtxt").write_text(
            _CONFIG.format(name=name, path=path, shape=list(shape), spins=spins)
        )
    libraries = packages / "nvidia_pytriton.libs"
    environment = [f"LD_LIBRARY_PATH={libraries}", f"PATH={venv / 'bin'}:/usr/bin:/bin"]  # it finds its packages by PATH
    ports = [f"--http-port={http}", f"--grpc-port={grpc}", f"--metrics-port={metrics}"]
    places = [f"--model-repository={home / 'models'}", f"--backend-directory={backends}"]
    return ["env", *environment, str(triton / "bin" / "tritonserver"), *places, *ports, "--log-info=false"]
