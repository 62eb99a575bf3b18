"""docs/serving.md says what is so: its examples are run as they stand, its tables are held against the code."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from runtime import ModelHost, sources
from runtime.local_server import answering, exchange, prometheus_text
from runtime.local_server.answering import Answering
from runtime.local_server.grpc_app import CODES, STREAM_IDLE_S, GrpcApplication
from runtime.local_server.grpc_server import CONCURRENT
from runtime.local_server.server import LocalServer
from runtime.local_server.serving_statistics import Totals

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
MODEL = ROOT / "examples" / "digits" / "digits-v1.onnx"


@pytest.fixture(scope="module")
def ports() -> Iterator[dict[str, str]]:
    """Those of a server of the page's model, by the page's own."""
    host, source = ModelHost(), sources.find(MODEL)
    host.activate(source.identity, source.load())
    server = LocalServer(host, grpc="127.0.0.1:0")
    server.start()
    yield {"8000": server.url.rsplit(":", 1)[1], "8001": str(server.grpc_address).rsplit(":", 1)[1]}
    server.stop()


def test_its_first_request_is_answered_as_it_says(ports: dict[str, str]) -> None:
    commands, answer = re.findall(r"```(?:sh)?\n(.*?)```", PAGE, re.DOTALL)[:2]
    serve, curl = commands.splitlines()
    assert serve == f"edgeward serve {MODEL.relative_to(ROOT)} --port 8000 &"
    program, _, url, option, body = shlex.split(curl)
    assert (program, option) == ("curl", "-d")
    response = httpx.post(url.replace(":8000", f":{ports['8000']}"), content=body)
    assert response.json()["predictions"][0] == pytest.approx(json.loads(answer)["predictions"][0], abs=1e-4)


@pytest.mark.parametrize("number", [0, 1])
def test_its_programs_run_and_print_what_they_say(
    ports: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    monkeypatch.chdir(ROOT)
    code = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[number]
    runnable = re.sub(r":(800\d)", lambda match: f":{ports[match[1]]}", code)
    exec(compile(runnable, "docs/serving.md", "exec"), {})
    assert capsys.readouterr().out.splitlines() == re.findall(r"^print.*?  # (.*)$", code, re.MULTILINE)


def test_it_names_every_method_and_status_of_grpc() -> None:
    application = GrpcApplication(Answering.__new__(Answering), None, token=None)
    said = {
        (service, method)
        for service, methods in re.findall(r"^\| `([\w.]+)` \| (`.*) \|$", PAGE, re.MULTILINE)
        for method in re.findall(r"`(\w+)`", methods)
    }
    assert {f"/{service}/{method}" for service, method in said} >= {*application.methods, application.stream}
    rows = dict(re.findall(r"^\| (\d+) \| `(\w+)` \|", PAGE, re.MULTILINE))
    assert {status: code for status, code in rows.items() if status != "415"} == {
        str(key): code for key, code in CODES.items() if key != 429
    }


def test_its_limits_are_those_of_the_server() -> None:
    assert f"larger than {exchange.BODY_BYTES >> 20} MiB" in PAGE
    assert f"more than {exchange.BODY_BYTES * exchange.HELD_BODIES >> 20} MiB" in PAGE
    assert f"{CONCURRENT} calls may be under way" in PAGE
    assert f"nothing comes for {STREAM_IDLE_S:g} s" in PAGE
    assert f"longer than {exchange.BODY_TIMEOUT_S:g} s" in PAGE
    assert f"within {answering.INLINE_S * 1000:g} ms" in PAGE
    assert f"above {answering.INLINE_BYTES >> 10} KiB" in PAGE


def test_its_metrics_are_those_that_there_are() -> None:
    shown = prometheus_text.exposition({("m", "1"): Totals()}, [], {}, 0).decode()
    assert re.findall(r"^\| `(edgeward_\w+)`", PAGE, re.MULTILINE) == re.findall(r"^# TYPE (\w+)", shown, re.MULTILINE)
