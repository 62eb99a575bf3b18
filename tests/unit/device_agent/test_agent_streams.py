"""An agent's streams outlive what they read from and write to, never reach the agent, and say how they go."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from device_agent import streams
from device_agent.config import load
from device_agent.stream_settings import StreamSettings
from device_agent.streams import Streams
from edgeward.commands.agent import command
from fleet_io.errors import ConfigurationError
from runtime import ModelHost
from runtime.sources import find
from tests.support import models
from tests.support.waiting import until

INBOX = """
device = "kitchen"
state_dir = "/var/lib/edgeward"
[[stream]]
name = "inbox"
model = "digits"
from = "dir:/var/inbox"
to = "file:/var/results.jsonl"
"""


def settings(directory: Path, **changes: Any) -> StreamSettings:
    usual = {"source": f"dir:{directory / 'inbox'}", "results": f"file:{directory / 'out' / 'results.jsonl'}"}
    return StreamSettings(**{"name": "inbox", "model": "digits", **usual, **changes})


def started(directory: Path, host: ModelHost, *given: StreamSettings) -> Streams:
    made = Streams(given, host, device="kitchen", directory=directory, look_s=0.02, first_pause_s=0.02)
    made.start()
    return made


def serving(directory: Path) -> ModelHost:
    host, source = ModelHost(), find(models.linear_classifier(directory / "digits.onnx"))
    host.activate(source.identity, source.load())
    return host


def lines(directory: Path) -> list[dict[str, Any]]:
    path = directory / "out" / "results.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_stream_whose_ends_are_not_there_is_broken_and_begins_when_they_are(tmp_path: Path) -> None:
    host = serving(tmp_path)
    running = started(tmp_path, host, settings(tmp_path))
    try:
        until(lambda: running.statuses()[0].state == "broken", "the stream has no directory")
        assert "is no directory" in running.statuses()[0].reason
        (tmp_path / "inbox").mkdir()
        np.save(tmp_path / "inbox" / "one.npy", models.samples(1, seed=0)[0])
        until(lambda: "cannot be written" in running.statuses()[0].reason, "the stream has nowhere to put results")
        (tmp_path / "out").mkdir()
        until(lambda: len(lines(tmp_path)) == 1, "the file is answered")
        until(lambda: running.statuses()[0].counts.answered == 1, "and counted")
        assert running.statuses()[0].state == "running"
    finally:
        running.stop()
        host.deactivate("digits")


def test_a_stream_waits_for_its_model_and_says_so_beside_one_that_works(tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    (tmp_path / "out").mkdir()
    other = settings(tmp_path, name="later", model="faces", source="mqtt:frames", results="mqtt:faces", broker="127.0.0.1:9")
    host = serving(tmp_path)
    running = started(tmp_path, host, settings(tmp_path), other)
    try:
        np.save(tmp_path / "inbox" / "one.npy", models.samples(1, seed=0)[0])
        until(lambda: [each.counts.answered for each in streams.read(tmp_path)] == [1, 0], "streams.json says so")
    finally:
        running.stop()
        host.deactivate("digits")
    shown = CliRunner().invoke(command, ["status", "--device", "kitchen", "--state-dir", str(tmp_path), "--json"])
    assert [each["state"] for each in json.loads(shown.output)["streams"]] == ["running", "waiting"]
    table = CliRunner().invoke(command, ["status", "--device", "kitchen", "--state-dir", str(tmp_path)])
    assert "Streams" in table.output


def test_tls_without_its_files_is_a_broken_stream_with_its_reason(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nowhere.pem")
    secret = settings(tmp_path, source="mqtt:frames", results="mqtt:out", ca=nowhere, cert=nowhere, key=nowhere)
    running = started(tmp_path, ModelHost(), secret)
    try:
        until(lambda: running.statuses()[0].state == "broken", "the files for TLS are missing")
        assert (
            running.statuses()[0].reason
            == "The files for TLS cannot be used: No such file or directory. Check ca, cert and key."
        )
    finally:
        running.stop()


def test_a_fault_of_ours_is_a_broken_stream_that_is_tried_again(tmp_path: Path) -> None:
    class Faulty(ModelHost):
        tries = 0

        def describe(self, model_name: str, *, version: str | None = None) -> Any:
            self.tries += 1
            raise ZeroDivisionError("ours")

    (tmp_path / "inbox").mkdir()
    (tmp_path / "out").mkdir()
    np.save(tmp_path / "inbox" / "one.npy", models.samples(1, seed=0)[0])
    host = Faulty()
    running = started(tmp_path, host, settings(tmp_path))
    try:
        until(lambda: host.tries > 1, "it is tried again")
        assert "ours" in running.statuses()[0].reason
    finally:
        running.stop()


def edited(old: str, new: str) -> Callable[[str], str]:
    return lambda text: text.replace(old, new)


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (edited("dir:/var/inbox", "stdin"), "The stream inbox cannot be: 'stdin' is none of dir:PATH"),
        (edited("file:/var/results.jsonl", "stdout"), "'stdout' is none of file:PATH or mqtt:TOPIC"),
        (edited("file:/var/results.jsonl", "mqtt:a/#"), "results go to one topic"),
        (lambda text: text + 'broker = "nowhere"', "'nowhere' is no HOST:PORT"),
        (lambda text: text + 'ca = "ca.pem"', "TLS needs all of ca, cert and key"),
        (lambda text: text + 'polcy = "latest"', "polcy"),
        (lambda text: text + "waiting = 0", r"stream .* at stream\[0\].waiting"),
        (lambda text: text + "[[stream]]" + text.split("[[stream]]")[1], "Two streams are called inbox"),
        (lambda text: text.replace("[[stream]]", "[stream]"), "stream"),
    ],
)
def test_a_stream_that_cannot_be_stops_the_agent_with_its_reason(edit: Callable[[str], str], says: str, tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(edit(INBOX))
    with pytest.raises(ConfigurationError, match=says):
        load(file=file, environ={}, flags={})


def test_the_page_about_the_agent_shows_streams_that_can_be(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "agent.md").read_text(encoding="utf-8")
    file = tmp_path / "agent.toml"
    file.write_text(page.split("```toml\n")[1].split("```")[0])
    assert [each.name for each in load(file=file, environ={}, flags={}).stream] == ["inbox", "door"]


def test_settings_of_a_stream_are_read_from_the_file(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(INBOX + 'policy = "latest"\n')
    [stream] = load(file=file, environ={}, flags={}).stream
    wanted = stream.wanted("kitchen")
    assert (wanted.source, wanted.results) == (("dir", "/var/inbox"), ("file", "/var/results.jsonl"))
    assert (wanted.chosen_policy(), wanted.client_id) == ("latest", "edgeward-kitchen-inbox")


@pytest.mark.parametrize("address", ["8001", "localhost", "unix:"])
def test_an_address_for_grpc_that_names_no_port_is_refused(address: str) -> None:
    flags = {"device": "kitchen", "state_dir": "/tmp/x", "grpc_address": address}
    with pytest.raises(ConfigurationError, match="grpc_address"):
        load(file=None, environ={}, flags=flags)
