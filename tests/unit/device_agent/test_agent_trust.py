from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner

from device_agent.errors import MessageRejected, TransferFailed, TryLater, Untrusted
from device_agent.fetch import MetadataFetcher
from device_agent.link import Cancellation, ChunkLink
from device_agent.trust import AHEAD_S, Director, Releases
from fleet_io.simulated import SimulatedTransport
from fleet_protocol.states import DESIRED_PAYLOAD_TYPE, Assignment, DesiredState, encode_desired
from model_registry import trust
from model_registry.director import seal
from tests.support.releases import Release, make_release
from tests.support.simulated_fleet import PumpedInbox, SimulatedClock, SimulatedFleet

DAY = 24 * 3600


def desired(sequence: int = 1, *, device: str = "kitchen", issued: float = 0, life: float = DAY) -> DesiredState:
    return DesiredState(device=device, sequence=sequence, issued=int(issued), expires=int(issued + life), assignments=())


class TestDirector:
    @pytest.fixture
    def signer(self) -> CryptoSigner:
        return CryptoSigner.generate_ed25519()

    @pytest.fixture
    def clock(self) -> SimulatedClock:
        return SimulatedClock()

    @pytest.fixture
    def director(self, tmp_path: Path, signer: CryptoSigner, clock: SimulatedClock) -> Director:
        return Director(tmp_path, "kitchen", signer.public_key, clock=clock)

    def test_a_signed_word_for_this_device_is_believed(
        self, director: Director, signer: CryptoSigner, clock: SimulatedClock
    ) -> None:
        word = desired(issued=clock.now())
        assert director.accept(seal(word, signer)) == word
        assert not director.expired()

    @pytest.mark.parametrize(
        ("spoil", "says"),
        [
            (lambda state, now: desired(9, device="garage", issued=now), "is for garage"),
            (lambda state, now: desired(4, issued=now), "is older than 5"),
            (lambda state, now: desired(9, issued=now - 2 * DAY), "has expired"),
        ],
    )
    def test_a_signed_word_that_does_not_fit_is_dropped(
        self,
        director: Director,
        signer: CryptoSigner,
        clock: SimulatedClock,
        spoil: Callable[[DesiredState, float], DesiredState],
        says: str,
    ) -> None:
        first = desired(5, issued=clock.now())
        director.accept(seal(first, signer))
        with pytest.raises(MessageRejected, match=says):
            director.accept(seal(spoil(first, clock.now()), signer))

    def test_the_same_word_again_is_believed(self, director: Director, signer: CryptoSigner, clock: SimulatedClock) -> None:
        word = seal(desired(5, issued=clock.now()), signer)
        assert director.accept(word) == director.accept(word)

    def test_a_word_of_another_key_or_type_or_without_a_signature_is_dropped(
        self, director: Director, signer: CryptoSigner, clock: SimulatedClock
    ) -> None:
        payload = encode_desired(desired(issued=clock.now()))
        with pytest.raises(MessageRejected, match="not signed by this fleet's director"):
            director.accept(seal(desired(issued=clock.now()), CryptoSigner.generate_ed25519()))
        other_type = Envelope(payload, "application/vnd.other+json", {})
        other_type.sign(signer)
        with pytest.raises(MessageRejected, match="signed as"):
            director.accept(json.dumps(other_type.to_dict()).encode())
        with pytest.raises(MessageRejected, match="not signed"):
            director.accept(json.dumps(Envelope(payload, DESIRED_PAYLOAD_TYPE, {}).to_dict()).encode())

    @pytest.mark.parametrize(
        "payload",
        [b"", b"{}", b"null", b"[]", b"\xff\xfe", b"[" * 5000, b'{"payload":1,"payloadType":2,"signatures":3}', b"x" * 9000],
    )
    def test_bytes_that_are_no_envelope_are_dropped(self, director: Director, payload: bytes) -> None:
        with pytest.raises(MessageRejected):
            director.accept(payload)

    def test_a_changed_word_is_dropped(self, director: Director, signer: CryptoSigner, clock: SimulatedClock) -> None:
        envelope = json.loads(seal(desired(issued=clock.now()), signer))
        envelope["payload"] = json.loads(seal(desired(7, issued=clock.now()), signer))["payload"]
        with pytest.raises(MessageRejected):
            director.accept(json.dumps(envelope).encode())

    def test_sequence_and_expiry_survive_a_restart(
        self, tmp_path: Path, director: Director, signer: CryptoSigner, clock: SimulatedClock
    ) -> None:
        director.accept(seal(desired(5, issued=clock.now()), signer))
        again = Director(tmp_path, "kitchen", signer.public_key, clock=clock)
        with pytest.raises(MessageRejected, match="is older"):
            again.accept(seal(desired(4, issued=clock.now()), signer))
        clock.elapsed += 2 * DAY
        assert again.expired()

    def test_a_device_whose_clock_fell_back_keeps_the_time_that_it_has_seen(
        self, tmp_path: Path, director: Director, signer: CryptoSigner, clock: SimulatedClock
    ) -> None:
        seen = clock.now()
        director.accept(seal(desired(5, issued=seen), signer))
        clock.elapsed -= 400 * DAY
        again = Director(tmp_path, "kitchen", signer.public_key, clock=clock)
        assert again.now() == seen
        with pytest.raises(MessageRejected, match="has expired"):
            again.accept(seal(desired(6, issued=seen - 2 * DAY), signer))

    def test_one_word_from_the_far_future_does_not_expire_all_that_come_after(
        self, director: Director, signer: CryptoSigner, clock: SimulatedClock
    ) -> None:
        director.accept(seal(desired(5, issued=clock.now() + 5000 * DAY), signer))
        assert director.now() <= clock.now() + AHEAD_S
        director.accept(seal(desired(6, issued=clock.now(), life=14 * DAY), signer))

    def test_a_damaged_record_does_not_stop_the_device(
        self, tmp_path: Path, signer: CryptoSigner, clock: SimulatedClock
    ) -> None:
        (tmp_path / "accepted.json").write_bytes(b"{")
        director = Director(tmp_path, "kitchen", signer.public_key, clock=clock)
        assert director.accept(seal(desired(1, issued=clock.now()), signer)).sequence == 1


