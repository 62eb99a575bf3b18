"""`edgeward predict` and `edgeward serve` as a person runs them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.support import models
from tests.support.central_side import edgeward

EDGEWARD = (sys.executable, "-m", "edgeward")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return models.linear_classifier(tmp_path / "digits.onnx")


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    np.save(tmp_path / "sample.npy", models.samples(2)[0])
    return tmp_path / "sample.npy"


def test_predict_shows_the_best_classes(model: Path, sample: Path) -> None:
    best = models.scores(models.samples(2)[0]).argmax(axis=1)
    done = edgeward("predict", model, "--input", sample)
    assert (done.returncode, done.stderr) == (0, "")
    assert "digits 0.0.0 (onnx, onnxruntime" in done.stdout
    for row, index in enumerate(best):
        assert any(line.split()[:2] == [str(row), str(index)] for line in done.stdout.splitlines())


def test_predict_prints_one_json_document(model: Path, sample: Path) -> None:
    done = edgeward("predict", model, "--input", sample, "--json")
    answer = json.loads(done.stdout)
    assert (answer["model"], answer["variant"], answer["finite"]) == ("digits", "onnx", True)
    np.testing.assert_allclose(answer["outputs"]["scores"], models.scores(models.samples(2)[0]), atol=1e-5)
    assert len(answer["predictions"]) == 2


def test_predict_shows_an_answer_that_is_no_number_as_it_is(tmp_path: Path, sample: Path) -> None:
    done = edgeward("predict", models.not_a_number(tmp_path / "nan.onnx"), "--input", sample)
    assert "nan" in done.stdout.split("scores", 1)[1]
    assert "The answer holds NaN or infinity." in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("predict", "nothing.onnx", "--input", "x.npy"), "nothing.onnx cannot be read: No such file or directory"),
        (("serve", "nothing.onnx"), "nothing.onnx cannot be read: No such file or directory"),
        (("serve", "/"), "/ is a directory without manifest.json"),
        (("serve", __file__), "is not an ONNX model|is not a model that onnxruntime"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_1(arguments: tuple[str, ...], message: str) -> None:
    done = edgeward(*arguments)
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert any(each in done.stderr for each in message.split("|"))


def test_an_input_that_does_not_fit_says_what_came_and_what_was_wanted(model: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "wrong.npy", np.zeros((1, 3), np.float32))
    done = edgeward("predict", model, "--input", tmp_path / "wrong.npy")
    assert (done.returncode, done.stderr) == (1, "Error: Input pixels has shape [1, 3]; wanted pixels: FP32[?, 64].\n")


@pytest.fixture
def served(model: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen(
        [*EDGEWARD, "serve", str(model), "--port", "0", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    lines: list[str] = []
    while not lines or lines[-1] != "}\n":
        lines.append(process.stdout.readline())
        assert lines[-1], "serve ended before it said where it listens"
    yield process, json.loads("".join(lines))["url"]
    process.kill()
    process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_answers_until_it_is_told_to_stop(served: tuple[subprocess.Popen[str], str], number: signal.Signals) -> None:
    process, url = served
    pixels, _ = models.samples(1)
    tensor = {"name": "pixels", "shape": [1, 64], "datatype": "FP32", "data": pixels.ravel().tolist()}
    response = httpx.post(f"{url}/v2/models/digits/infer", json={"inputs": [tensor]})
    assert (response.status_code, response.json()["model_version"]) == (200, "0.0.0")
    process.send_signal(number)
    assert process.wait(20) == 0


def test_serve_says_that_a_port_is_taken(served: tuple[subprocess.Popen[str], str], model: Path) -> None:
    port = served[1].rsplit(":", 1)[1]
    done = edgeward("serve", model, "--port", port)
    assert done.returncode == 1
    assert "Address already in use" in done.stderr
    assert "choose another port" in done.stderr


def test_serve_may_listen_on_a_socket_want_a_token_and_let_clients_manage(
    model: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("s")
    (directory / "token").write_text("a secret\n")
    options = ("--address", f"unix:{directory / 's'}", "--token-file", str(directory / "token"), "--manage", "--json")
    process = subprocess.Popen([*EDGEWARD, "serve", str(model), *options], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        while "}" not in process.stdout.readline():
            assert process.poll() is None, "serve ended before it said where it listens"
        transport = httpx.HTTPTransport(uds=str(directory / "s"))
        with httpx.Client(base_url="http://local", transport=transport) as client:
            assert client.get("/v2/models/digits").status_code == 401
            client.headers["Authorization"] = "Bearer a secret"
            assert client.post("/v2/repository/models/digits/unload", content=b"{}").status_code == 200
            assert client.get("/v2/models/digits").status_code == 404
    finally:
        process.terminate()
        assert process.wait(20) == 0
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.parametrize("content", [b"\n", b"\x89PNG"])
def test_serve_refuses_a_token_file_without_a_token(model: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "token").write_bytes(content)
    done = edgeward("serve", model, "--token-file", tmp_path / "token")
    assert done.returncode == 2
    assert "holds no token" in done.stderr
