"""One device's life in a simulated fleet: good releases, bad ones, and what it reports of them."""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any

import numpy as np
import pytest

from device_agent import inputs
from device_agent.agent import OVERDUE_S
from fleet_protocol import topics
from fleet_protocol.digests import hex_of
from fleet_protocol.states import Assignment, decode_status
from fleet_protocol.telemetry import Lane
from runtime.gate import GateRequest, GateVerdict
from runtime.hosting.admission import Limits
from tests.support.device_life import ask, events_of, install, publish
from tests.support.engines import ScriptedEngine, model_of
from tests.support.releases import make_release
from tests.support.simulated_fleet import SimulatedDevice, SimulatedFleet
from tests.support.waiting import until


class TestGoodReleases:
    def test_a_release_is_fetched_verified_tried_activated_and_committed_after_enough_good_answers(
        self, fleet: SimulatedFleet, device: SimulatedDevice
    ) -> None:
        release = publish(fleet, "1.0.0")
        fleet.assign("kitchen", release.assignment())
        device.run()
        assert device.state().phase == "probation"
        assert fleet.reported("kitchen").models[0].phase == "probation"
        ask(device, 5)
        device.run(1)
        assert device.history == ["fetching", "verifying", "staged", "gating", "activating", "probation", "idle"]
        reported = fleet.reported("kitchen").models[0]
        assert reported.running is not None
        assert (reported.phase, reported.running.manifest, device.runs()) == ("idle", release.digest, "1.0.0")

    def test_the_next_release_replaces_it_and_the_operator_can_go_back_without_a_transfer(
        self, fleet: SimulatedFleet, device: SimulatedDevice
    ) -> None:
        first = install(fleet, device, "1.0.0")
        install(fleet, device, "1.1.0", seed=1)
        before = fleet.chunks.served.bytes
        fleet.assign("kitchen", first.assignment())
        device.run(12)
        assert device.runs() == "1.0.0"
        assert fleet.chunks.served.bytes - before < 20_000, "only metadata may travel again"

    def test_files_that_no_slot_names_are_deleted(self, fleet: SimulatedFleet, device: SimulatedDevice) -> None:
        releases = [install(fleet, device, f"1.{minor}.0", seed=minor) for minor in range(3)]
        kept = {path.name for path in (device.directory / "blobs").iterdir()}
        assert hex_of(releases[0].digest) not in kept
        for release in releases[1:]:
            assert hex_of(release.digest) in kept
            assert hex_of(release.manifest.variants[0].file.digest) in kept

    def test_two_models_live_side_by_side(self, fleet: SimulatedFleet, device: SimulatedDevice) -> None:
        digits, letters = publish(fleet, "1.0.0"), publish(fleet, "2.0.0", seed=1, model="letters")
        fleet.assign("kitchen", digits.assignment(), letters.assignment())
        device.run(12)
        assert (device.runs("digits"), device.runs("letters")) == ("1.0.0", "2.0.0")
        fleet.assign("kitchen", letters.assignment())
        device.run(1)
        assert (device.runs("digits"), device.runs("letters")) == (None, "2.0.0")

    def test_a_removed_model_leaves_nothing_behind_and_can_come_again(
        self, fleet: SimulatedFleet, device: SimulatedDevice
    ) -> None:
        release = install(fleet, device, "1.0.0")
        fleet.assign("kitchen")
        device.run(1)
        assert device.runs() is None
        assert list((device.directory / "blobs").iterdir()) == []
        fleet.assign("kitchen", release.assignment())
        device.run(12)
        assert device.runs() == "1.0.0"

    def test_a_model_that_is_neither_wanted_nor_here_is_forgotten(self, fleet: SimulatedFleet, device: SimulatedDevice) -> None:
        install(fleet, device, "1.0.0")
        for _ in range(2):
            fleet.assign("kitchen")
            device.run(2)
        assert device.agent.states == {}
        assert fleet.reported("kitchen").models == ()

    def test_a_download_under_way_survives_the_tidying_after_another_models_commit(
        self, fleet: SimulatedFleet, device: SimulatedDevice
    ) -> None:
        slow, quick = publish(fleet, "2.0.0", seed=1, model="letters"), publish(fleet, "1.0.0")
        missing = slow.manifest.variants[0].file.digest
        fleet.blobs._path(missing).unlink()
        fleet.assign("kitchen", slow.assignment())
        device.run(1)
        fleet.assign("kitchen", slow.assignment(), quick.assignment())
        device.run(12)
        assert (device.state("digits").phase, device.state("letters").phase) == ("idle", "fetching")
        kept = {path.name for path in (device.directory / "blobs").iterdir()}
        assert hex_of(slow.digest) in kept
        assert (device.directory / "partial" / hex_of(missing)).exists()

    def test_a_newer_wish_in_the_middle_of_a_transfer_is_followed_at_once(
        self, fleet: SimulatedFleet, device: SimulatedDevice
    ) -> None:
        slow, wanted = publish(fleet, "1.0.0"), publish(fleet, "1.1.0", seed=1)
        fleet.assign("kitchen", slow.assignment())
        device.agent.handle(device.agent.inputs.get_nowait())
        device.agent.handle(device.agent.inputs.get_nowait())
        assert device.state().phase == "fetching"
        fleet.assign("kitchen", wanted.assignment())
        device.run(12)
        assert device.runs() == "1.1.0"
        assert not (device.directory / "blobs" / hex_of(slow.digest)).exists()


