"""Runs in a crowd take an engine of one thread; one that is alone, or while there is no such engine, takes the usual one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from runtime import Model, ModelRejected, sources
from runtime.engine import Array
from runtime.hosting.abreast import AbreastEngine, abreast
from tests.support import models
from tests.support.engines import ScriptedEngine
from tests.support.waiting import until

WAIT_S = 20.0
X = np.zeros((1, 2), np.float32)
WIDE, NARROW = 0.0, 1.0


class Pair:
    """A wide engine whose runs last until they are told, and a narrow one whose runs end at once."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.runs: list[float] = []
        self.wide = ScriptedEngine(self._slow)
        self.narrow = ScriptedEngine(lambda _: self._answer(NARROW))
        self.may_open = threading.Event()
        self.may_open.set()
        self.opened = 0

    def open_narrow(self) -> ScriptedEngine:
        self.opened += 1
        assert self.may_open.wait(WAIT_S)
        return self.narrow

    def model(self, *, cores: int = 2) -> Model:
        return abreast(Model(self.wide), self.open_narrow, cores=cores)

    def _slow(self, _x: Array) -> Array:
        self.runs.append(WIDE)
        assert self.go.wait(WAIT_S)
        return self._answer(WIDE)

    def _answer(self, which: float) -> Array:
        return np.full((1, 3), which, np.float32)


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.go.set()


def who_answers(model: Model) -> float:
    return float(model({"x": X})["scores"][0, 0])


def asked_together(pair: Pair, model: Model, threads: ThreadPoolExecutor, count: int) -> list[Future[float]]:
    """So many more wide runs, until all are under way."""
    under_way = len(pair.runs) + count
    asked = [threads.submit(who_answers, model) for _ in range(count)]
    until(lambda: len(pair.runs) == under_way, "they all run")
    return asked


def test_one_that_asks_alone_has_all_threads_and_costs_no_second_engine(pair: Pair) -> None:
    pair.go.set()
    model = pair.model()
    assert [who_answers(model) for _ in range(3)] == [WIDE] * 3
    assert pair.opened == 0


def test_runs_beside_others_take_one_thread_once_that_engine_is_there(pair: Pair) -> None:
    pair.may_open.clear()
    engine = AbreastEngine(pair.wide, pair.open_narrow, cores=2)
    model = Model(engine)
    with ThreadPoolExecutor(2) as threads:
        waiting = asked_together(pair, model, threads, 2)  # the second one opens the engine, and does not wait for it
        pair.may_open.set()
        until(lambda: engine._narrow, "it is there")
        assert [who_answers(model) for _ in range(3)] == [NARROW] * 3
        pair.go.set()
        assert [each.result(WAIT_S) for each in waiting] == [WIDE] * 2
    assert who_answers(model) == NARROW  # a gap in a crowd looks just so
    assert who_answers(model) == WIDE  # alone again
    assert pair.opened == 1


def test_who_has_two_cores_for_itself_is_in_no_crowd(pair: Pair) -> None:
    pair.may_open.clear()
    model = pair.model(cores=4)
    with ThreadPoolExecutor(3) as threads:
        waiting = asked_together(pair, model, threads, 2)
        assert pair.opened == 0
        waiting += asked_together(pair, model, threads, 1)
        until(lambda: pair.opened == 1, "a third one is a crowd")
        pair.may_open.set()
        pair.go.set()
        assert [each.result(WAIT_S) for each in waiting] == [WIDE] * 3


def test_without_a_second_engine_all_runs_take_the_first_one(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    def fails() -> ScriptedEngine:
        raise ModelRejected("The file has changed.")

    model = abreast(Model(pair.wide), fails, cores=2)
    with ThreadPoolExecutor(2) as threads:
        waiting = asked_together(pair, model, threads, 2)
        until(lambda: "The file has changed." in caplog.text, "it is said")
        pair.go.set()
        assert [each.result(WAIT_S) for each in waiting] == [WIDE] * 2


def test_closing_closes_both_and_what_is_opened_afterwards(pair: Pair) -> None:
    pair.may_open.clear()
    engine = AbreastEngine(pair.wide, pair.open_narrow, cores=2)
    with ThreadPoolExecutor(2) as threads:
        asked = [threads.submit(engine.run, {"x": X}) for _ in range(2)]
        until(lambda: pair.opened, "it is being opened")
        pair.go.set()
        for each in asked:
            each.result(WAIT_S)
    engine.close()
    assert pair.wide.closed.is_set()
    pair.may_open.set()
    assert pair.narrow.closed.wait(WAIT_S)


class TestSources:
    """Which models are opened so."""

    @pytest.fixture(autouse=True)
    def two_cores(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("runtime.sources.usable_cores", lambda: 2)

    @staticmethod
    def shares(source: sources.Source) -> bool:
        engines: list[object] = []
        source.load_for_many().through(lambda engine: engines.append(engine) or engine).close()  # type: ignore[func-returns-value]  # looks only
        return isinstance(engines[0], AbreastEngine)

    def test_an_onnx_model_of_several_threads_is(self, tmp_path: Path) -> None:
        assert self.shares(sources.find(models.mlp_classifier(tmp_path / "m.onnx")))

    def test_one_thread_and_merged_runs_are_not(self, tmp_path: Path) -> None:
        found = sources.find(models.mlp_classifier(tmp_path / "m.onnx"))
        assert not self.shares(replace(found, threads=1))
        assert not self.shares(replace(found, batch=4))

    def test_a_file_that_is_too_large_to_be_held_twice_is_not(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        found = sources.find(models.mlp_classifier(tmp_path / "m.onnx"))
        monkeypatch.setattr(sources, "_COPIED_BYTES", found.path.stat().st_size - 1)
        assert not self.shares(found)

    def test_a_file_that_was_changed_meanwhile_is_not_mixed_in(self, tmp_path: Path) -> None:
        found = sources.find(models.mlp_classifier(tmp_path / "m.onnx"))
        models.identity(found.path)
        with pytest.raises(ModelRejected, match="has changed"):
            found._on_one_thread()
