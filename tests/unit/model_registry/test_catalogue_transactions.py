"""The registry's database: all or nothing, one writer at a time, and numbered metadata that never change."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy.exc import IntegrityError

from fleet_protocol.digests import digest_of
from model_registry.catalogue import Catalogue, open_catalogue
from model_registry.errors import Damaged
from model_registry.fleet_records import Desired
from model_registry.rollout import Release, Rollout

NOW = 1_800_000_000.0
RELEASE = Release("1.0.0", digest_of(b"manifest"))


@pytest.fixture
def catalogue(tmp_path: Path) -> Iterator[Catalogue]:
    made = open_catalogue(f"sqlite:///{tmp_path / 'registry.sqlite'}")
    yield made
    made.close()


def test_a_transaction_that_fails_leaves_nothing(catalogue: Catalogue) -> None:
    def fail() -> None:
        with catalogue.changing() as records:
            records.keep_metadata({"1.root.json": b"root"})
            records.note(NOW, "operator", "publish", "x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with catalogue.reading() as records:
        assert records.metadata("1.root.json") is None
        assert records.audit_log(10) == []


def test_a_numbered_metadata_file_never_changes_and_the_timestamp_does(catalogue: Catalogue) -> None:
    with catalogue.changing() as records:
        records.keep_metadata({"1.root.json": b"root", "timestamp.json": b"1"})
        records.keep_metadata({"timestamp.json": b"2"})
    with pytest.raises(IntegrityError), catalogue.changing() as records:
        records.keep_metadata({"timestamp.json": b"3", "1.root.json": b"other"})
    with catalogue.reading() as records:
        assert (records.metadata("1.root.json"), records.metadata("timestamp.json")) == (b"root", b"2")


def test_writers_wait_for_one_another_and_lose_nothing(catalogue: Catalogue) -> None:
    with catalogue.changing() as records:
        records.fleet.add_claim("secret", device=None, uses=1000, replace=False, now=NOW, expires=NOW + 60)

    def use_it(_at: int) -> None:
        for _ in range(10):
            with catalogue.changing() as records:
                found = records.fleet.claim("secret")
                assert found is not None
                records.fleet.use_claim(found.id)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(use_it, range(4)))
    with catalogue.reading() as records:
        left = records.fleet.claim("secret")
    assert left is not None
    assert left.uses_left == 960


def test_a_reader_sees_one_moment_while_somebody_writes(catalogue: Catalogue) -> None:
    with catalogue.changing() as records:
        records.keep_metadata({"timestamp.json": b"1"})
    with catalogue.reading() as reader:
        assert reader.metadata("timestamp.json") == b"1"
        with catalogue.changing() as writer:
            writer.keep_metadata({"timestamp.json": b"2", "2.root.json": b"r"})
        assert reader.metadata("timestamp.json") == b"1"
        assert reader.metadata("2.root.json") is None


def test_a_rollout_comes_back_as_it_was_kept(catalogue: Catalogue) -> None:
    with catalogue.changing() as records:
        begun = records.add_rollout(Rollout(0, "digits", RELEASE, "a,b", (0.1, 1.0), 3), NOW)
        reached = {"a": Release("0.9.0", RELEASE.manifest, 2), "b": None}
        grown = replace(begun, step=1, state="failed", reason="why", reached=reached)
        records.keep_rollout(grown, NOW + 5)
        records.keep_rollout(grown, NOW + 6)
    with catalogue.reading() as records:
        found = records.rollout(begun.id)
        assert found is not None
        assert (found.rollout, found.created, found.updated) == (grown, NOW, NOW + 6)
        assert [each.rollout for each in records.rollouts(state="failed", model="digits")] == [grown]
        assert records.rollouts(state="running") == []
        assert records.rollout(begun.id + 1) is None


def test_more_devices_than_one_statement_may_name(catalogue: Catalogue) -> None:
    names = [f"d{at}" for at in range(1201)]
    with catalogue.changing() as records:
        records.fleet.assign("digits", dict.fromkeys(names, RELEASE), 1)
        assert records.fleet.out_of_date() == set(names)
        records.fleet.keep_desired([Desired(name, 7, NOW, b"e") for name in names])
        assert records.fleet.out_of_date() == set()
    with catalogue.reading() as records:
        assert len(records.fleet.all_assignments(names)) == 1201
        assert records.fleet.sequences([*names, "stranger"]) == dict.fromkeys(names, 7)


def test_taking_a_model_away_is_a_change_too(catalogue: Catalogue) -> None:
    with catalogue.changing() as records:
        records.fleet.assign("digits", {"a": RELEASE}, 1)
        records.fleet.keep_desired([Desired("a", 1, NOW, b"e")])
        records.fleet.assign("digits", {"a": None}, 2)
        assert records.fleet.assignments("a") == {}
        assert records.fleet.out_of_date() == {"a"}


def test_the_highest_attempt_counts_rollouts_and_retries(catalogue: Catalogue) -> None:
    with catalogue.changing() as records:
        assert records.last_attempt(RELEASE.manifest) is None
        records.add_rollout(Rollout(0, "digits", RELEASE, "all", (1.0,), 0), NOW)
        assert records.last_attempt(RELEASE.manifest) == 0
        records.fleet.assign("digits", {"a": Release("1.0.0", RELEASE.manifest, 4)}, 1)
        assert records.last_attempt(RELEASE.manifest) == 4


def test_a_database_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    with pytest.raises(Damaged, match="missing"):
        open_catalogue(f"sqlite:///{tmp_path / 'missing' / 'registry.sqlite'}")
