"""What is prepared answers as before, and nothing damaged or foreign is ever taken from the cache."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest

import runtime
from fleet_protocol.digests import digest_of
from runtime import parity
from runtime.errors import CannotPrepare
from runtime.tuning import cache_entries, prepared
from runtime.tuning.prepared import Prepared
from tests.support import models


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.mlp_classifier(tmp_path_factory.mktemp("plain") / "mlp.onnx")


@pytest.fixture(scope="module")
def built(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds the model, for tests to copy."""
    cache = tmp_path_factory.mktemp("built") / "cache"
    prepare(plain, cache)
    return cache


@pytest.fixture
def cache(built: Path, tmp_path: Path) -> Path:
    """A cache of the test's own; its entries are copies, so their recorded times are not theirs."""
    return Path(shutil.copytree(built, tmp_path / "cache"))


def digest(path: Path) -> str:
    return digest_of(path.read_bytes())


def prepare(path: Path, cache: Path) -> Prepared:
    return prepared.prepare(path, digest=digest(path), cache=cache)


def find(path: Path, cache: Path) -> Prepared | None:
    return prepared.find(path, digest=digest(path), cache=cache)


def entry_of(cache: Path) -> Path:
    (entry,) = cache.iterdir()
    return entry


def test_it_answers_what_the_plain_model_answers(plain: Path, cache: Path) -> None:
    inputs = {"pixels": models.samples(16)[0]}
    found = find(plain, cache)
    assert found is not None
    assert parity.likeness_db(runtime.load(plain)(inputs)["scores"], found.load()(inputs)["scores"]) > 100


