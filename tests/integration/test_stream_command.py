"""`edgeward stream` as a person runs it: killed and started again, over a real broker, and refused with a clear line."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_agent import stream_places
from edgeward.broker import free_port
from fleet_io.clock import system_chance
from fleet_io.mqtt import Broker, MqttTransport
from fleet_io.transport import Message
from runtime.errors import StreamBroken
from tests.support import models
from tests.support.central_side import edgeward
from tests.support.waiting import until

EDGEWARD = (sys.executable, "-m", "edgeward")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.linear_classifier(tmp_path_factory.mktemp("model") / "digits.onnx")


def write_sample(directory: Path, name: str, seed: int = 0) -> None:
    """As whoever is careful does it: aside, then renamed."""
    np.save(directory / f".{name}", models.samples(1, seed=seed)[0])
    (directory / f".{name}.npy").rename(directory / f"{name}.npy")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@contextlib.contextmanager
def started(*arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    command = [*EDGEWARD, "stream", *map(str, arguments)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_stream_that_was_killed_goes_on_where_it_was(model: Path, tmp_path: Path) -> None:
    inbox, out = tmp_path / "inbox", tmp_path / "results.jsonl"
    inbox.mkdir()
    for at in range(5):
        write_sample(inbox, f"{at}", seed=at)
    (inbox / "bad.npy").write_bytes(b"no array")
    with started(model, "--from", f"dir:{inbox}", "--to", f"file:{out}") as process:
        until(lambda: len(lines(out)) == 6, "six results are written")
        process.kill()
        process.wait(20)
    write_sample(inbox, "new", seed=9)
    with started(model, "--from", f"dir:{inbox}", "--to", f"file:{out}") as process:
        until(lambda: lines(out)[-1]["item"] == "new.npy", "the new file is answered")
        second = edgeward("stream", model, "--from", f"dir:{inbox}", "--to", f"file:{out}", "--once")
        assert second.returncode == 1
        assert "is in use by another stream. Stop that one first" in " ".join(second.stderr.split())
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert process.stderr is not None
        said = process.stderr.read()
    items = [line["item"] for line in lines(out)]
    # Killed between a result and its being remembered, at most the last file is done twice.
    assert sorted(set(items)) == ["0.npy", "1.npy", "2.npy", "3.npy", "4.npy", "bad.npy", "new.npy"]
    assert len(items) <= 8
    assert "0 dropped before the model" in said
    for line in lines(out):
        assert ("error" in line) == (line["item"] == "bad.npy")
        if "outputs" in line and line["item"] != "new.npy":
            wanted = models.scores(models.samples(1, seed=int(line["item"][0]))[0])
            np.testing.assert_allclose(line["outputs"]["scores"], wanted, atol=1e-5)


def test_lines_of_a_pipe_are_answered_until_it_ends(model: Path) -> None:
    good = json.dumps({"pixels": [0.0] * 64})
    given = f"{good}\nno json\n{good}"
    done = subprocess.run(
        [*EDGEWARD, "stream", model, "--from", "stdin"], input=given, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    assert [("error" in json.loads(line)) for line in done.stdout.splitlines()] == [False, True, False]
    assert done.stderr == ("2 answered, 1 failed, 0 dropped before the model, 0 results not taken, 0 left waiting\n")


def test_an_open_pipe_does_not_keep_it_from_stopping(model: Path) -> None:
    with started(model, "--from", "stdin") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps([0.0] * 64) + "\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["item"] == "line 1"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


class PlainBroker:
    """A Mosquitto that anybody may use, as somebody's own at home is; it can be stopped and started again."""

    def __init__(self, directory: Path) -> None:
        self.address = Broker("127.0.0.1", free_port())
        self._config = directory / "mosquitto.conf"
        self._config.write_text(f"listener {self.address.port} 127.0.0.1\nallow_anonymous true\n")
        self._held = contextlib.ExitStack()
        self.start()

    def start(self) -> None:
        program = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/opt/homebrew/sbin")
        assert program is not None
        self._process = subprocess.Popen(
            [program, "-c", str(self._config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def client(self, name: str, topic: str = "") -> tuple[MqttTransport, list[Message]]:
        """A connected client, and what it gets of that topic."""
        transport = MqttTransport(self.address, None, client_id=name, chance=system_chance())
        got: list[Message] = []
        connected: list[bool] = []
        if topic:
            transport.subscribe(topic, got.append, qos=1)
        transport.on_connected(lambda: connected.append(True))
        transport.start()
        self._held.callback(transport.stop)
        until(lambda: connected, "the broker answers")
        return transport, got

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(20)

    def close(self) -> None:
        self._held.close()
        self.stop()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[PlainBroker]:
    running = PlainBroker(tmp_path)
    yield running
    running.close()


def test_messages_become_results_and_a_broker_that_goes_and_comes_is_outlived(model: Path, broker: PlainBroker) -> None:
    client, got = broker.client("watcher", "out")
    address = f"127.0.0.1:{broker.address.port}"

    def ask_until(count: int) -> None:
        """The stream says nothing when it has subscribed, so it is asked until it answers."""

        def answered() -> bool:
            client.publish("in/a", json.dumps([0.0] * 64).encode(), qos=1)
            return len(got) >= count

        until(answered, "a result comes back")

    with started(model, "--from", "mqtt:in/+", "--to", "mqtt:out", "--broker", address) as process:
        ask_until(1)
        client.publish("in/b", b"\x89PNG broken", qos=1)
        until(lambda: any("error" in json.loads(each.payload) for each in got), "the bad message is answered with an error")
        broker.stop()
        broker.start()
        ask_until(len(got) + 1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    first = json.loads(got[0].payload)
    assert first["item"].startswith("in/a ")
    assert np.shape(first["outputs"]["scores"]) == (1, 10)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--from", "nowhere"), 2, "'nowhere' is none of dir:PATH, camera:NUMBER"),
        (("--from", "dir:"), 2, "is none of dir:PATH"),
        (("--from", "stdin", "--to", "file"), 2, "'file' is none of stdout, file:PATH or mqtt:TOPIC"),
        (("--from", "stdin", "--to", "mqtt:a/#"), 2, "results go to one topic"),
        (("--from", "mqtt:a", "--broker", "nonsense"), 2, "is no HOST:PORT"),
        (("--from", "mqtt:a", "--ca", "ca.pem"), 2, "all of --ca, --cert and --key"),
        (("--from", "mqtt:a/#/b"), 2, "'a/#/b': + and # stand alone between slashes, and # only at the end"),
        (("--from", "mqtt:a/b+"), 2, "+ and # stand alone between slashes"),
        (("--from", "dir:/nowhere"), 1, "/nowhere is no directory"),
        (("--from", "dir:.", "--state", "/proc/seen"), 1, "/proc/seen cannot be kept"),
        (("--from", "stdin", "--to", "file:/nowhere/out"), 1, "/nowhere/out cannot be written"),
        (("--from", "camera:0"), 1, "edgeward[camera]|cannot open"),
    ],
)
def test_what_cannot_be_done_is_one_line(arguments: tuple[str, ...], code: int, message: str, model: Path) -> None:
    done = edgeward("stream", model, *arguments)
    assert done.returncode == code
    assert any(each in done.stderr for each in message.split("|")), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["stdin", "stdout"])
def test_a_standard_stream_that_the_caller_closed_is_said(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.FileIO(0, closefd=False)))
    monkeypatch.setattr(sys, name, None)
    wanted = stream_places.Wanted(
        source=("stdin", ""),
        results=("stdout", ""),
        broker=stream_places.broker_of("127.0.0.1:1883"),
        client_id="",
    )
    with pytest.raises(StreamBroken, match=f"{name} is closed"), stream_places.opened(wanted, threading.Event(), print):
        pass
