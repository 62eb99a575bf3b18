"""One device in a simulated fleet among bad links, damage on the way, forged words and a damaged disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner

from device_agent.events import Fetch, Result, RunGate, Work
from fleet_io.simulated import no_fault
from fleet_io.transport import Message
from fleet_protocol import topics
from fleet_protocol.digests import hex_of
from fleet_protocol.states import decode_status
from fleet_protocol.transfer import decode_answer
from model_registry import director as registry_director
from runtime.gate import GateRequest, GateVerdict
from tests.support.device_life import ask, events_of, install, publish
from tests.support.releases import Release, make_release
from tests.support.simulated_fleet import SimulatedDevice, SimulatedFleet


class TestBadLinks:
    def test_a_chunk_corrupted_on_the_way_costs_one_chunk(self, fleet: SimulatedFleet, device: SimulatedDevice) -> None:
        release = publish(fleet, "1.0.0")
        file = release.manifest.variants[0].file
        spoiled: list[bytes] = []

        def spoil_one(client: str, message: Message) -> list[Message]:
            if message.topic != topics.device("kitchen", "rx") or spoiled:
                return [message]
            if len(decode_answer(message.payload).chunk) != file.chunk_size:
                return [message]
            spoiled.append(message.payload)
            return [Message(message.topic, message.payload[:-1] + bytes([message.payload[-1] ^ 1]))]

        clean = bytes_served(fleet, fleet.device("reference"), release)
        fleet.broker.fault = spoil_one
        dirty = bytes_served(fleet, device, release)
        assert device.runs() == "1.0.0"
        assert len(spoiled) == 1
        assert dirty - clean == file.chunk_size

    def test_a_third_of_all_messages_lost_or_doubled_only_takes_longer(
        self, fleet: SimulatedFleet, device: SimulatedDevice
    ) -> None:
        release = publish(fleet, "1.0.0")
        count = [0]

        def lossy(client: str, message: Message) -> list[Message]:
            count[0] += 1
            if not message.topic.endswith(("/rx", "/get")) and "/w/" not in message.topic:
                return [message]
            return {0: [], 1: [message, message]}.get(count[0] % 3, [message])

        fleet.broker.fault = lossy
        fleet.assign("kitchen", release.assignment())
        device.run(60)
        assert device.runs() == "1.0.0"

    def test_a_worker_without_the_file_is_asked_again_later(self, fleet: SimulatedFleet, device: SimulatedDevice) -> None:
        release = make_release(fleet.directory / "bundles", "1.0.0")
        fleet.metadata.add(release.target, fleet.clock.now())
        fleet.assign("kitchen", release.assignment())
        device.run(5)
        assert device.state().phase == "fetching"
        fleet.blobs.put(release.digest, [release.content])
        for digest, path in release.files.items():
            fleet.blobs.put(digest, [path.read_bytes()])
        device.run(30)
        assert device.runs() == "1.0.0"

    def test_inference_goes_on_without_a_connection_and_the_work_with_the_next_one(
        self, fleet: SimulatedFleet, device: SimulatedDevice
    ) -> None:
        install(fleet, device, "1.0.0")
        device.transport.cut()
        status = decode_status(fleet.broker.retained[topics.device("kitchen", "status")])
        assert not status.online
        newer = publish(fleet, "1.1.0", seed=1)
        fleet.assign("kitchen", newer.assignment())
        device.run(60)
        ask(device, 3)
        assert device.runs() == "1.0.0"
        device.transport.start()
        device.run(12)
        assert device.runs() == "1.1.0"
        assert decode_status(fleet.broker.retained[topics.device("kitchen", "status")]).online


def bytes_served(fleet: SimulatedFleet, device: SimulatedDevice, release: Release) -> int:
    """What a device costs the worker until it runs `release`."""
    alive = hasattr(device, "agent")
    if not alive:
        device.start()
    before = fleet.chunks.served.bytes
    fleet.assign(device.name, release.assignment())
    device.run(12)
    assert device.runs() == release.manifest.version
    if not alive:
        device.kill()
    return fleet.chunks.served.bytes - before


class TestDamageOnTheWay:
    """What is spoiled between two steps is found by the next one."""

    def spoiling(self, device: SimulatedDevice, after: type[Work], spoil: Callable[[], None]) -> None:
        done: list[bool] = []

        def dies(work: Work, _result: Result) -> bool:
            if isinstance(work, after) and not done:
                done.append(True)
                spoil()
            return False

        device.dies_after_work = dies

    def test_a_manifest_corrupted_on_the_way_is_fetched_again(self, fleet: SimulatedFleet, device: SimulatedDevice) -> None:
        release = publish(fleet, "1.0.0")
        spoiled: list[bytes] = []

        def spoil_manifest(client: str, message: Message) -> list[Message]:
            if not message.topic.endswith("kitchen/rx") or not message.payload.endswith(release.content) or spoiled:
                return [message]
            spoiled.append(message.payload)
            return [Message(message.topic, message.payload.replace(b"digits", b"digitz", 1))]

        fleet.broker.fault = spoil_manifest
        fleet.assign("kitchen", release.assignment())
        device.run(20)
        assert (device.runs(), len(spoiled)) == ("1.0.0", 1)

    def test_a_file_damaged_after_the_download_is_found_by_verifying_and_fetched_again(
        self, fleet: SimulatedFleet, device: SimulatedDevice
    ) -> None:
        release = publish(fleet, "1.0.0")
        golden = release.manifest.golden.file.digest
        self.spoiling(device, Fetch, lambda: damage(device, golden))
        fleet.assign("kitchen", release.assignment())
        device.run(20)
        assert device.runs() == "1.0.0"
        assert device.history[:4] == ["fetching", "verifying", "fetching", "verifying"]

    def test_a_candidate_damaged_after_the_gate_is_refused_and_what_runs_is_not_even_loaded_again(
        self, fleet: SimulatedFleet, device: SimulatedDevice
    ) -> None:
        install(fleet, device, "1.0.0")
        ask(device, 3)
        counted = device.host.healthy("digits")
        release = publish(fleet, "1.1.0", seed=1)
        self.spoiling(device, RunGate, lambda: damage(device, release.manifest.variants[0].file.digest))
        fleet.assign("kitchen", release.assignment())
        device.run(12)
        assert (device.runs(), device.state().phase) == ("1.0.0", "idle")
        assert device.state().refused[0].phase == "activating"
        assert device.host.healthy("digits") == counted

    @pytest.mark.parametrize("what", ["file", "manifest"])
    def test_a_fallback_damaged_during_probation_is_fetched_again_for_the_roll_back(
        self, fleet: SimulatedFleet, device: SimulatedDevice, what: str
    ) -> None:
        first = install(fleet, device, "1.0.0")
        release = publish(fleet, "1.1.0", seed=1)
        fleet.assign("kitchen", release.assignment())
        device.run(1)
        assert device.state().phase == "probation"
        damage(device, file_of(first, what))
        fleet.assign("kitchen", first.assignment())
        device.run(5)
        assert (device.runs(), device.state().phase, device.state().refused) == ("1.0.0", "idle", ())


def file_of(release: Release, what: str) -> str:
    return release.digest if what == "manifest" else release.manifest.variants[0].file.digest


def damage(device: SimulatedDevice, digest: str) -> None:
    path = device.directory / "blobs" / hex_of(digest)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


class TestForgedWords:
    def test_a_word_for_another_device_or_from_another_key_or_of_the_past_is_dropped(
        self, fleet: SimulatedFleet, device: SimulatedDevice
    ) -> None:
        first = install(fleet, device, "1.0.0")
        newer = publish(fleet, "1.1.0", seed=1)
        topic, now = topics.device("kitchen", "desired"), fleet.clock.now()
        old_word = fleet.broker.retained[topic]
        states = {
            "another device": registry_director.desired_state("garage", (newer.assignment(),), sequence=99, now=now),
            "the past": registry_director.desired_state(
                "kitchen", (newer.assignment(),), sequence=99, now=now - 30 * 24 * 3600
            ),
        }
        for state in states.values():
            fleet.central.publish(topic, registry_director.seal(state, fleet.signers.director), qos=1, retain=True)
        good = registry_director.desired_state("kitchen", (newer.assignment(),), sequence=99, now=now)
        fleet.central.publish(topic, registry_director.seal(good, CryptoSigner.generate_ed25519()), qos=1, retain=True)
        fleet.central.publish(topic, b"{}", qos=1)
        fleet.central.publish(topic, b"\xff" * 5000, qos=1)
        device.run(5)
        assert (device.runs(), device.state().wanted) == ("1.0.0", first.assignment())
        fleet.assign("kitchen", newer.assignment())
        device.run(12)
        assert device.runs() == "1.1.0"
        fleet.central.publish(topic, old_word, qos=1, retain=True)
        device.run(12)
        assert device.runs() == "1.1.0", "an older word was followed"

    def test_expiry_stops_new_installs_and_never_what_runs(self, fleet: SimulatedFleet, device: SimulatedDevice) -> None:
        install(fleet, device, "1.0.0")
        newer = publish(fleet, "1.1.0", seed=1)
        device.transport.cut()
        fleet.assign("kitchen", newer.assignment())
        fleet.clock.elapsed += 20 * 24 * 3600
        device.transport.start()
        device.run(12)
        assert device.runs() == "1.0.0"
        ask(device, 3)
        device.kill()
        device.start()
        assert device.runs() == "1.0.0"

    def test_a_wish_that_expired_while_its_download_waited_is_not_followed_until_it_is_renewed(
        self, fleet: SimulatedFleet, device: SimulatedDevice
    ) -> None:
        release = publish(fleet, "1.0.0")
        fleet.broker.fault = lambda _client, message: [] if message.topic.endswith("/rx") else [message]
        fleet.assign("kitchen", release.assignment())
        device.run(1)
        fleet.clock.elapsed += 20 * 24 * 3600
        publish(fleet, "1.1.0", seed=1)
        fleet.broker.fault = no_fault
        device.run(400)
        assert (device.runs(), device.state().phase) == (None, "fetching")
        fleet.assign("kitchen", release.assignment())
        device.run(12)
        assert device.runs() == "1.0.0"


class TestDamagedDisk:
    def test_a_full_disk_puts_the_download_off_and_what_runs_goes_on(
        self, fleet: SimulatedFleet, device: SimulatedDevice
    ) -> None:
        install(fleet, device, "1.0.0")
        device.kill()
        device.reserve_bytes = 1 << 60
        device.start()
        newer = publish(fleet, "1.1.0", seed=1)
        fleet.assign("kitchen", newer.assignment())
        device.run(20)
        ask(device, 3)
        assert (device.runs(), device.state().phase, device.state().refused) == ("1.0.0", "fetching", ())
        assert "alert" in events_of(device)
        device.kill()
        device.reserve_bytes = 0
        device.start()
        device.run(12)
        assert device.runs() == "1.1.0"

    def test_a_journal_that_cannot_be_written_puts_off_what_it_would_say(
        self, fleet: SimulatedFleet, device: SimulatedDevice
    ) -> None:
        install(fleet, device, "1.0.0")
        newer = publish(fleet, "1.1.0", seed=1)
        device.disk_is_full = True
        fleet.assign("kitchen", newer.assignment())
        device.run(5)
        ask(device, 3)
        assert (device.runs(), device.state().phase) == ("1.0.0", "idle")
        device.kill()
        device.start()
        device.run(5)
        ask(device, 3)
        assert (device.runs(), device.state().phase) == ("1.0.0", "idle")
        device.disk_is_full = False
        device.run(12)
        assert device.runs() == "1.1.0"

    def test_a_full_disk_is_tried_every_other_second_and_not_all_the_time(
        self, fleet: SimulatedFleet, device: SimulatedDevice, caplog: pytest.LogCaptureFixture
    ) -> None:
        install(fleet, device, "1.0.0")
        newer, newest = publish(fleet, "1.1.0", seed=1), publish(fleet, "1.2.0", seed=2)
        device.kill()
        device.reserve_bytes = 1 << 60
        device.start()
        fleet.assign("kitchen", newer.assignment())
        device.run(1)
        assert device.state().waiting
        device.disk_is_full = True
        for _ in range(40):
            device.run(0.75)
            assert device.agent.pause() > 0.1
        fleet.assign("kitchen", newest.assignment())
        device.run(30)
        assert caplog.text.count("the journal cannot be written") == 1
        device.disk_is_full = False
        device.run(5)
        assert device.state().target == newest.assignment()

    def test_a_word_that_cannot_be_kept_is_followed_as_soon_as_it_can(
        self, fleet: SimulatedFleet, device: SimulatedDevice
    ) -> None:
        release = publish(fleet, "1.0.0")
        in_the_way = device.directory / "trust" / "accepted.json"
        in_the_way.mkdir()
        fleet.assign("kitchen", release.assignment())
        device.run(5)
        assert device.agent.states == {}
        in_the_way.rmdir()
        device.run(12)
        assert device.runs() == "1.0.0"

    def test_a_download_that_was_cut_goes_on_where_it_was(self, fleet: SimulatedFleet, device: SimulatedDevice) -> None:
        release = publish(fleet, "1.0.0")
        file = release.manifest.variants[0].file
        came: list[int] = []
        cut = True

        def from_the_third_on_nothing_comes(client: str, message: Message) -> list[Message]:
            if not message.topic.endswith("kitchen/rx"):
                return [message]
            answer = decode_answer(message.payload)
            if answer.size == file.size:
                if cut and answer.index > 1:
                    return []
                came.append(answer.index)
            return [message]

        fleet.broker.fault = from_the_third_on_nothing_comes
        fleet.assign("kitchen", release.assignment())
        device.run(1)
        assert (device.state().phase, device.state().waiting, sorted(came)) == ("fetching", True, [0, 1])
        cut = False
        came.clear()
        device.kill()
        device.start()
        device.run(12)
        assert device.runs() == "1.0.0"
        assert came
        assert min(came) == 2

    def test_a_damaged_journal_is_set_aside_and_the_slots_say_what_runs(
        self, fleet: SimulatedFleet, device: SimulatedDevice
    ) -> None:
        install(fleet, device, "1.0.0")
        install(fleet, device, "1.1.0", seed=1)
        device.kill()
        journal = device.directory / "journal.json"
        journal.write_bytes(journal.read_bytes()[:-40])
        device.start()
        device.run(1)
        assert device.runs() == "1.1.0"
        previous = device.state().previous
        assert previous is not None
        assert previous.version == "1.0.0"
        assert (device.directory / "journal.damaged.json").exists()

    @pytest.mark.parametrize("what", ["file", "manifest"])
    def test_damaged_files_of_what_runs_are_fetched_again_while_the_previous_version_answers(
        self, fleet: SimulatedFleet, device: SimulatedDevice, what: str
    ) -> None:
        install(fleet, device, "1.0.0")
        release = install(fleet, device, "1.1.0", seed=1)
        device.kill()
        damage(device, file_of(release, what))
        device.start()
        device.worker.jobs.popleft()()
        assert device.runs() == "1.0.0"
        device.run(15)
        assert (device.runs(), device.state().refused) == ("1.1.0", ())

    def test_slots_that_the_disk_does_not_take_keep_no_model_from_answering(
        self, fleet: SimulatedFleet, device: SimulatedDevice
    ) -> None:
        install(fleet, device, "1.0.0")
        device.kill()
        (device.directory / "models" / "digits" / "previous.json").mkdir()
        device.start()
        assert device.runs() == "1.0.0"

    def test_a_model_that_kills_the_process_at_each_start_is_tried_in_a_child_first(
        self, fleet: SimulatedFleet, device: SimulatedDevice
    ) -> None:
        install(fleet, device, "1.0.0")
        install(fleet, device, "1.1.0", seed=1)
        asked: list[Path] = []

        def gate(request: GateRequest) -> GateVerdict:
            asked.append(request.candidate.path)
            return GateVerdict(passed=False, reason="the child was killed by signal 11")

        device.kill()
        device.gate = gate
        for _ in range(4):
            device.start()
            device.kill()
        assert asked == []
        device.start()
        assert len(asked) == 1
        device.run(1)
        assert device.runs() == "1.0.0"
