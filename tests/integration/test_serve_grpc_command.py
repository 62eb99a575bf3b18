"""`edgeward serve` with gRPC, as a person runs it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton

from tests.support import models
from tests.support.central_side import edgeward


def test_it_says_where_it_listens_and_answers_until_it_is_told_to_stop(tmp_path: Path) -> None:
    model = models.linear_classifier(tmp_path / "digits.onnx")
    command = [sys.executable, "-m", "edgeward", "serve", str(model), "--port", "0", "--grpc-port", "0", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        lines: list[str] = []
        while not lines or lines[-1] != "}\n":
            lines.append(process.stdout.readline())
            assert lines[-1], "serve ended before it said where it listens"
        pixels, _ = models.samples(2)
        given = triton.InferInput("pixels", [2, 64], "FP32")
        given.set_data_from_numpy(pixels)
        with triton.InferenceServerClient(json.loads("".join(lines))["grpc"]) as client:
            np.testing.assert_allclose(client.infer("digits", [given]).as_numpy("scores"), models.scores(pixels), atol=1e-5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--address", "unix:"), "A path is wanted behind unix:"),
        (("--address", "unix:/tmp/ew-http", "--grpc-port", "8001"), "An address is wanted beside --grpc-port"),
        (("--grpc-address", "unix:/tmp/ew-grpc", "--grpc-port", "8001"), "A socket has no port"),
        (("--grpc-address", "127.0.0.1"), "A port is wanted too"),
        (("--grpc-port", "70000"), "70000 is not in the range"),
    ],
)
def test_what_does_not_go_together_is_said(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    done = edgeward("serve", models.linear_classifier(tmp_path / "digits.onnx"), *options)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.replace("│", " ").split())
