"""Rollouts through the real registry over a simulated broker: what devices are told follows from what they say."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from securesystemslib.signer import Key

from fleet_protocol import limits, topics
from fleet_protocol.digests import digest_of
from fleet_protocol.states import Assignment
from model_registry import coordinator, director
from model_registry.catalogue import open_catalogue
from model_registry.errors import StoreFailed
from model_registry.rollout import Release
from tests.support.registry_world import RegistryWorld, TalkingDevice, registry_world, request_pem, runs


@pytest.fixture
def world(tmp_path: Path) -> Iterator[RegistryWorld]:
    with registry_world(tmp_path) as made:
        yield made


def join(world: RegistryWorld, *names: str) -> list[TalkingDevice]:
    """Enrol devices and connect them."""
    claim = world.claim(uses=len(names))
    joined = []
    for name in names:
        body = {"device": name, "claim": claim, "csr": request_pem()}
        key = world.ask("POST", "/v1/enrolments", status=201, json=body)["director_key"]
        device = TalkingDevice(name, world.broker, Key.from_dict(key.pop("keyid"), key))
        device.connect()
        joined.append(device)
    world.settle()
    return joined


def start(world: RegistryWorld, version: str, **more: Any) -> int:
    begun = world.ask("POST", "/v1/rollouts", status=201, json={"model": "digits", "version": version, **more})
    world.settle()
    return int(begun["id"])


def state(world: RegistryWorld, rollout: int) -> str:
    world.settle()
    return str(world.ask("GET", f"/v1/rollouts/{rollout}")["state"])


def all_on(world: RegistryWorld, devices: list[TalkingDevice], version: str) -> None:
    """Bring a version to every device."""
    rollout = start(world, version)
    for device in devices:
        device.run()
    assert state(world, rollout) == "succeeded"


def test_a_rollout_reaches_devices_by_a_signed_word_and_succeeds_on_their_word(world: RegistryWorld) -> None:
    bundle = world.release()
    devices = join(world, "a", "b")
    rollout = start(world, "1.0.0")
    assert [each.assigned["digits"].manifest for each in devices] == [bundle.digest] * 2
    devices[0].run()
    assert state(world, rollout) == "running"
    devices[1].run()
    assert state(world, rollout) == "succeeded"


def test_a_refused_release_takes_all_devices_back_to_what_they_ran(world: RegistryWorld) -> None:
    old = world.release(version="1.0.0")
    world.release(version="1.1.0", content=b"other weights")
    devices = join(world, "a", "b", "c")
    all_on(world, devices, "1.0.0")
    rollout = start(world, "1.1.0")
    devices[0].run()
    devices[1].refuse(instead=Assignment(model="digits", version="1.0.0", manifest=old.digest))
    assert state(world, rollout) == "failed"
    assert {each.assigned["digits"].manifest for each in devices} == {old.digest}
    shown = world.ask("GET", f"/v1/rollouts/{rollout}")
    assert "b in phase gating: gate: too wrong" in shown["detail"]
    outcomes = {each["device"]: each["outcome"] for each in shown["devices"]}
    assert outcomes == {"a": "committed", "b": "failed", "c": "pending"}


def test_a_device_that_was_offline_since_an_abort_never_goes_back_to_what_was_aborted(world: RegistryWorld) -> None:
    """It still says that it runs the aborted release when the next rollout reaches it."""
    old = world.release(version="1.0.0")
    world.release(version="1.1.0", content=b"other weights")
    world.release(version="1.2.0", content=b"third weights")
    devices = join(world, "a", "b")
    all_on(world, devices, "1.0.0")
    aborted = start(world, "1.1.0")
    devices[1].run()
    world.settle()
    world.ask("POST", f"/v1/rollouts/{aborted}/abort")
    failed = start(world, "1.2.0")
    devices[0].refuse(instead=Assignment(model="digits", version="1.0.0", manifest=old.digest))
    assert state(world, failed) == "failed"
    assert {each.assigned["digits"].manifest for each in devices} == {old.digest}


def test_the_first_release_that_fails_leaves_devices_with_nothing(world: RegistryWorld) -> None:
    world.release()
    (device,) = join(world, "a")
    rollout = start(world, "1.0.0")
    device.refuse()
    assert state(world, rollout) == "failed"
    assert device.assigned == {}


def test_steps_wait_for_the_devices_of_the_step_before(world: RegistryWorld) -> None:
    world.release()
    devices = join(world, "a", "b", "c", "d")
    start(world, "1.0.0", steps=[0.5, 1.0])
    first = [each for each in devices if each.told]
    assert len(first) == 2
    for device in first:
        device.run()
    world.settle()
    assert all(each.told for each in devices)


def test_a_device_that_joins_later_gets_what_its_cohort_runs(world: RegistryWorld) -> None:
    bundle = world.release()
    all_on(world, join(world, "a"), "1.0.0")
    (late,) = join(world, "late")
    assert late.assigned["digits"].manifest == bundle.digest


def test_a_device_that_comes_back_is_told_again(world: RegistryWorld) -> None:
    world.release()
    (device,) = join(world, "a")
    start(world, "1.0.0")
    device.transport.cut()
    world.broker.retained.clear()  # the broker was killed; its memory is only a hint
    device.told.clear()
    device.session = "s2"
    device.connect()
    world.settle()
    assert device.assigned["digits"].version == "1.0.0"


def test_after_the_registry_reconnects_every_device_is_told_again_without_a_new_sequence(world: RegistryWorld) -> None:
    world.release()
    (device,) = join(world, "a")
    start(world, "1.0.0")
    before = device.told[-1]
    world.broker.retained.clear()
    world.transport.stop()
    world.transport.start()
    world.settle()
    assert device.told[-1] == before
    assert topics.device("a", "desired") in world.broker.retained
    assert topics.META_TIMESTAMP in world.broker.retained


def test_a_restarted_registry_goes_on_with_the_rollout_where_it_was(world: RegistryWorld) -> None:
    world.release()
    devices = join(world, "a", "b")
    rollout = start(world, "1.0.0")
    devices[0].run()
    world.settle()
    world.again()
    devices[1].run()
    assert state(world, rollout) == "succeeded"


def test_a_rollout_that_starts_while_the_broker_is_away_is_told_when_it_is_back(world: RegistryWorld) -> None:
    world.release()
    (device,) = join(world, "a")
    world.transport.stop()
    start(world, "1.0.0")
    assert device.told == []
    world.transport.start()
    world.settle()
    assert device.assigned["digits"].version == "1.0.0"


def test_a_newer_rollout_supersedes_the_one_that_runs(world: RegistryWorld) -> None:
    world.release(version="1.0.0")
    world.release(version="1.1.0", content=b"other weights")
    (device,) = join(world, "a")
    first = start(world, "1.0.0")
    second = start(world, "1.1.0")
    assert state(world, first) == "superseded"
    device.run()
    assert state(world, second) == "succeeded"
    assert device.assigned["digits"].version == "1.1.0"


def test_a_cohort_that_is_spelt_wrong_does_not_end_the_rollout_that_runs(world: RegistryWorld) -> None:
    world.release()
    join(world, "a")
    running = start(world, "1.0.0")
    body = {"model": "digits", "version": "1.0.0", "cohort": "aa,ab"}
    refused = world.ask("POST", "/v1/rollouts", status=404, json=body)
    assert "aa,ab" in refused["error"]["message"]
    assert state(world, running) == "running"


def test_rollouts_to_different_devices_run_side_by_side(world: RegistryWorld) -> None:
    world.release(version="1.0.0")
    world.release(version="1.1.0", content=b"other weights")
    one, other = join(world, "a", "b")
    first, second = start(world, "1.0.0", cohort="a"), start(world, "1.1.0", cohort="b")
    one.run()
    other.run()
    assert (state(world, first), state(world, second)) == ("succeeded", "succeeded")
    assert (one.assigned["digits"].version, other.assigned["digits"].version) == ("1.0.0", "1.1.0")


def test_a_report_that_could_not_be_stored_is_stored_later(world: RegistryWorld) -> None:
    """A database that is locked or full for a moment must not lose a device's word."""
    world.release()
    (device,) = join(world, "a")
    rollout = start(world, "1.0.0")
    device.run()
    blocker = sqlite3.connect(world.layout.database)
    blocker.execute("ALTER TABLE devices RENAME TO elsewhere")
    with pytest.raises(StoreFailed):
        world.settle()
    refused = world.ask("GET", "/v1/devices", status=507)
    assert refused["error"]["message"].startswith("The registry's database refused: ")
    blocker.execute("ALTER TABLE elsewhere RENAME TO devices")
    blocker.close()
    assert state(world, rollout) == "succeeded"


