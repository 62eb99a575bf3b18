"""One device's life in a simulated fleet: good releases, bad ones, bad links, a full disk, forged words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner

from device_agent.events import Fetch, Result, RunGate, Work
from fleet_io.simulated import no_fault
from fleet_io.transport import Message
from fleet_protocol import topics
from fleet_protocol.digests import hex_of
from fleet_protocol.states import Assignment, decode_event, decode_status
from fleet_protocol.telemetry import Lane, decode_frame
from fleet_protocol.transfer import decode_answer
from model_registry import director as registry_director
from runtime.gate import GateRequest, GateVerdict
from tests.support.releases import Release, make_release, question
from tests.support.simulated_fleet import SimulatedDevice, SimulatedFleet


@pytest.fixture
def fleet(tmp_path: Path) -> SimulatedFleet:
    return SimulatedFleet(tmp_path)


@pytest.fixture
def device(fleet: SimulatedFleet) -> Iterator[SimulatedDevice]:
    made = fleet.device()
    made.start()
    yield made
    made.kill()


def publish(
    fleet: SimulatedFleet, version: str, *, seed: int = 0, damages: tuple[float, ...] = (0.0,), model: str = "digits"
) -> Release:
    release = make_release(fleet.directory / f"bundles-{model}", version, seed=seed, damages=damages, model=model)
    fleet.publish(release)
    return release


def install(fleet: SimulatedFleet, device: SimulatedDevice, version: str, *, seed: int = 0) -> Release:
    """Publish a good release, assign it, and let it prove itself by its self-check."""
    release = publish(fleet, version, seed=seed)
    fleet.assign(device.name, release.assignment())
    device.run(12)
    assert (device.state().phase, device.runs()) == ("idle", version)
    return release


def ask(device: SimulatedDevice, times: int) -> None:
    for _ in range(times):
        device.host.infer("digits", question())


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


def lenient_gate(_request: GateRequest) -> GateVerdict:
    return GateVerdict(passed=True, reason="not looked at")


def events_of(device: SimulatedDevice) -> list[str]:
    """The kinds of all events that wait in the outbox, oldest first."""
    frames = [decode_frame(each.payload) for each in device.outbox.due(1e9) if each.lane is Lane.EVENTS]
    return [decode_event(frame.body).kind for frame in frames]


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

    def test_a_fallback_damaged_during_probation_is_fetched_again_for_the_roll_back(
        self, fleet: SimulatedFleet, device: SimulatedDevice
    ) -> None:
        first = install(fleet, device, "1.0.0")
        release = publish(fleet, "1.1.0", seed=1)
        fleet.assign("kitchen", release.assignment())
        device.run(1)
        assert device.state().phase == "probation"
        damage(device, first.manifest.variants[0].file.digest)
        fleet.assign("kitchen", first.assignment())
        device.run(5)
        assert (device.runs(), device.state().phase, device.state().refused) == ("1.0.0", "idle", ())


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
        digest = release.manifest.variants[0].file.digest if what == "file" else release.digest
        damage(device, digest)
        device.start()
        device.worker.jobs.popleft()()
        assert device.runs() == "1.0.0"
        device.run(15)
        assert (device.runs(), device.state().refused) == ("1.1.0", ())

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
