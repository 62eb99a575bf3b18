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
import numpy as np
import pytest

import runtime
from tests.support.central_side import edgeward

ROOT = Path(__file__).parents[2]
ONE, TWO = "examples/digits/digits-v1.onnx", "examples/digits/digits-v2.onnx"
PAGE = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")
COMMANDS, ANSWER = re.findall(r"```(?:sh)?\n(.*?)```", PAGE, re.DOTALL)[:2]
SERVE, CURL = COMMANDS.splitlines()


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture
def url() -> Iterator[str]:
    """Of the page's server."""
    program, *arguments = shlex.split(SERVE.removesuffix(" &").replace("--port 8000", "--port 0"))
    assert program == "edgeward"
    process = subprocess.Popen(
        [sys.executable, "-m", "edgeward", *arguments, "--json"],
        cwd=ROOT,
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
    assert answer.json()["predictions"][0] == pytest.approx(json.loads(ANSWER)["predictions"][0], abs=1e-4)


def score_of_nothing(path: Path) -> float:
    """What a model gives the first class for a blank picture."""
    with runtime.load(path) as model:
        return round(float(model({"pixels": np.zeros((1, 1, 8, 8), np.float32)})["probabilities"][0, 0]), 4)


def test_over_the_network_a_key_keeps_its_version_and_each_version_is_counted(url: str) -> None:
    tensor = {"name": "pixels", "shape": [1, 1, 8, 8], "datatype": "FP32", "data": [0.0] * 64}
    one, two = (score_of_nothing(ROOT / each) for each in (ONE, TWO))

    def ask(path: str = "", **headers: str) -> tuple[str, float]:
        response = httpx.post(f"{url}/v2/models/digits-v1{path}/infer", json={"inputs": [tensor]}, headers=headers)
        assert response.status_code == 200, response.text
        answer = response.json()
        return answer["model_version"], round(answer["outputs"][0]["data"][0], 4)

    versions = [each["version"] for each in httpx.post(f"{url}/v2/repository/index", content=b"{}").json()]
    first, other = versions
    assert first == "0.0.0"
    assert other.startswith("0.0.0-")
    scores = {first: one, other: two}
    answers = {key: ask(**{"edgeward-key": key}) for key in map(str, range(20))}
    assert answers == {key: ask(**{"edgeward-key": key}) for key in answers}
    assert {version for version, _ in answers.values()} == {first, other}
    assert all(value == scores[version] for version, value in answers.values())
    assert ask() == (first, one)
    assert ask(f"/versions/{other}") == (other, two)
    assert (
        ask(f"/versions/{first}", **{"edgeward-key": next(key for key, each in answers.items() if each[0] == other)})[0]
        == first
    )
    stats = httpx.get(f"{url}/v2/models/stats").json()["model_stats"]
    counted = {each["version"]: each["execution_count"] for each in stats}
    assert counted.keys() == {first, other}
    assert sum(counted.values()) == 43
    metrics = httpx.get(f"{url}/metrics").text
    assert f'edgeward_requests_total{{model="digits-v1",version="{other}",outcome="answered"}}' in metrics


@pytest.mark.usefixtures("here")
def test_its_program_runs_and_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(code, "docs/experiments.md", "exec"), {})
    assert capsys.readouterr().out.splitlines() == re.findall(r"^print.*?  # (.*)$", code, re.MULTILINE)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((ONE, TWO, "--against", TWO), "serve that one alone"),
        ((ONE, "--against", TWO, "--memory-budget", "1GB"), "--memory-budget"),
        ((ONE, "--against", "nothing.onnx"), "nothing.onnx cannot be read"),
        ((ONE, "--against", TWO, "--against-share", "1"), "--against-share"),
    ],
)
def test_what_cannot_be_compared_is_refused(arguments: tuple[str, ...], says: str) -> None:
    done = edgeward("serve", *arguments)
    assert done.returncode != 0
    assert says in done.stderr