def test_a_device_with_more_models_than_it_takes_keeps_its_word_and_holds_up_nobody(
    world: RegistryWorld, caplog: pytest.LogCaptureFixture
) -> None:
    world.release()
    crowded, other = join(world, "a", "b")
    start(world, "1.0.0")
    before = crowded.told[-1]
    catalogue = open_catalogue(f"sqlite:///{world.layout.database}")
    with catalogue.changing() as records:
        for at in range(limits.ASSIGNMENTS):
            records.fleet.assign(f"extra-{at}", {"a": Release("1.0.0", digest_of(b"x"))}, 1)
        records.fleet.assign("extra", {"b": Release("1.0.0", digest_of(b"x"))}, 1)
    catalogue.close()
    world.registry.wake()
    world.settle()
    assert crowded.told[-1] == before
    assert "a keeps what it was told last" in caplog.text
    assert set(other.assigned) == {"digits", "extra"}


def test_an_aborted_rollout_takes_its_devices_back_and_cannot_be_aborted_again(world: RegistryWorld) -> None:
    world.release(version="1.0.0")
    world.release(version="1.1.0", content=b"other weights")
    devices = join(world, "a", "b")
    all_on(world, devices, "1.0.0")
    rollout = start(world, "1.1.0")
    assert world.ask("POST", f"/v1/rollouts/{rollout}/abort")["state"] == "aborted"
    world.settle()
    assert {each.assigned["digits"].version for each in devices} == {"1.0.0"}
    refused = world.ask("POST", f"/v1/rollouts/{rollout}/abort", status=409)
    assert refused["error"]["code"] == "rollout_refused"