class TestReleases:
    @pytest.fixture
    def fleet(self, tmp_path: Path) -> SimulatedFleet:
        return SimulatedFleet(tmp_path)

    @pytest.fixture
    def release(self, fleet: SimulatedFleet) -> Release:
        made = make_release(fleet.directory / "bundles", "1.0.0")
        fleet.publish(made)
        return made

    @pytest.fixture
    def releases(self, fleet: SimulatedFleet) -> Releases:
        return self.device(fleet)

    def device(self, fleet: SimulatedFleet) -> Releases:
        transport = SimulatedTransport(fleet.broker, "kitchen")
        link = ChunkLink(transport, "kitchen", clock=fleet.clock, inbox=PumpedInbox(fleet), first_request=1, stall_s=5.0)
        transport.start()
        director = Director(fleet.directory / "trust", "kitchen", fleet.signers.director.public_key, clock=fleet.clock)
        return Releases(fleet.directory / "trust" / "metadata", fleet.metadata.root, MetadataFetcher(link), director)

    def test_a_signed_release_is_confirmed_with_its_size(self, releases: Releases, release: Release) -> None:
        assert releases.confirm(release.assignment(), Cancellation()) == len(release.content)

    def test_another_digest_under_the_same_version_is_refused_for_good(self, releases: Releases, release: Release) -> None:
        forged = Assignment(model="digits", version="1.0.0", manifest="sha256:" + "0" * 64)
        with pytest.raises(Untrusted, match="is not what the publisher signed"):
            releases.confirm(forged, Cancellation())

    def test_a_release_that_is_not_signed_yet_is_tried_later(self, releases: Releases, release: Release) -> None:
        unknown = Assignment(model="digits", version="9.0.0", manifest="sha256:" + "0" * 64)
        with pytest.raises(TryLater, match=r"names no digits/9.0.0"):
            releases.confirm(unknown, Cancellation())

    def test_metadata_of_another_fleet_are_not_believed(
        self, fleet: SimulatedFleet, releases: Releases, release: Release, tmp_path: Path
    ) -> None:
        other = SimulatedFleet(tmp_path / "other")
        other.publish(make_release(tmp_path / "bundles", "1.0.0"))
        fleet.metadata.files.clear()
        fleet.metadata.files.update({name: content for name, content in other.metadata.files.items() if "root" not in name})
        with pytest.raises(TryLater, match="does not verify"):
            releases.confirm(release.assignment(), Cancellation())

    def test_older_metadata_than_seen_are_not_believed(
        self, fleet: SimulatedFleet, releases: Releases, release: Release
    ) -> None:
        old = dict(fleet.metadata.files)
        newer = make_release(fleet.directory / "bundles", "1.1.0", seed=1)
        fleet.publish(newer)
        releases.confirm(newer.assignment(), Cancellation())
        fleet.metadata.files.clear()
        fleet.metadata.files.update(old)
        with pytest.raises(TryLater, match="does not verify"):
            releases.confirm(newer.assignment(), Cancellation())

    def test_expired_metadata_stop_new_installs_by_the_devices_own_time(
        self, fleet: SimulatedFleet, releases: Releases, release: Release
    ) -> None:
        fleet.clock.elapsed += trust.TIMESTAMP_LIFE.total_seconds() + 1
        with pytest.raises(TryLater, match="expired"):
            releases.confirm(release.assignment(), Cancellation())

    def test_without_a_connection_it_is_tried_later(self, fleet: SimulatedFleet, releases: Releases, release: Release) -> None:
        fleet.central.cut()
        with pytest.raises(TransferFailed, match="cannot be fetched"):
            releases.confirm(release.assignment(), Cancellation())
