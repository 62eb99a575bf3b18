"""The host: who answers, who is counted, and when a model is closed."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from runtime import InferenceFailed, InvalidInput, Model, ModelHost, ModelIdentity, NotServing
from tests.support.engines import ScriptedEngine, fixed, model_of

X = {"x": np.zeros((1, 2), np.float32)}
WAIT_S = 30.0


class FrozenClock:
    """Time stands where a test puts it."""

    def __init__(self, at: float = 1000.0) -> None:
        self.at = at

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


def identity(version: str = "1.0.0", model: str = "digits") -> ModelIdentity:
    return ModelIdentity(model, version, "sha256:" + "0" * 64, "float")


class Gate:
    """Holds a run inside the engine until it is let go."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.go = threading.Event()
        self.engine = ScriptedEngine(self._answer)

    def _answer(self, x: np.ndarray) -> np.ndarray:
        self.entered.set()
        assert self.go.wait(WAIT_S)
        return np.ones((len(x), 3), np.float32)


def test_nothing_is_served_before_the_first_activation() -> None:
    with pytest.raises(NotServing, match=r"No model .digits. is active here\. Active: none"):
        ModelHost().infer("digits", X)


def test_an_answer_names_the_version_that_made_it() -> None:
    host = ModelHost()
    host.activate(identity("1.0.0"), model_of(fixed(1, 2, 3)))
    assert host.infer("digits", X).identity == identity("1.0.0")
    host.activate(identity("2.0.0"), model_of(fixed(3, 2, 1)))
    answer = host.infer("digits", X)
    assert (answer.identity, answer.outputs["scores"].tolist()) == (identity("2.0.0"), [[3, 2, 1]])


def test_a_request_for_another_version_is_not_answered() -> None:
    host = ModelHost()
    host.activate(identity("1.0.0"), model_of(fixed(1, 2, 3)))
    assert host.infer("digits", X, version="1.0.0").identity.version == "1.0.0"
    with pytest.raises(NotServing, match=r"digits 2\.0\.0 is not active here; 1\.0\.0 is"):
        host.infer("digits", X, version="2.0.0")


def test_models_of_different_names_do_not_replace_each_other() -> None:
    host = ModelHost()
    first, second = fixed(1, 2, 3), fixed(3, 2, 1)
    host.activate(identity(model="b"), model_of(first))
    host.activate(identity(model="a"), model_of(second))
    assert [each.model for each in host.identities()] == ["a", "b"]
    assert not first.closed.is_set()


def test_a_replaced_model_that_nobody_uses_is_closed_at_once() -> None:
    host, old = ModelHost(), fixed(1, 2, 3)
    host.activate(identity("1.0.0"), model_of(old))
    host.activate(identity("2.0.0"), model_of(fixed(1, 2, 3)))
    assert old.closed.is_set()


def test_a_replaced_model_is_closed_by_its_last_user() -> None:
    host, gate = ModelHost(), Gate()
    host.activate(identity("1.0.0"), model_of(gate.engine))
    with ThreadPoolExecutor() as pool:
        request = pool.submit(host.infer, "digits", X)
        assert gate.entered.wait(WAIT_S)
        host.activate(identity("2.0.0"), model_of(fixed(1, 2, 3)))
        assert host.infer("digits", X).identity.version == "2.0.0"
        assert not gate.engine.closed.is_set()
        gate.go.set()
        assert request.result(WAIT_S).identity.version == "1.0.0"
    assert gate.engine.closed.is_set()


def test_a_deactivated_model_is_closed_by_its_last_user() -> None:
    host, gate = ModelHost(), Gate()
    host.activate(identity(), model_of(gate.engine))
    with ThreadPoolExecutor() as pool:
        request = pool.submit(host.infer, "digits", X)
        assert gate.entered.wait(WAIT_S)
        host.deactivate("digits")
        with pytest.raises(NotServing):
            host.infer("digits", X)
        gate.go.set()
        assert request.result(WAIT_S).identity == identity()
    assert gate.engine.closed.is_set()
    host.deactivate("digits")


def test_the_last_user_closes_the_model_even_when_its_request_fails() -> None:
    host, entered, go = ModelHost(), threading.Event(), threading.Event()

    def fail(_: np.ndarray) -> np.ndarray:
        entered.set()
        assert go.wait(WAIT_S)
        raise InferenceFailed("broken")

    engine = ScriptedEngine(fail)
    host.activate(identity("1.0.0"), model_of(engine))
    with ThreadPoolExecutor() as pool:
        request = pool.submit(host.infer, "digits", X)
        assert entered.wait(WAIT_S)
        host.activate(identity("2.0.0"), model_of(fixed(1, 2, 3)))
        go.set()
        assert isinstance(request.exception(WAIT_S), InferenceFailed)
    assert engine.closed.is_set()