def test_what_a_signal_puts_in_while_the_agent_waits_for_its_next_input_is_taken(device: SimulatedDevice) -> None:
    """A signal's handler runs on the thread that waits, wherever that is; a lock that it holds there would never be free."""
    device.run()
    waiting = device.agent.inputs

    def interrupt(frame: FrameType, _what: str, _value: object) -> Any:
        if frame.f_code is threading.Condition.wait.__code__:
            sys.settrace(None)
            waiting.put(inputs.StopAsked())
        return interrupt

    def wait() -> None:
        sys.settrace(interrupt)
        with contextlib.suppress(queue.Empty):
            waiting.get(timeout=0.01)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "it waits for its own lock"


class TestBadReleases:
    def test_a_release_that_the_gate_refuses_never_answers_and_what_runs_goes_on(
        self, fleet: SimulatedFleet, device: SimulatedDevice
    ) -> None:
        install(fleet, device, "1.0.0")
        broken = publish(fleet, "1.1.0", damages=(1.0,))
        fleet.assign("kitchen", broken.assignment())
        device.run(12)
        assert (device.runs(), device.state().phase) == ("1.0.0", "idle")
        refused = fleet.reported("kitchen").models[0].refused
        assert [(each.version, each.phase) for each in refused] == [("1.1.0", "gating")]
        assert "float-0" in refused[0].reason
        assert device.slots.read("digits", "staged") is None
        assert not (device.directory / "blobs" / hex_of(broken.manifest.variants[0].file.digest)).exists()

    def test_it_is_not_tried_again_until_the_operator_says_so(self, fleet: SimulatedFleet, device: SimulatedDevice) -> None:
        broken = publish(fleet, "1.1.0", damages=(1.0,))
        fleet.assign("kitchen", broken.assignment())
        device.run(12)
        device.history.clear()
        fleet.assign("kitchen", broken.assignment())
        device.run(12)
        device.kill()
        device.start()
        device.run(12)
        assert set(device.history) <= {"idle"}
        fleet.assign("kitchen", broken.assignment(attempt=1))
        device.run(12)
        assert "gating" in device.history
        assert fleet.reported("kitchen").models[0].refused[0].attempt == 1

    def test_when_the_best_variant_fails_on_this_device_the_next_one_is_tried(
        self, fleet: SimulatedFleet, device: SimulatedDevice
    ) -> None:
        release = publish(fleet, "1.0.0", damages=(1.0, 0.0))
        fleet.assign("kitchen", release.assignment())
        device.run(12)
        running = device.state().running
        assert running is not None
        assert (running.variant, device.state().refused) == ("float-1", ())

    def test_a_release_that_nobody_signed_is_never_fetched(self, fleet: SimulatedFleet, device: SimulatedDevice) -> None:
        unsigned = make_release(fleet.directory / "bundles", "6.6.6")
        fleet.blobs.put(unsigned.digest, [unsigned.content])
        fleet.assign("kitchen", unsigned.assignment())
        device.run(12)
        assert (device.state().phase, device.runs()) == ("fetching", None)
        assert list((device.directory / "blobs").iterdir()) == []

    def test_another_digest_than_the_publisher_signed_is_refused(self, fleet: SimulatedFleet, device: SimulatedDevice) -> None:
        signed, other = publish(fleet, "1.0.0"), publish(fleet, "1.1.0", seed=1)
        forged = Assignment(model="digits", version=signed.manifest.version, manifest=other.digest)
        fleet.assign("kitchen", forged)
        device.run(12)
        assert (device.state().phase, device.runs()) == ("idle", None)
        assert "not what the publisher signed" in device.state().refused[0].reason

    def test_a_model_that_fails_on_real_traffic_is_rolled_back(self, fleet: SimulatedFleet, device: SimulatedDevice) -> None:
        install(fleet, device, "1.0.0")
        device.kill()
        device.gate = lenient_gate
        device.start()
        bad = make_release(fleet.directory / "bundles-digits", "1.1.0", answers_nan=True)
        fleet.publish(bad)
        fleet.assign("kitchen", bad.assignment())
        device.run()
        assert device.state().phase == "probation"
        ask(device, 1)
        device.run(1)
        assert (device.runs(), device.state().phase) == ("1.0.0", "idle")
        assert device.state().refused[0].phase == "probation"
        assert [kind for kind in events_of(device) if kind in ("rolled_back", "committed")] == ["committed", "rolled_back"]

    def test_a_model_without_traffic_that_fails_its_self_check_is_rolled_back(
        self, fleet: SimulatedFleet, device: SimulatedDevice
    ) -> None:
        install(fleet, device, "1.0.0")
        device.kill()
        device.gate = lenient_gate
        device.start()
        bad = publish(fleet, "1.1.0", damages=(1.0,))
        fleet.assign("kitchen", bad.assignment())
        device.run(12)
        assert device.runs() == "1.0.0"
        assert "self-check" in device.state().refused[0].reason

    def test_a_model_that_holds_up_the_server_is_refused_and_what_ran_before_answers_after_the_restart(
        self, fleet: SimulatedFleet, device: SimulatedDevice
    ) -> None:
        install(fleet, device, "1.0.0")
        fleet.assign("kitchen", publish(fleet, "1.1.0", seed=1).assignment())
        device.run()
        goes_on = threading.Event()
        stuck = ScriptedEngine(lambda x: x[: goes_on.wait(60)])
        device.host.activate(device.host.describe("digits").identity, model_of(stuck))
        with ThreadPoolExecutor(1) as threads:
            asked = threads.submit(device.host.infer, "digits", {"x": np.zeros((1, 2), np.float32)})
            until(lambda: device.host.describe("digits").longest_s > OVERDUE_S, "the inference is overdue")
            device.run(20)
            assert device.state().phase == "probation"  # though its window is over: nothing is committed meanwhile
            device.agent.handle(inputs.ServerHung("digits hangs"))
            assert (device.agent.hung, device.state().phase) == ("digits hangs", "rolling_back")
            device.kill()
            goes_on.set()
            asked.result(60)
        device.start()
        device.run(1)
        assert (device.runs(), device.state().phase) == ("1.0.0", "idle")
        [refused] = fleet.reported("kitchen").models[0].refused
        assert (refused.version, refused.phase, refused.reason) == ("1.1.0", "probation", "digits hangs")

    def test_a_committed_model_that_hangs_beside_others_is_told_of_once(
        self, fleet: SimulatedFleet, device: SimulatedDevice
    ) -> None:
        install(fleet, device, "1.0.0")
        goes_on = threading.Event()
        stuck = model_of(ScriptedEngine(lambda x: x[: goes_on.wait(60)]))
        device.host.activate(device.host.describe("digits").identity, stuck, limits=Limits(2, hang_s=0.1))
        with ThreadPoolExecutor(1) as threads:
            asked = threads.submit(device.host.infer, "digits", {"x": np.zeros((1, 2), np.float32)})
            until(lambda: device.host.describe("digits").hung == 1, "the inference hangs")
            device.run(5)
            goes_on.set()
            asked.result(60)
        assert events_of(device).count("alert") == 1
        assert device.state().phase == "idle"

    def test_a_hang_is_not_held_against_a_model_that_answers_nobody_just_then(
        self, fleet: SimulatedFleet, device: SimulatedDevice
    ) -> None:
        install(fleet, device, "1.0.0")
        device.agent.handle(inputs.ServerHung("another hangs"))
        assert device.agent.hung == "another hangs"
        assert "alert" not in events_of(device)
        device.kill()
        device.start()
        assert (device.runs(), device.state().refused) == ("1.0.0", ())


