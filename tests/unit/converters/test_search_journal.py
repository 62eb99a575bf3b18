"""A search that was stopped goes on, one about something else begins anew, and a line that broke off is forgotten."""

from __future__ import annotations

from pathlib import Path

import pytest

from converters.journal import Journal, journal_path
from converters.search import Score
from fleet_io.errors import BundleUnwritable

SCORE = Score(loss=0.01, sqnr_db=31.5, latency=0.9, size=1000)


def test_what_was_written_down_is_known_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", "digits")
    journal.add("a", SCORE)
    journal.add("b", Score(loss=1, sqnr_db=0, latency=1, size=0, fault="cannot be made"))
    again = Journal(tmp_path / "j", "digits")
    assert list(again.known) == ["a", "b"]
    assert again.known["a"] == SCORE


def test_another_model_begins_anew(tmp_path: Path) -> None:
    Journal(tmp_path / "j", "digits").add("a", SCORE)
    assert Journal(tmp_path / "j", "other digits").known == {}
    assert Journal(tmp_path / "j", "digits").known == {}


@pytest.mark.parametrize("lost", [1, 2, 30])
def test_a_line_that_broke_off_is_forgotten_and_the_next_one_is_whole(tmp_path: Path, lost: int) -> None:
    path = tmp_path / "j"
    journal = Journal(path, "digits")
    journal.add("a", SCORE)
    journal.add("b", SCORE)
    path.write_bytes(path.read_bytes()[:-lost])
    again = Journal(path, "digits")
    assert list(again.known)[:1] == ["a"]
    again.add("c", SCORE)
    assert "c" in Journal(path, "digits").known


@pytest.mark.parametrize("content", [b"", b"\xff\x00", b'"digits"\n{"key": 3}\n', b'"digits"\n[]\n'])
def test_damage_costs_the_journal_and_nothing_else(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "j").write_bytes(content)
    assert Journal(tmp_path / "j", "digits").known == {}


def test_it_lies_beside_the_bundle_and_goes_with_the_searchs_end(tmp_path: Path) -> None:
    path = journal_path(tmp_path / "deep" / "bundle")
    journal = Journal(path, "x")
    assert path.parent == tmp_path / "deep"
    journal.remove()
    assert not path.exists()
    journal.remove()


def test_a_journal_that_cannot_be_written_says_where(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BundleUnwritable, match=r"j, which remembers the search, cannot be written"):
        Journal(tmp_path / "file" / "j", "x")
