"""docs/experiments.md says what is so: its commands and its program are run as they stand."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import onnx
import pytest
from onnx import TensorProto, helper

from tests.support.central_side import edgeward

PAGE = (Path(__file__).parents[2] / "docs" / "experiments.md").read_text(encoding="utf-8")
COMMANDS, ANSWER = re.findall(r"```(?:sh)?\n(.*?)```", PAGE, re.DOTALL)[:2]
SERVE, CURL = COMMANDS.splitlines()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`one.onnx` gives the sum of `x`, `two.onnx` its mean."""
    for name, operator in (("one", "ReduceSum"), ("two", "ReduceMean")):
        graph = helper.make_graph(
            [helper.make_node(operator, ["x", "axes"], ["y"], keepdims=1)],
            name,
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1])],
            [helper.make_tensor("axes", TensorProto.INT64, [1], [1])],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.save(model, tmp_path / f"{name}.onnx")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def url(here: Path) -> Iterator[str]:
    """Of the page's server."""
    program, *arguments = shlex.split(SERVE.removesuffix(" &").replace("--port 8000", "--port 0"))
    assert program == "edgeward"
    process = subprocess.Popen(
        [sys.executable, "-m", "edgeward", *arguments, "--json"],
        cwd=here,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    said = ""
    while not said.endswith("\n}\n"):
        said += (line := process.stdout.readline())
        assert line, "serve ended before it said where it listens"
    yield json.loads(said)["url"]
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    process.stdout.close()


def test_its_first_request_is_answered_as_it_says(url: str) -> None:
    program, _, address, option, header, data, body = shlex.split(CURL)
    assert (program, option, data) == ("curl", "-H", "-d")
    name, _, value = header.partition(": ")
    answer = httpx.post(address.replace("http://127.0.0.1:8000", url), headers={name: value}, content=body)
    assert answer.text == ANSWER.strip()


def test_over_the_network_a_key_keeps_its_version_and_each_version_is_counted(url: str) -> None:
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [0.5, 0.25]}

    def ask(path: str = "", **headers: str) -> tuple[str, float]:
        response = httpx.post(f"{url}/v2/models/one{path}/infer", json={"inputs": [tensor]}, headers=headers)
        assert response.status_code == 200, response.text
        answer = response.json()
        return answer["model_version"], answer["outputs"][0]["data"][0]

    versions = [each["version"] for each in httpx.post(f"{url}/v2/repository/index", content=b"{}").json()]
    first, other = versions
    assert first == "0.0.0"
    assert other.startswith("0.0.0-")
    means = {first: 0.75, other: 0.375}
    answers = {key: ask(**{"edgeward-key": key}) for key in map(str, range(20))}
    assert answers == {key: ask(**{"edgeward-key": key}) for key in answers}
    assert {version for version, _ in answers.values()} == {first, other}
    assert all(value == means[version] for version, value in answers.values())
    assert ask() == (first, 0.75)
    assert ask(f"/versions/{other}") == (other, 0.375)
    assert (
        ask(f"/versions/{first}", **{"edgeward-key": next(key for key, each in answers.items() if each[0] == other)})[0]
        == first
    )
    stats = httpx.get(f"{url}/v2/models/stats").json()["model_stats"]
    counted = {each["version"]: each["execution_count"] for each in stats}
    assert counted.keys() == {first, other}
    assert sum(counted.values()) == 43
    metrics = httpx.get(f"{url}/metrics").text
    assert f'edgeward_requests_total{{model="one",version="{other}",outcome="answered"}}' in metrics


@pytest.mark.usefixtures("here")
def test_its_program_runs_and_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(code, "docs/experiments.md", "exec"), {})
    assert capsys.readouterr().out.splitlines() == re.findall(r"^print.*?  # (.*)$", code, re.MULTILINE)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("one.onnx", "two.onnx", "--against", "two.onnx"), "serve that one alone"),
        (("one.onnx", "--against", "two.onnx", "--memory-budget", "1GB"), "--memory-budget"),
        (("one.onnx", "--against", "nothing.onnx"), "nothing.onnx cannot be read"),
        (("one.onnx", "--against", "two.onnx", "--against-share", "1"), "--against-share"),
    ],
)
def test_what_cannot_be_compared_is_refused(arguments: tuple[str, ...], says: str) -> None:
    done = edgeward("serve", *arguments)
    assert done.returncode != 0
    assert says in done.stderr