def lenient_gate(_request: GateRequest) -> GateVerdict:
    return GateVerdict(passed=True, reason="not looked at")


class TestReports:
    def test_telemetry_and_events_wait_until_the_backend_has_them(self, fleet: SimulatedFleet, device: SimulatedDevice) -> None:
        received: list[str] = []
        fleet.central.subscribe(topics.every_device("telemetry"), lambda message: received.append(message.topic), qos=1)
        install(fleet, device, "1.0.0")
        ask(device, 3)
        device.run(31)
        assert received
        assert device.outbox.count(Lane.METRICS) == 1
        device.acknowledge_all()
        assert device.outbox.is_empty()

    def test_what_was_not_acknowledged_is_sent_again_after_a_reconnect(
        self, fleet: SimulatedFleet, device: SimulatedDevice
    ) -> None:
        received: list[bytes] = []
        fleet.central.subscribe(topics.every_device("event"), lambda message: received.append(message.payload), qos=1)
        install(fleet, device, "1.0.0")
        once = list(received)
        device.transport.cut()
        device.transport.start()
        device.run(1)
        assert received == once * 2

    def test_work_that_waits_at_a_clean_stop_is_not_begun(self, fleet: SimulatedFleet) -> None:
        device = fleet.device("porch")
        device.start()
        fleet.assign("porch", publish(fleet, "1.0.0").assignment())
        while not device.agent.inputs.empty():
            device.agent.handle(device.agent.inputs.get_nowait())
        device.agent.end()
        while device.worker.jobs:
            device.worker.jobs.popleft()()
        assert fleet.chunks.served.chunks == 0
        device.kill()

    def test_a_clean_stop_says_farewell(self, fleet: SimulatedFleet) -> None:
        device = fleet.device("porch")
        device.start()
        device.run(1)
        assert decode_status(fleet.broker.retained[topics.device("porch", "status")]).online
        device.stop()
        assert not decode_status(fleet.broker.retained[topics.device("porch", "status")]).online
        device.transport.stop()


def test_why_it_never_got_a_connection_is_said_once_for_each_reason(
    device: SimulatedDevice, caplog: pytest.LogCaptureFixture
) -> None:
    """A device whose clock is wrong trusts nobody, and its log was silent."""
    for reason in ("refused", "refused", "certificate is not yet valid", "certificate is not yet valid"):
        device.agent.handle(inputs.Offline(reason))
    assert [record.getMessage() for record in caplog.records if "not connected" in record.message] == [
        "not connected: refused",
        "not connected: certificate is not yet valid",
    ]