def test_a_failed_release_that_is_rolled_out_again_is_a_new_attempt(world: RegistryWorld) -> None:
    world.release()
    (device,) = join(world, "a")
    start(world, "1.0.0")
    device.refuse()
    world.settle()
    again = start(world, "1.0.0")
    assert device.assigned["digits"].attempt == 1
    assert state(world, again) == "running"
    device.run()
    assert state(world, again) == "succeeded"


def test_an_operator_may_let_one_device_try_again(world: RegistryWorld) -> None:
    world.release()
    devices = join(world, "a", "b")
    rollout = start(world, "1.0.0", max_failures=1)
    devices[0].refuse()
    world.settle()
    assert world.ask("POST", "/v1/devices/a/retry") == {"retried": ["digits"]}
    world.settle()
    assert devices[0].assigned["digits"].attempt == 1
    devices[0].run()
    devices[1].run()
    assert state(world, rollout) == "succeeded"
    assert world.ask("POST", "/v1/devices/a/retry") == {"retried": []}


def test_a_report_that_speaks_for_another_device_is_dropped(world: RegistryWorld) -> None:
    world.release()
    devices = join(world, "a", "b")
    rollouts = [start(world, "1.0.0", cohort=name) for name in ("a", "b")]
    devices[0].report(runs(devices[0].assigned["digits"]), speaks_for="b")
    assert [state(world, each) for each in rollouts] == ["running", "running"]
    devices[0].run()
    assert [state(world, each) for each in rollouts] == ["succeeded", "running"]


def test_reports_of_strangers_and_of_nonsense_are_dropped(world: RegistryWorld) -> None:
    world.release()
    join(world, "a")
    stranger = TalkingDevice("stranger", world.broker, None)  # type: ignore[arg-type]  # it is never told anything
    stranger.connect()
    stranger.report()
    for payload in (b"", b"{}", b"\xff" * 100, b"[" * 1000, b'{"device":"a"}'):
        stranger.transport.publish(topics.device("a", "reported"), payload, qos=1)
        stranger.transport.publish(topics.device("a", "status"), payload, qos=1)
    world.settle()
    assert [each["name"] for each in world.ask("GET", "/v1/devices")["devices"]] == ["a"]


