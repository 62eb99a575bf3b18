"""`edgeward up` on one machine: starts, stops, goes on, and says why when it cannot."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from edgeward.broker import free_ports, listens
from edgeward.central import Central, CentralSettings
from fleet_io import config
from fleet_io.clock import SystemClock
from fleet_io.errors import ConfigurationError
from tests.support.central_side import CentralSide, central_side, edgeward
from tests.support.waiting import until


@pytest.fixture
def central(tmp_path: Path) -> Iterator[CentralSide]:
    with central_side(tmp_path / "central") as made:
        yield made


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_stops_cleanly_and_leaves_nothing_running(tmp_path: Path, number: int) -> None:
    with central_side(tmp_path / "central") as central:
        broker = central.broker_pid()
        assert central.stop(number) == 0
        assert not psutil.pid_exists(broker)
        assert not listens("127.0.0.1", central.api_port)


def test_it_goes_on_where_it_was_when_it_is_started_again(central: CentralSide) -> None:
    profile = (central.data / "operator.json").read_bytes()
    started = central.request("GET", "/v1/audit")["entries"]
    central.request("POST", "/v1/claims", json={"device": "shelf-1"})
    central.stop()
    central.start()
    assert (central.data / "operator.json").read_bytes() == profile
    assert len(central.request("GET", "/v1/audit")["entries"]) == len(started) + 1


def test_killed_with_9_it_starts_again_although_its_broker_was_left_behind(central: CentralSide) -> None:
    broker = central.broker_pid()
    central.stop(signal.SIGKILL)
    assert psutil.pid_exists(broker)
    central.start()
    assert central.broker_pid() != broker
    assert not psutil.pid_exists(broker) or psutil.Process(broker).status() == psutil.STATUS_ZOMBIE


def test_a_broker_that_was_killed_is_started_again(central: CentralSide) -> None:
    broker = central.broker_pid()
    psutil.Process(broker).kill()
    until(lambda: central.broker_pid() != broker and listens("127.0.0.1", central.mqtt_port), "a new broker listens")
    until(lambda: central.request("GET", "/v1/broker")["clients_connected"] >= 1, "the central side is connected again")


def test_a_broker_that_cannot_be_started_again_is_tried_until_it_can(central: CentralSide) -> None:
    rules = central.data / "broker" / "access.conf"
    rules.unlink()
    rules.mkdir()  # it cannot be written now, as on a full disk
    psutil.Process(central.broker_pid()).kill()
    until(lambda: any("Trying again" in line for line in central.said), "it failed to start the broker")
    assert central.answers()
    rules.rmdir()
    until(lambda: listens("127.0.0.1", central.mqtt_port), "a new broker listens")


def test_a_brokers_memory_that_is_damaged_is_set_aside_and_the_fleet_goes_on(tmp_path: Path) -> None:
    with central_side(tmp_path / "central") as central:
        central.stop()
        (central.data / "broker" / "mosquitto.db").write_bytes(b"torn by a power cut" * 40)
        central.start()
        assert central.answers()
        assert (central.data / "broker" / "mosquitto.db.damaged").read_bytes().startswith(b"torn")


def test_a_second_one_on_the_same_directory_is_refused_and_the_first_goes_on(central: CentralSide) -> None:
    api, mqtt = map(str, free_ports(2))
    second = edgeward("up", "--data-dir", str(central.data), "--api-port", api, "--mqtt-port", mqtt)
    assert second.returncode == 1
    assert "in use by another `edgeward up`" in second.stderr
    assert "Traceback" not in second.stderr
    assert central.answers()


@pytest.mark.parametrize("taken", ["--api-port", "--mqtt-port"])
def test_a_port_that_is_taken_is_named(tmp_path: Path, taken: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        ports = dict(zip(("--api-port", "--mqtt-port"), map(str, free_ports(2)), strict=True)) | {taken: port}
        refused = edgeward("up", "--data-dir", str(tmp_path / "central"), *(word for pair in ports.items() for word in pair))
    assert refused.returncode == 1
    assert f"127.0.0.1:{port}: Address already in use" in refused.stderr
    assert "choose another port" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_wrong_setting_is_named_with_what_is_allowed(tmp_path: Path) -> None:
    refused = edgeward("up", "--data-dir", str(tmp_path / "central"), "--api-port", "99999")
    assert refused.returncode == 1
    assert "api_port" in refused.stderr
    assert "65535" in refused.stderr


def test_one_port_for_both_is_said_to_be_one_port(tmp_path: Path) -> None:
    refused = edgeward("up", "--data-dir", str(tmp_path / "central"), "--api-port", "18443", "--mqtt-port", "18443")
    assert refused.returncode == 1
    assert "api_port and mqtt_port are both 18443" in refused.stderr


def test_without_the_operators_token_nothing_is_told(central: CentralSide) -> None:
    import httpx

    with httpx.Client(base_url=central.url, verify=False) as stranger:
        for path in ("/v1/models", "/v1/devices", "/v1/rollouts", "/v1/telemetry/models", "/v1/broker"):
            assert stranger.get(path).status_code == 401, path


@pytest.mark.parametrize("everywhere", ["0.0.0.0", "::"])
def test_listening_everywhere_it_wants_a_name_that_devices_can_be_given(tmp_path: Path, everywhere: str) -> None:
    refused = edgeward("up", "--data-dir", str(tmp_path / "central"), "--host", everywhere)
    assert refused.returncode == 1
    assert "--hostname" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("name", ["fleet example", "flotte-é.example", "a" * 254])
def test_a_hostname_that_no_certificate_takes_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="hostnames"):
        config.load(CentralSettings, file=None, prefix="X", environ={}, flags={"hostnames": (name,)})


def test_devices_are_given_the_first_hostname_and_this_machine_asks_itself(tmp_path: Path) -> None:
    settings = CentralSettings(tmp_path, host="0.0.0.0", hostnames=("fleet.example.org", "10.0.0.1"))
    central = Central(settings, clock=SystemClock())
    assert central.url == "https://127.0.0.1:8443"
    assert central.url_for_devices == "https://fleet.example.org:8443"
    assert Central(CentralSettings(tmp_path, host="::1"), clock=SystemClock()).url == "https://[::1]:8443"


def test_an_address_of_another_machine_is_not_called_taken(tmp_path: Path) -> None:
    refused = edgeward("up", "--data-dir", str(tmp_path / "central"), "--host", "192.0.2.1")
    assert refused.returncode == 1
    assert "Choose an address of this machine" in refused.stderr