def test_the_same_model_under_a_new_identity_stays_open() -> None:
    host, gate = ModelHost(), Gate()
    model: Model = model_of(gate.engine)
    host.activate(identity("1.0.0"), model)
    with ThreadPoolExecutor() as pool:
        request = pool.submit(host.infer, "digits", X)
        assert gate.entered.wait(WAIT_S)
        host.activate(identity("1.0.1"), model)
        gate.go.set()
        request.result(WAIT_S)
    assert host.infer("digits", X).identity.version == "1.0.1"
    host.deactivate("digits")
    assert gate.engine.closed.is_set()


def test_healthy_and_faulty_answers_are_counted_since_activation() -> None:
    host = ModelHost()
    answers = iter([[1.0, 2, 3], [float("nan"), 0, 0], [float("inf"), 0, 0]])

    def answer(_: np.ndarray) -> np.ndarray:
        try:
            return np.array([next(answers)], np.float32)
        except StopIteration:
            raise InferenceFailed("no more") from None

    host.activate(identity(), model_of(ScriptedEngine(answer)))
    assert [host.infer("digits", X).finite for _ in range(3)] == [True, False, False]
    with pytest.raises(InferenceFailed):
        host.infer("digits", X)
    with pytest.raises(InvalidInput):
        host.infer("digits", {})
    assert (host.healthy("digits"), host.errors("digits")) == (1, 3)
    host.activate(identity("2.0.0"), model_of(fixed(1, 2, 3)))
    assert (host.healthy("digits"), host.errors("digits")) == (0, 0)
    assert (host.healthy("other"), host.errors("other")) == (0, 0)


def test_an_answer_that_is_no_number_because_the_question_was_none_is_not_held_against_the_model() -> None:
    host = ModelHost()
    host.activate(identity(), model_of(ScriptedEngine(lambda x: np.full((1, 3), x.sum(), np.float32))))
    spoilt = {name: np.full_like(array, np.nan) for name, array in X.items()}
    assert host.infer("digits", spoilt).finite is False
    assert (host.healthy("digits"), host.errors("digits")) == (0, 0)
    [usage] = host.take_usage(1001.0)
    assert usage.errors == {"invalid_input": 1}


def test_usage_is_what_happened_since_the_last_take() -> None:
    clock = FrozenClock(1000.0)
    host = ModelHost(clock)
    host.activate(identity(), model_of(fixed(0, 5, 1)), ("zero", "one", "two"))
    for _ in range(3):
        host.infer("digits", {"x": np.zeros((2, 2), np.float32)})
    with pytest.raises(InvalidInput):
        host.infer("digits", {})
    (usage,) = host.take_usage(1060.0)
    assert (usage.model, usage.version, usage.manifest, usage.variant) == ("digits", "1.0.0", identity().manifest, "float")
    assert (usage.start, usage.end) == (1000.0, 1060.0)
    assert (usage.latency.count, usage.predictions, usage.errors) == (3, {"one": 6}, {"invalid_input": 1})
    assert host.take_usage(1070.0) == []
    host.infer("digits", X)
    (usage,) = host.take_usage(1080.0)
    assert (usage.start, usage.latency.count, usage.errors) == (1060.0, 1, {})


def test_usage_of_a_replaced_version_is_not_lost() -> None:
    host = ModelHost(FrozenClock())
    host.activate(identity("1.0.0"), model_of(fixed(1, 2, 3)))
    host.infer("digits", X)
    host.activate(identity("2.0.0"), model_of(fixed(1, 2, 3)))
    host.infer("digits", X)
    assert [usage.version for usage in host.take_usage(2000.0)] == ["1.0.0", "2.0.0"]
    assert host.take_usage(2000.0) == []


def test_a_request_that_outlives_its_version_and_a_take_is_still_counted() -> None:
    host, gate = ModelHost(FrozenClock()), Gate()
    host.activate(identity("1.0.0"), model_of(gate.engine))
    with ThreadPoolExecutor() as pool:
        request = pool.submit(host.infer, "digits", X)
        assert gate.entered.wait(WAIT_S)
        host.activate(identity("2.0.0"), model_of(fixed(1, 2, 3)))
        assert host.take_usage(1500.0) == []
        gate.go.set()
        request.result(WAIT_S)
    assert [(usage.version, usage.latency.count) for usage in host.take_usage(2000.0)] == [("1.0.0", 1)]


def test_a_request_runs_on_the_thread_that_asks() -> None:
    host, threads = ModelHost(), []

    def answer(_: np.ndarray) -> np.ndarray:
        threads.append(threading.current_thread())
        return np.ones((1, 3), np.float32)

    host.activate(identity(), model_of(ScriptedEngine(answer)))
    host.infer("digits", X)
    assert threads == [threading.current_thread()]


def test_what_is_active_can_be_described() -> None:
    host = ModelHost()
    host.activate(identity(), model_of(fixed(1, 2, 3)), ("a", "b", "c"))
    before = host.describe("digits")
    assert (before.identity, before.engine, before.labels, before.typical_s) == (identity(), "scripted", ("a", "b", "c"), None)
    host.infer("digits", X)
    assert 0 < (host.describe("digits").typical_s or 0) < 1
    with pytest.raises(NotServing):
        host.describe("other")
