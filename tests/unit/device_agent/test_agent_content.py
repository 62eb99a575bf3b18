from __future__ import annotations

import errno
from pathlib import Path
from random import Random  # noqa: TID251 - seeded content

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_agent.content import ContentStore, PartialFile, bitmap_of
from device_agent.errors import ContentDamaged, DiskFull
from device_agent.slots import Slots
from fleet_protocol.digests import chunk_digests, digest_of, hex_of, split
from fleet_protocol.states import Running

CHUNK = 10
CONTENT = Random(1).randbytes(95)
DIGESTS = chunk_digests(split(CONTENT, CHUNK))


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(tmp_path, reserve_bytes=0)


def written(store: ContentStore, chunks: set[int]) -> None:
    """A partial file in which these chunks are certain."""
    with store.open_partial(digest_of(CONTENT), len(CONTENT)) as partial:
        for at in chunks:
            partial.write(at * CHUNK, CONTENT[at * CHUNK : (at + 1) * CHUNK])
        partial.remember(bitmap_of(chunks, 10))


def remembered(store: ContentStore) -> set[int]:
    with store.open_partial(digest_of(CONTENT), len(CONTENT)) as partial:
        return partial.remembered(CHUNK, DIGESTS)


class TestPartialFiles:
    def test_what_the_bitmap_names_is_there_after_a_restart(self, store: ContentStore) -> None:
        written(store, {0, 3, 9})
        assert remembered(store) == {0, 3, 9}

    def test_a_claimed_chunk_whose_bytes_changed_is_fetched_again(self, store: ContentStore, tmp_path: Path) -> None:
        written(store, {0, 3, 9})
        path = tmp_path / "partial" / hex_of(digest_of(CONTENT))
        content = bytearray(path.read_bytes())
        content[35] ^= 1
        path.write_bytes(bytes(content))
        assert remembered(store) == {0, 9}

    def test_a_file_of_another_size_begins_anew(self, store: ContentStore, tmp_path: Path) -> None:
        written(store, {0, 3, 9})
        (tmp_path / "partial" / hex_of(digest_of(CONTENT))).write_bytes(b"short")
        assert remembered(store) == set()

    @given(st.binary(max_size=40))
    @settings(max_examples=50, deadline=None)
    def test_a_damaged_bitmap_never_makes_a_wrong_chunk_certain(
        self, tmp_path_factory: pytest.TempPathFactory, bitmap: bytes
    ) -> None:
        store = ContentStore(tmp_path_factory.mktemp("store"), reserve_bytes=0)
        written(store, {2})
        with store.open_partial(digest_of(CONTENT), len(CONTENT)) as partial:
            partial.bitmap_path.write_bytes(bitmap)
            assert partial.remembered(CHUNK, DIGESTS) <= {2}

    def test_a_whole_file_gets_its_name_and_loses_its_bitmap(self, store: ContentStore, tmp_path: Path) -> None:
        written(store, set(range(10)))
        with store.open_partial(digest_of(CONTENT), len(CONTENT)) as partial:
            pass
        assert store.complete(digest_of(CONTENT), partial).read_bytes() == CONTENT
        assert list((tmp_path / "partial").iterdir()) == []

    def test_a_whole_file_with_a_wrong_digest_is_thrown_away(self, store: ContentStore, tmp_path: Path) -> None:
        other = "sha256:" + "0" * 64
        with store.open_partial(other, 5) as partial:
            partial.write(0, b"hello")
        with pytest.raises(ContentDamaged):
            store.complete(other, partial)
        assert not store.has(other)
        assert list((tmp_path / "partial").iterdir()) == []

    @given(st.sets(st.integers(0, 99)))
    @settings(max_examples=50)
    def test_bitmaps_name_what_they_were_made_of(self, chunks: set[int]) -> None:
        bitmap = bitmap_of(chunks, 100)
        assert {at for at in range(104) if bitmap[at // 8] >> (at % 8) & 1} == chunks


class TestRoom:
    def test_a_download_that_would_eat_the_reserve_is_refused_before_its_first_byte(self, tmp_path: Path) -> None:
        store = ContentStore(tmp_path, reserve_bytes=1 << 60)
        with pytest.raises(DiskFull, match="stay in reserve"):
            store.open_partial(digest_of(CONTENT), len(CONTENT))
        with pytest.raises(DiskFull):
            store.put(digest_of(CONTENT), CONTENT)
        assert list((tmp_path / "partial").iterdir()) == []

    def test_a_file_larger_than_the_disk_says_that_the_disk_is_full(self, store: ContentStore, tmp_path: Path) -> None:
        with pytest.raises(DiskFull):
            store.open_partial(digest_of(CONTENT), 1 << 62)
        assert list((tmp_path / "partial").iterdir()) == []

    def test_the_disk_that_fills_up_meanwhile_is_a_full_disk(self, tmp_path: Path) -> None:
        with PartialFile(Path("/dev/full"), 0) as partial, pytest.raises(DiskFull):
            partial.write(0, b"x")

    def test_other_faults_of_the_disk_stay_what_they_are(self, store: ContentStore, tmp_path: Path) -> None:
        with store.open_partial(digest_of(CONTENT), len(CONTENT)) as partial:
            pass
        with pytest.raises(OSError) as caught:
            partial.write(0, b"x")
        assert caught.value.errno == errno.EBADF


class TestCompleteFiles:
    def test_small_content_is_kept_and_read_back_checked(self, store: ContentStore) -> None:
        store.put(digest_of(CONTENT), CONTENT)
        assert store.read(digest_of(CONTENT), limit=95) == CONTENT

    def test_a_changed_file_is_removed_when_it_is_found(self, store: ContentStore) -> None:
        store.put(digest_of(CONTENT), CONTENT)
        store.path(digest_of(CONTENT)).write_bytes(CONTENT[:-1])
        with pytest.raises(ContentDamaged, match="will be fetched again"):
            store.check(digest_of(CONTENT))
        assert not store.has(digest_of(CONTENT))

    def test_a_file_larger_than_expected_is_not_read(self, store: ContentStore) -> None:
        store.put(digest_of(CONTENT), CONTENT)
        with pytest.raises(ContentDamaged):
            store.read(digest_of(CONTENT), limit=94)

    def test_a_missing_file_is_damage(self, store: ContentStore) -> None:
        with pytest.raises(ContentDamaged, match="cannot be read"):
            store.check(digest_of(CONTENT))

    def test_only_what_is_named_is_kept(self, store: ContentStore, tmp_path: Path) -> None:
        store.put(digest_of(b"kept"), b"kept")
        store.put(digest_of(b"gone"), b"gone")
        written(store, {1})
        assert store.keep_only({digest_of(b"kept"), digest_of(CONTENT)}) == 4
        assert store.has(digest_of(b"kept"))
        assert remembered(store) == {1}
        store.keep_only(set())
        assert list((tmp_path / "blobs").iterdir()) == list((tmp_path / "partial").iterdir()) == []

    def test_leftovers_of_a_killed_write_are_removed_at_start(self, tmp_path: Path) -> None:
        ContentStore(tmp_path, reserve_bytes=0)
        (tmp_path / "blobs" / ".part-abc").write_bytes(b"half")
        ContentStore(tmp_path, reserve_bytes=0)
        assert list((tmp_path / "blobs").iterdir()) == []


class TestSlots:
    RUNNING = Running(version="1.0.0", manifest="sha256:" + "a" * 64, variant="int8", file="sha256:" + "b" * 64)

    def test_a_slot_says_what_was_written(self, tmp_path: Path) -> None:
        slots = Slots(tmp_path / "models")
        slots.write("digits", "active", self.RUNNING)
        assert Slots(tmp_path / "models").read("digits", "active") == self.RUNNING
        assert slots.read("digits", "staged") is None
        assert [each.running for each in slots.states()] == [self.RUNNING]

    def test_an_emptied_slot_is_empty(self, tmp_path: Path) -> None:
        slots = Slots(tmp_path / "models")
        slots.write("digits", "active", self.RUNNING)
        slots.clear("digits")
        assert list(slots.named()) == []

    def test_a_damaged_slot_counts_as_empty(self, tmp_path: Path) -> None:
        slots = Slots(tmp_path / "models")
        slots.write("digits", "active", self.RUNNING)
        (tmp_path / "models" / "digits" / "active.json").write_bytes(b"{")
        assert slots.read("digits", "active") is None

    def test_foreign_directories_are_passed_over(self, tmp_path: Path) -> None:
        slots = Slots(tmp_path / "models")
        (tmp_path / "models" / "Not A Model").mkdir()
        assert slots.models() == ()
