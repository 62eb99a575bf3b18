"""`edgeward claim`, `publish` and `rollout` against a registry over HTTPS: what they print, and how they fail."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from securesystemslib.signer import Key
from starlette.applications import Starlette

from edgeward import cli, connection
from fleet_io.http_server import HttpServer, ServerCertificate
from tests.support.registry_world import RegistryWorld, TalkingDevice, make_bundle, registry_world, request_pem
from tests.support.waiting import until


@pytest.fixture
def world(tmp_path: Path) -> Iterator[RegistryWorld]:
    """A registry whose data directory is where `edgeward up` has it, with the operator's profile beside it."""
    with registry_world(tmp_path) as made:
        identity = made.registry.server_identity
        server = HttpServer(
            Starlette(routes=made.registry.routes()),
            host="127.0.0.1",
            port=0,
            certificate=ServerCertificate(identity.certificate, identity.key),
        )
        server.start()
        authority = made.registry.authority_path.read_text()
        connection.write_profile(tmp_path, connection.OperatorProfile(server.url, authority, made.registry.operator_token))
        yield made
        server.stop()


class Ran:
    """What a command printed, and its exit status."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def json(self) -> Any:
        assert self.status == 0, self.err
        return json.loads(self.out)


@pytest.fixture
def edgeward(world: RegistryWorld, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """Run one command as `main` does."""

    def run(*arguments: str, data: Path = tmp_path) -> Ran:
        capsys.readouterr()
        status = 0
        try:
            cli.main([*arguments, "--data-dir", str(data)])
        except SystemExit as left:
            status = int(left.code or 0)
        printed = capsys.readouterr()
        return Ran(status, printed.out, printed.err)

    return run


def join(world: RegistryWorld, name: str) -> TalkingDevice:
    body = {"device": name, "claim": world.claim(), "csr": request_pem()}
    key = world.ask("POST", "/v1/enrolments", status=201, json=body)["director_key"]
    device = TalkingDevice(name, world.broker, Key.from_dict(key.pop("keyid"), key))
    device.connect()
    world.settle()
    return device


def test_a_device_may_try_once_more_what_it_refused(world: RegistryWorld, edgeward: Any) -> None:
    world.release()
    device, _other = join(world, "cam-1"), join(world, "cam-2")
    world.ask("POST", "/v1/rollouts", status=201, json={"model": "digits", "version": "1.0.0", "max_failures": 1})
    world.settle()
    assert "cam-1 has refused nothing" in edgeward("devices", "cam-1", "--retry").out
    device.refuse()
    world.settle()
    assert "cam-1 tries digits once more" in edgeward("devices", "cam-1", "--retry").out
    world.settle()
    assert device.assigned["digits"].attempt == 1
    assert edgeward("devices", "cam-1", "--retry", "--json").json == {"retried": []}
    assert "name it" in edgeward("devices", "--retry").err
    assert "There is no device 'cam-3'" in edgeward("devices", "cam-3", "--retry").err


def test_a_claim_is_printed_as_the_command_to_run_on_the_device(edgeward: Any) -> None:
    ran = edgeward("claim", "create", "--device", "camera-7")
    assert ran.status == 0
    assert ran.out.startswith("edgeward agent run --server https://127.0.0.1:")
    assert " --device camera-7 --state-dir camera-7 --claim ew1." in ran.out


def test_a_claim_names_the_server_as_devices_reach_it(world: RegistryWorld, edgeward: Any, tmp_path: Path) -> None:
    profile = connection.read_profile(tmp_path)
    connection.write_profile(tmp_path, msgspec.structs.replace(profile, for_devices="https://fleet.example.org:8443"))
    assert " --server https://fleet.example.org:8443 " in edgeward("claim", "create").out


def test_a_claim_as_json_is_good_for_enrolling(world: RegistryWorld, edgeward: Any) -> None:
    claim = edgeward("claim", "create", "--uses", "2", "--hours", "1", "--json").json["claim"]
    world.ask("POST", "/v1/enrolments", status=201, json={"device": "a", "claim": claim, "csr": request_pem()})


def test_publishing_says_what_comes_next(edgeward: Any, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    ran = edgeward("publish", str(bundle.directory))
    assert ran.status == 0, ran.err
    assert "Published digits 1.0.0" in ran.out
    assert "edgeward rollout start digits 1.0.0 --cohort all" in ran.out
    again = edgeward("publish", str(bundle.directory))
    assert again.status == 0
    assert "nothing changed" in again.out


def test_publishing_as_json(edgeward: Any, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    told = edgeward("publish", str(bundle.directory), "--json").json
    assert (told["created"], told["manifest"]) == (True, bundle.digest)


def test_other_bytes_under_a_version_are_one_clear_line(edgeward: Any, tmp_path: Path) -> None:
    edgeward("publish", str(make_bundle(tmp_path / "bundle").directory))
    ran = edgeward("publish", str(make_bundle(tmp_path / "other", content=b"other").directory))
    assert ran.status == 1
    assert ran.err.startswith("Error: digits 1.0.0 is already published with other content")
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("damage", ["changed", "no manifest", "nothing"])
def test_a_bad_bundle_is_one_clear_line(edgeward: Any, tmp_path: Path, damage: str) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    if damage == "changed":
        (bundle.directory / "model.onnx").write_bytes(b"changed")
    if damage == "no manifest":
        (bundle.directory / "manifest.json").unlink()
    ran = edgeward("publish", str(tmp_path / ("missing" if damage == "nothing" else "bundle")))
    assert ran.status == 1
    assert ran.err.startswith("Error: ")
    assert ran.err.count("\n") == 1


def test_missing_keys_are_one_clear_line(edgeward: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    bundle = make_bundle(tmp_path / "bundle")
    ran = edgeward("publish", str(bundle.directory), "--keys", str(tmp_path / "empty"))
    assert ran.status == 1
    assert "publisher.pem" in ran.err


def test_without_a_central_side_every_command_says_how_to_start_one(edgeward: Any, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    for arguments in (["publish", str(bundle.directory)], ["rollout", "list"], ["claim", "create"]):
        ran = edgeward(*arguments, data=tmp_path / "nowhere")
        assert ran.status == 1
        assert "edgeward up" in ran.err


def test_a_rollout_is_started_listed_and_shown(world: RegistryWorld, edgeward: Any) -> None:
    world.release()
    join(world, "camera-7")
    ran = edgeward("rollout", "start", "digits", "1.0.0", "--cohort", "all", "--steps", "0.5,1")
    assert ran.status == 0, ran.err
    assert "Rollout 1 of digits 1.0.0 to 1 devices has begun." in ran.out
    listed = edgeward("rollout", "list")
    assert "digits 1.0.0" in listed.out
    assert "running" in listed.out
    assert edgeward("rollout", "list", "--json").json["rollouts"][0]["steps"] == [0.5, 1.0]
    shown = edgeward("rollout", "status", "1")
    assert "camera-7" in shown.out
    assert edgeward("rollout", "status", "1", "--json").json["devices"][0]["device"] == "camera-7"


def test_watching_a_rollout_ends_with_it(world: RegistryWorld, edgeward: Any) -> None:
    world.release()
    device = join(world, "camera-7")
    edgeward("rollout", "start", "digits", "1.0.0")
    world.settle()

    def later() -> None:
        until(lambda: device.told, "the device is told")
        device.run()
        world.settle()

    helper = threading.Thread(target=later)
    helper.start()
    ran = edgeward("rollout", "status", "1", "--watch", "--json")
    helper.join()
    assert ran.json["state"] == "succeeded"


def test_watching_a_rollout_that_fails_exits_with_1(world: RegistryWorld, edgeward: Any) -> None:
    world.release()
    device = join(world, "camera-7")
    edgeward("rollout", "start", "digits", "1.0.0")
    world.settle()
    device.refuse(reason="[red]markup[/] of a device is text")
    world.settle()
    ran = edgeward("rollout", "status", "1", "--watch")
    assert ran.status == 1
    assert "[red]markup[/] of a device is text" in " ".join(ran.out.split())


def test_aborting_a_rollout(world: RegistryWorld, edgeward: Any) -> None:
    world.release()
    join(world, "camera-7")
    edgeward("rollout", "start", "digits", "1.0.0")
    world.settle()
    assert "Rollout 1 is aborted; 1 devices go back." in edgeward("rollout", "abort", "1").out
    ran = edgeward("rollout", "abort", "1")
    assert ran.status == 1
    assert "There is nothing to abort." in ran.err


def test_a_model_that_was_never_published_is_said_with_the_way_on(edgeward: Any) -> None:
    ran = edgeward("rollout", "start", "digits", "1.0.0")
    assert ran.status == 1
    assert "Publish it first" in ran.err


def test_steps_that_are_no_numbers_are_wrong_usage(edgeward: Any) -> None:
    ran = edgeward("rollout", "start", "digits", "1.0.0", "--steps", "half,all")
    assert ran.status == 2
    assert "0.1,0.5,1" in ran.err


def test_a_rollout_to_a_device_that_nobody_knows_says_so(world: RegistryWorld, edgeward: Any, tmp_path: Path) -> None:
    edgeward("publish", str(make_bundle(tmp_path / "bundle").directory))
    join(world, "camera-1")
    ran = edgeward("rollout", "start", "digits", "1.0.0", "--cohort", "camera-1,camrea-2")
    assert ran.status == 0, ran.err
    assert "to 1 devices" in ran.out
    assert "Not enrolled: camrea-2." in ran.err
    again = edgeward("rollout", "start", "digits", "1.0.0")
    assert "Not enrolled" not in again.err
    assert "rollout 1 of digits" in again.out
    nobody = edgeward("rollout", "start", "digits", "1.0.0", "--cohort", "camrea-2")
    assert nobody.status == 1
    assert "edgeward devices" in nobody.err