def test_an_older_report_of_the_same_boot_changes_nothing(world: RegistryWorld) -> None:
    world.release()
    (device,) = join(world, "a")
    rollout = start(world, "1.0.0")
    device.sequence = 5
    device.report()
    device.sequence = 2
    device.run()
    assert state(world, rollout) == "running"
    device.boot, device.sequence = "1" * 32, 0
    device.run()
    assert state(world, rollout) == "succeeded"


def test_a_storm_of_reports_is_taken_in_by_batches_and_none_is_lost(world: RegistryWorld) -> None:
    (device,) = join(world, "a")
    for _ in range(3 * coordinator.BATCH):
        device.report()
    world.settle(rounds=4)
    assert world.ask("GET", "/v1/devices/a")["sequence"] == 3 * coordinator.BATCH


def test_the_will_of_an_older_session_does_not_end_a_newer_one(world: RegistryWorld) -> None:
    (device,) = join(world, "a")
    device.session = "s2"
    device.say_status(online=True)
    device.say_status(online=False, session="s1")
    world.settle()
    assert world.ask("GET", "/v1/devices/a")["online"] is True
    device.say_status(online=False)
    world.settle()
    assert world.ask("GET", "/v1/devices/a")["online"] is False


def test_words_to_devices_are_renewed_long_before_they_expire(world: RegistryWorld) -> None:
    world.release()
    (device,) = join(world, "a")
    start(world, "1.0.0")
    before = device.told[-1]
    world.clock.forward(director.VALID_S * 0.6)
    world.settle()
    after = device.told[-1]
    assert after.sequence == before.sequence + 1
    assert after.expires > before.expires
    assert after.assignments == before.assignments


def test_a_registry_restored_from_an_older_copy_is_heard_again(world: RegistryWorld, tmp_path: Path) -> None:
    """A device drops every word that is older than the last one it followed."""
    world.release()
    (device,) = join(world, "a")
    start(world, "1.0.0")
    copy = shutil.copytree(world.directory, tmp_path / "copy")
    for _ in range(3):
        world.clock.forward(director.VALID_S * 0.6)
        world.settle()
    followed = device.told[-1]
    world.close()
    shutil.rmtree(world.directory)
    shutil.copytree(copy, world.directory)
    world.open()
    device.run()
    world.settle()
    assert device.told[-1].sequence == followed.sequence + 1
    assert device.assigned["digits"].version == "1.0.0"
    heard = len(device.told)
    device.run()
    world.settle()
    assert len(device.told) == heard, "it is told once"


def test_the_fleet_never_shows_success_for_a_device_that_runs_something_else(world: RegistryWorld) -> None:
    old = world.release(version="1.0.0")
    world.release(version="1.1.0", content=b"other weights")
    devices = join(world, "a", "b")
    all_on(world, devices, "1.0.0")
    start(world, "1.1.0", max_failures=1)
    devices[0].run()
    devices[1].refuse(instead=Assignment(model="digits", version="1.0.0", manifest=old.digest))
    world.settle()
    shown = {each["name"]: each["models"][0] for each in world.ask("GET", "/v1/devices")["devices"]}
    assert shown["a"]["committed"] is True
    assert shown["b"]["committed"] is False
    assert shown["b"]["running"]["version"] == "1.0.0"
    assert shown["b"]["desired"]["version"] == "1.1.0"
    assert shown["b"]["refused"][0]["reason"] == "gate: too wrong"


def test_a_device_at_work_shows_its_phase(world: RegistryWorld) -> None:
    world.release()
    (device,) = join(world, "a")
    rollout = start(world, "1.0.0")
    working = msgspec.structs.replace(runs(device.assigned["digits"]), phase="probation", progress=1.0)
    device.report(working)
    world.settle()
    shown = world.ask("GET", f"/v1/rollouts/{rollout}")["devices"][0]
    assert (shown["state"], shown["phase"]) == ("pending", "probation")