def test_its_weights_stand_in_a_file_of_their_own(plain: Path, cache: Path) -> None:
    entry = entry_of(cache)
    assert (entry / "weights.bin").stat().st_size > (plain.stat().st_size // 2)
    assert (entry / "model.onnx").stat().st_size < plain.stat().st_size // 2


def test_a_second_time_nothing_is_built(plain: Path, cache: Path) -> None:
    before = entry_of(cache).stat().st_ino
    prepare(plain, cache)
    assert entry_of(cache).stat().st_ino == before


def test_nothing_is_found_where_nothing_was_prepared(plain: Path, tmp_path: Path) -> None:
    assert find(plain, tmp_path / "none") is None


@pytest.mark.parametrize("name", ["model.onnx", "weights.bin"])
@pytest.mark.parametrize("how", ["flip", "cut", "remove"])
def test_a_damaged_file_is_seen_and_built_again(plain: Path, cache: Path, name: str, how: str) -> None:
    target = entry_of(cache) / name
    content = target.read_bytes()
    if how == "flip":
        target.write_bytes(content[:-100] + bytes([content[-100] ^ 1]) + content[-99:])
    elif how == "cut":
        target.write_bytes(content[: len(content) // 2])
    else:
        target.unlink()
    assert find(plain, cache) is None
    again = prepare(plain, cache)
    assert find(plain, cache) == again
    assert target.read_bytes() == content


def test_preparing_reads_every_byte_even_of_files_that_look_untouched(plain: Path, cache: Path) -> None:
    entry = entry_of(cache)
    weights = entry / "weights.bin"
    content = weights.read_bytes()
    weights.write_bytes(content[:-100] + bytes([content[-100] ^ 1]) + content[-99:])
    status = weights.stat()
    record = msgspec.json.decode((entry / cache_entries.RECORD).read_bytes())
    record["files"]["weights.bin"]["stamp"] = [status.st_mtime_ns, status.st_ctime_ns]
    (entry / cache_entries.RECORD).write_bytes(msgspec.json.encode(record))
    assert find(plain, cache) is not None  # as decayed storage looks
    prepare(plain, cache)
    assert weights.read_bytes() == content


@pytest.mark.parametrize(
    "change", [{"machine": "riscv64"}, {"features": "sha256:" + "0" * 64}, {"libraries": {"onnxruntime": "1.0"}}]
)
def test_what_another_device_or_library_prepared_is_not_taken(plain: Path, cache: Path, change: dict[str, object]) -> None:
    path = entry_of(cache) / cache_entries.RECORD
    record = msgspec.json.decode(path.read_bytes())
    record["key"]["device"] |= change
    path.write_bytes(msgspec.json.encode(record))
    assert find(plain, cache) is None
    prepare(plain, cache)
    assert find(plain, cache) is not None


@pytest.mark.parametrize("content", [b"", b"{", b"null", b"[]", b'{"key": 1}', b"\xff" * 100])
def test_a_record_that_says_nothing_is_as_none(plain: Path, cache: Path, content: bytes) -> None:
    (entry_of(cache) / cache_entries.RECORD).write_bytes(content)
    assert find(plain, cache) is None


def test_a_link_to_elsewhere_is_not_taken(plain: Path, cache: Path, tmp_path: Path) -> None:
    weights = entry_of(cache) / "weights.bin"
    weights.rename(tmp_path / "elsewhere")
    weights.symlink_to(tmp_path / "elsewhere")
    assert find(plain, cache) is None


def test_a_file_in_the_place_of_an_entry_is_replaced(plain: Path, cache: Path) -> None:
    entry = entry_of(cache)
    shutil.rmtree(entry)
    entry.write_bytes(b"in the way")
    prepare(plain, cache)
    assert find(plain, cache) is not None


def test_other_options_are_another_entry(plain: Path, cache: Path) -> None:
    options = {"graph_optimization_level": "basic"}
    assert prepared.find(plain, digest=digest(plain), cache=cache, session_options=options) is None
    assert prepared.find(plain, digest=digest(plain), cache=cache, packed=False) is None


def test_what_is_not_kept_goes_and_runs_on(plain: Path, cache: Path) -> None:
    found = find(plain, cache)
    assert found is not None
    model = found.load()
    (cache / ".part-killed").mkdir()
    assert cache_entries.discard_others(cache, {found.path.parent}) == 1
    assert find(plain, cache) == found
    assert cache_entries.discard_others(cache, ()) == 1
    assert model({"pixels": models.samples(1)[0]})["scores"].shape == (1, 10)


def test_golden_inputs_serve_to_compare(tmp_path: Path) -> None:
    path = models.linear_classifier(tmp_path / "linear.onnx")
    golden = models.linear_golden(tmp_path / "golden.npz")
    made = prepared.prepare(path, digest=digest(path), cache=tmp_path / "cache", golden=golden, packed=False)
    inputs = {"pixels": models.samples(4)[0]}
    np.testing.assert_allclose(made.load()(inputs)["scores"], runtime.load(path)(inputs)["scores"], rtol=1e-4)


def test_a_broken_model_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    path = models.truncated(models.linear_classifier(tmp_path / "whole.onnx"), tmp_path / "half.onnx")
    with pytest.raises(CannotPrepare, match="as it is"):
        prepare(path, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_weights_in_other_files_are_refused(tmp_path: Path) -> None:
    path = models.external_data(tmp_path / "split.onnx", "split.bin")
    with pytest.raises(CannotPrepare, match="one file"):
        prepare(path, tmp_path / "cache")


def test_a_lite_model_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "lite"
    path.write_bytes(b"\x1c\0\0\0TFL3" + bytes(100))
    with pytest.raises(CannotPrepare, match="is not a model that LiteRT"):
        prepare(path, tmp_path / "cache")


def test_a_cache_that_cannot_be_written_is_said(plain: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CannotPrepare, match="cannot be written"):
        prepare(plain, tmp_path / "file")


def test_a_build_that_takes_too_long_is_stopped(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(CannotPrepare, match="did not answer"):
        prepared.prepare(plain, digest=digest(plain), cache=tmp_path / "cache", timeout_s=0.01)
    assert list((tmp_path / "cache").iterdir()) == []
