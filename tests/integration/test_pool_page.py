"""docs/pool.md says what is so, and `edgeward serve` does with several models what it says."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from runtime import errors
from runtime.hosting.room import ModelIdentity
from runtime.hosting.serving import Standing
from runtime.local_server import prometheus_text
from runtime.local_server.answering import refusal
from tests.support import models
from tests.support.central_side import edgeward

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "pool.md").read_text(encoding="utf-8")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name in ("digits", "faces"):
        models.linear_classifier(tmp_path / f"{name}.onnx")
    return tmp_path


def test_its_programs_run_and_print_what_they_say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
    exec(compile(code, "docs/pool.md", "exec"), {})
    said = re.findall(r"^print.*?  # (.*)$", code, re.MULTILINE)
    assert capsys.readouterr().out.splitlines() == said


def test_its_errors_are_said_over_http_as_it_says() -> None:
    rows = re.findall(r"^\| `(\w+)` \|.*\| (\d+)(?:, `Retry-After: (\d+)`)? \|$", PAGE, re.MULTILINE)
    assert len(rows) == 4
    for name, status, retry in rows:
        response = refusal(getattr(errors, name)("why")).response
        assert (response.status, dict(response.headers)) == (int(status), {b"retry-after": retry.encode()} if retry else {})


def test_its_metrics_are_those_of_a_pool() -> None:
    standing = Standing(ModelIdentity("m", "1", "sha256:", "v"), 1, 1, 1)
    shown = prometheus_text.exposition({}, [], {}, 0, standings=[standing]).decode()
    for name in re.findall(r"^\| `(edgeward_\w+)`", PAGE, re.MULTILINE):
        assert f'{name}{{model="m",version="1"}} 1' in shown


@pytest.fixture
def served(directory: Path, request: pytest.FixtureRequest) -> Iterator[dict[str, object]]:
    options = (sys.executable, "-m", "edgeward", "serve", "digits.onnx", "faces.onnx", "--port", "0", "--json", *request.param)
    process = subprocess.Popen(options, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = [""]
    while lines[-1] != "}\n":
        lines.append(process.stdout.readline())
        assert lines[-1], "serve ended before it said where it listens"
    yield json.loads("".join(lines))
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 0, said


BODY = {"instances": [[0.0] * 64]}


@pytest.mark.parametrize("served", [("--memory-budget", "200MB", "--timeout", "30")], indirect=True)
def test_several_models_are_served_within_a_budget(served: dict[str, object]) -> None:
    rows = served["models"]
    assert isinstance(rows, list)
    assert [(row["model"], row["version"]) for row in rows] == [("digits", "0.0.0"), ("faces", "0.0.0")]
    assert not any("engine" in row for row in rows)  # none is loaded yet
    with httpx.Client(base_url=str(served["url"]), timeout=60) as client:
        assert client.get("/v2/models/faces/ready").status_code == 200
        for name in ("digits", "faces"):
            assert client.post(f"/v1/models/{name}:predict", json=BODY).status_code == 200
        assert 'edgeward_model_loads_total{model="faces",version="0.0.0"} 1' in client.get("/metrics").text


@pytest.mark.parametrize("served", [("--batch", "8", "--threads", "1")], indirect=True)
def test_requests_that_wait_are_run_together_and_answered_as_alone(served: dict[str, object]) -> None:
    pixels = models.samples(24)[0]
    with httpx.Client(base_url=str(served["url"]), timeout=60) as client, ThreadPoolExecutor(8) as threads:

        def ask(at: int) -> list[float]:
            asked = client.post("/v1/models/digits:predict", json={"instances": pixels[at : at + 1].tolist()})
            answer: list[float] = asked.json()["predictions"][0]
            return answer

        answers = list(threads.map(ask, range(len(pixels))))
    np.testing.assert_allclose(answers, models.scores(pixels), atol=1e-5)


@pytest.mark.parametrize("served", [("--isolate", "--threads", "1")], indirect=True)
def test_isolated_models_are_served(served: dict[str, object]) -> None:
    assert [str(each["engine"]).endswith(", isolated") for each in served["models"]] == [True, True]  # type: ignore[attr-defined]  # JSON
    with httpx.Client(base_url=str(served["url"]), timeout=60) as client:
        for _ in range(3):
            assert client.post("/v1/models/digits:predict", json=BODY).status_code == 200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--memory-budget", "much"), "'much' is no size"),
        (("--max-waiting", "-1"), "--max-waiting"),
        (("--timeout", "0"), "--timeout"),
        (("--isolate", "--batch", "4"), "Isolated models run one request at a time"),
    ],
)
def test_what_is_no_bound_is_a_usage_error(directory: Path, options: tuple[str, ...], message: str) -> None:
    done = edgeward("serve", directory / "digits.onnx", *options)
    assert done.returncode == 2
    assert message in done.stderr


def test_two_models_of_one_name_are_refused(directory: Path) -> None:
    done = edgeward("serve", directory / "digits.onnx", directory / "digits.onnx")
    assert done.returncode == 2
    assert "are both called digits" in done.stderr
