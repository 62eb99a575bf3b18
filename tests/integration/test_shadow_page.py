"""docs/shadow.md says what is so: its commands and its program are run as they stand, its tables are held against the code."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import get_args

import httpx
import pytest

from runtime.shadowing.shadow import Allowance, Shadow
from runtime.shadowing.shadow_record import Outcome, ShadowRecord
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "shadow.md").read_text(encoding="utf-8")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def table(first: str) -> list[str]:
    """The names in the first column of the table whose head begins so."""
    rows = PAGE.split(f"\n| {first} |", 1)[1].split("\n\n", 1)[0]
    return [name for row in rows.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])]


@pytest.mark.usefixtures("here")
def test_its_commands_serve_a_shadow_that_says_how_it_compares() -> None:
    (commands,) = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    (shown,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    serve, curl = commands.splitlines()
    program, *arguments = shlex.split(serve.removesuffix(" &").replace("--port 8000", "--port 0"))
    assert (program, shlex.split(curl)[:2]) == ("edgeward", ["curl", "-s"])
    process = subprocess.Popen(
        [sys.executable, "-m", "edgeward", *arguments, "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        said = ""
        while not said.endswith("\n}\n"):
            said += (line := process.stdout.readline())
            assert line, "serve ended before it said where it listens"
        url = json.loads(said)["url"]
        path = shlex.split(curl)[2].removeprefix("http://127.0.0.1:8000")
        tensor = {"name": "pixels", "shape": [1, 1, 8, 8], "datatype": "FP32", "data": [0.0] * 64}

        def compared() -> bool:
            assert httpx.post(f"{url}/v2/models/digits-v1/infer", json={"inputs": [tensor]}).status_code == 200
            return bool(httpx.get(url + path).json()["requests"].get("compared", 0))

        until(compared, "the candidate was compared", timeout_s=60)
        record = httpx.get(url + path).json()
        assert {name: record[name] for name in json.loads(shown)} == json.loads(shown)
        assert record["agreement"] == 1.0
        metrics = httpx.get(f"{url}/metrics").text
        assert 'edgeward_shadow_agreement{model="digits-v1",version="0.0.0",candidate="0.0.0"} 1.0' in metrics
        assert 'outcome="compared"' in metrics
        assert "edgeward_shadow_cpu_seconds_total" in metrics
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.usefixtures("here")
def test_its_program_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(code, "docs/shadow.md", "exec"), names)
    shadow = names["shadow"]
    assert isinstance(shadow, Shadow)
    until(lambda: shadow.record().state == "running", "the candidate is loaded", timeout_s=60)
    shadow.stop()


def test_its_tables_name_every_field_outcome_and_allowance() -> None:
    assert sorted(table("field")) == sorted(ShadowRecord.__struct_fields__)
    assert set(table("of `requests`")) == {*get_args(Outcome), "crashed", "over_cpu", "over_memory", "waiting"}
    assert table("of `Allowance`") == [field.name for field in dataclasses.fields(Allowance)]


@pytest.mark.usefixtures("here")
def test_a_candidate_that_is_not_there_stops_the_command() -> None:
    arguments = [
        sys.executable,
        "-m",
        "edgeward",
        "serve",
        "examples/digits/digits-v1.onnx",
        "--port",
        "0",
        "--shadow",
        "nothing.onnx",
    ]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert "nothing.onnx cannot be read" in done.stderr
