"""Who runs, who waits and who is refused: the line alone, and the host with models that are held inside."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet_io.clock import SystemClock
from runtime import Inference, InferenceFailed, ModelHost, ModelIdentity, NotServing
from runtime.errors import DeadlineExceeded, ModelUnwell, Overloaded
from runtime.hosting.admission import Limits, Line, Waiter
from runtime.hosting.entrance import Entrance, Place
from runtime.hosting.room import Room
from runtime.hosting.usage import UsageCounter
from tests.support.engines import ScriptedEngine, fixed, model_of
from tests.support.waiting import until

X = {"x": np.zeros((1, 2), np.float32)}
WAIT_S = 30.0
NOW = SystemClock().monotonic


def line(places: int) -> Line[Waiter]:
    return Line("digits 1.0.0", places)


def test_equals_go_in_the_order_in_which_they_came() -> None:
    waiting, waiters = line(3), [Waiter() for _ in range(3)]
    for waiter in waiters:
        assert waiting.join(waiter, 0.0) == []
    assert [waiting.next(0.0)[0] for _ in range(4)] == [*waiters, None]


def test_the_more_important_goes_first() -> None:
    waiting, usual, urgent = line(3), Waiter(), Waiter(priority=1)
    waiting.join(usual, 0.0)
    waiting.join(urgent, 0.0)
    assert waiting.next(0.0)[0] is urgent


def test_a_full_line_refuses_who_comes_last() -> None:
    waiting = line(1)
    waiting.join(Waiter(), 0.0)
    with pytest.raises(Overloaded, match=r"digits 1\.0\.0 is busy and 1 requests wait for it already\. Ask again"):
        waiting.join(Waiter(), 0.0)
    assert len(waiting) == 1


def test_a_line_without_places_refuses_everybody() -> None:
    with pytest.raises(Overloaded, match="no request may wait for it"):
        line(0).join(Waiter(priority=9), 0.0)


def test_in_a_full_line_the_more_important_takes_the_place_of_the_least_important_that_came_last() -> None:
    waiting, first, second, urgent = line(2), Waiter(), Waiter(), Waiter(priority=1)
    waiting.join(first, 0.0)
    waiting.join(second, 0.0)
    [(sent, why)] = waiting.join(urgent, 0.0)
    assert (sent, type(why)) == (second, Overloaded)
    assert [waiting.next(0.0)[0] for _ in range(2)] == [urgent, first]


def test_whose_deadline_is_over_makes_room_and_never_runs() -> None:
    waiting, late, other = line(1), Waiter(deadline=1.0), Waiter()
    waiting.join(late, 0.0)
    [(sent, why)] = waiting.join(other, 1.0)
    assert (sent, type(why)) == (late, DeadlineExceeded)
    assert waiting.next(1.0) == (other, [])
    with pytest.raises(DeadlineExceeded):
        waiting.join(Waiter(deadline=1.0), 1.0)
    waiting.join(late, 0.5)
    waiter, [(sent, _)] = waiting.next(2.0)
    assert (waiter, sent) == (None, late)


@given(st.lists(st.tuples(st.integers(-2, 2), st.one_of(st.just(inf), st.floats(0, 10))), max_size=30), st.integers(0, 5))
def test_everybody_who_joins_is_let_in_or_sent_away_once(asked: list[tuple[int, float]], places: int) -> None:
    waiting, joined, gone = line(places), [], []
    for at, (priority, deadline) in enumerate(asked):
        waiter, now = Waiter(deadline, priority), at / 3
        try:
            gone += [sent for sent, _ in waiting.join(waiter, now)]
            joined.append(waiter)
        except (Overloaded, DeadlineExceeded):
            pass
        assert len(waiting) <= places
        if at % 4 == 3:
            first, late = waiting.next(now)
            gone += [sent for sent, _ in late]
            if first is not None:
                assert first.deadline > now
                gone.append(first)
    gone += waiting.empty()
    assert sorted(map(id, gone)) == sorted(map(id, joined))


@pytest.mark.parametrize(("running", "waiting", "hang_s"), [(0, 1, 1.0), (1, -1, 1.0), (1, 1, 0.0)])
def test_limits_that_admit_nobody_are_refused(running: int, waiting: int, hang_s: float) -> None:
    with pytest.raises(ValueError, match="admits nobody"):
        Limits(running, waiting, hang_s)


class Held:
    """A host whose model lets nobody out until it is told; each request is a number, and the order of runs is kept."""

    def __init__(self, *, running: int = 1, waiting: int = 2, hang_s: float = 30.0) -> None:
        self.host = ModelHost(limits=Limits(running, waiting, hang_s))
        self.order: list[float] = []
        self.go = threading.Semaphore(0)
        self.pool = ThreadPoolExecutor(16)
        self.engine = ScriptedEngine(self._answer)
        self.host.activate(identity("1.0.0"), model_of(self.engine))

    def ask(self, number: float, **options: float) -> Future[Inference]:
        """Ask on another thread, and return when it runs or waits."""
        before = self.total()
        inputs = {"x": np.full((1, 2), number, np.float32)}
        future = self.pool.submit(self.host.infer, "digits", inputs, **options)  # type: ignore[arg-type]  # one signature for all
        until(lambda: self.total() > before or future.done(), "the request runs or waits")
        return future

    def total(self) -> int:
        served = self.host.describe("digits")
        return served.running + served.waiting

    def let_out(self, count: int) -> None:
        self.go.release(count)

    def close(self) -> None:
        self.let_out(1000)
        self.pool.shutdown()
        self.host.deactivate("digits")

    def _answer(self, x: np.ndarray) -> np.ndarray:
        self.order.append(float(x[0, 0]))
        assert self.go.acquire(timeout=WAIT_S)
        return np.ones((len(x), 3), np.float32)


def identity(version: str) -> ModelIdentity:
    return ModelIdentity("digits", version, "sha256:" + "0" * 64, "float")


def test_beyond_the_line_a_request_is_refused_at_once_and_the_others_are_answered() -> None:
    held = Held(running=1, waiting=2)
    asked = [held.ask(number) for number in range(3)]
    with pytest.raises(Overloaded):
        held.host.infer("digits", X)
    served = held.host.describe("digits")
    assert (served.running, served.waiting) == (1, 2)
    held.let_out(3)
    assert all(each.result(WAIT_S).finite for each in asked)
    held.close()
    assert held.order == [0, 1, 2]
    assert held.engine.closed.is_set()


def test_who_waits_goes_by_importance() -> None:
    held = Held(running=1, waiting=3)
    asked = [held.ask(0), held.ask(1), held.ask(2, priority=-1), held.ask(3, priority=5)]
    held.let_out(4)
    for each in asked:
        each.result(WAIT_S)
    held.close()
    assert held.order == [0, 3, 1, 2]


def test_a_request_whose_time_is_over_while_it_waits_never_runs() -> None:
    held = Held()
    first = held.ask(0)
    with pytest.raises(DeadlineExceeded, match=r"digits 1\.0\.0 could not begin this request before its deadline"):
        held.host.infer("digits", X, deadline=NOW() + 0.02)
    assert held.host.describe("digits").waiting == 0
    held.let_out(1)
    first.result(WAIT_S)
    held.close()
    assert held.order == [0]


def test_a_request_whose_time_is_over_before_it_begins_never_runs() -> None:
    host = ModelHost()
    host.activate(identity("1.0.0"), model_of(fixed(1, 2, 3)))
    with pytest.raises(DeadlineExceeded):
        host.infer("digits", X, deadline=NOW() - 1)
    assert host.infer("digits", X, deadline=NOW() + WAIT_S).finite
    assert host.healthy("digits") == 1


def test_who_waits_when_the_version_changes_is_answered_by_the_new_one() -> None:
    held = Held(running=1, waiting=3)
    first, second, pinned = held.ask(0), held.ask(1), held.ask(2, version="1.0.0")  # type: ignore[arg-type]  # a version is text
    held.host.activate(identity("2.0.0"), model_of(fixed(3, 2, 1)))
    assert second.result(WAIT_S).identity.version == "2.0.0"
    with pytest.raises(NotServing, match=r"digits 1\.0\.0 is not active here; 2\.0\.0 is"):
        pinned.result(WAIT_S)
    held.let_out(1)
    assert first.result(WAIT_S).identity.version == "1.0.0"
    assert held.engine.closed.is_set()
    held.close()


class LeavingWhenLookedAt(list[float]):
    """Those inside of a room, of whom the last leaves just when somebody has counted them."""

    room: Room

    def __len__(self) -> int:
        count = super().__len__()
        if count:
            self.room.step_out(self[0])
        return count


def test_who_waits_when_the_version_changes_is_let_in_by_one_who_leaves_at_that_moment() -> None:
    entrance, left = Entrance(SystemClock()), list[Room]()

    def room(version: str) -> Room:
        model = model_of(fixed(0, 1, 0))
        usage = UsageCounter(model.inputs, model.outputs, (), 0.0)
        identity = ModelIdentity("digits", version, "sha256:" + "0" * 64, "float32")
        return Room(identity, model, (), limits=Limits(running=1), usage=usage, settle=left.append)

    entrance.replace("digits", room("1.0.0"))
    entrance.place("digits")
    waiting = entrance.place("digits")
    newer = room("1.1.0")
    assert newer.enter() is not None, "it comes in as soon as the new room is open"
    newer.inside = inside = LeavingWhenLookedAt(newer.inside)
    inside.room = newer
    entrance.replace("digits", newer)
    for each in left:  # as they would, on threads of their own, once the lock is free
        entrance.settle(each)
    assert waiting.decided


def test_who_waits_when_the_model_is_switched_off_is_told() -> None:
    held = Held(running=1, waiting=3)
    first, second = held.ask(0), held.ask(1)
    held.host.deactivate("digits")
    with pytest.raises(NotServing, match="digits was switched off while this request waited"):
        second.result(WAIT_S)
    held.let_out(1)
    assert first.result(WAIT_S).finite
    held.close()


def test_a_model_that_hangs_in_every_place_is_not_asked_and_others_answer() -> None:
    held = Held(running=2, waiting=4, hang_s=0.05)
    held.host.activate(ModelIdentity("other", "1.0.0", "sha256:" + "1" * 64, "float"), model_of(fixed(1, 2, 3)))
    asked = [held.ask(0), held.ask(1), held.ask(2)]
    with pytest.raises(ModelUnwell, match=r"digits 1\.0\.0 hangs: 2 runs take longer than 0\.05 s each\. Activate another"):
        asked[2].result(WAIT_S)
    with pytest.raises(ModelUnwell):
        held.host.infer("digits", X)
    assert held.host.describe("digits").hung == 2
    assert held.host.infer("other", X).finite
    held.host.activate(identity("2.0.0"), model_of(fixed(3, 2, 1)))
    assert held.host.infer("digits", X).identity.version == "2.0.0"
    held.close()


def test_one_run_that_hangs_leaves_the_other_places() -> None:
    held = Held(running=2, hang_s=0.01)
    stuck = held.ask(0)
    until(lambda: held.host.describe("digits").hung == 1, "the run counts as hung")
    other = held.ask(1)
    until(lambda: held.order == [0, 1], "the other one runs")
    held.let_out(2)
    assert stuck.result(WAIT_S).finite
    assert other.result(WAIT_S).finite
    held.close()


def test_a_request_that_fails_gives_its_place_to_the_next() -> None:
    go = threading.Semaphore(0)

    def fail(_: np.ndarray) -> np.ndarray:
        assert go.acquire(timeout=WAIT_S)
        raise InferenceFailed("broken")

    host = ModelHost(limits=Limits(1, 5))
    host.activate(identity("1.0.0"), model_of(ScriptedEngine(fail)))
    with ThreadPoolExecutor() as pool:
        asked = [pool.submit(host.infer, "digits", X) for _ in range(4)]
        go.release(4)
        assert all(isinstance(each.exception(WAIT_S), InferenceFailed) for each in asked)
    assert host.describe("digits").running == 0


def test_a_place_that_is_given_back_goes_to_who_waits() -> None:
    host, told = ModelHost(limits=Limits(1, 5)), threading.Event()
    host.activate(identity("1.0.0"), model_of(fixed(1, 2, 3)))
    first = host.place("digits")
    second: Place = host.place("digits")
    second.call(told.set)
    third = host.place("digits")
    assert (first.decided, second.decided) == (True, False)
    third.give_back()
    first.give_back()
    first.give_back()
    assert told.is_set()
    assert second.infer(X).finite
    served = host.describe("digits")
    assert (served.running, served.waiting) == (0, 0)
    with pytest.raises(NotServing, match="was given back"):
        second.infer(X)


def test_many_threads_never_run_more_than_may_and_all_are_answered() -> None:
    lock, now, most = threading.Lock(), [0], [0]

    def answer(x: np.ndarray) -> np.ndarray:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        threading.Event().wait(0)  # lets others run
        with lock:
            now[0] -= 1
        return np.ones((len(x), 3), np.float32)

    host = ModelHost(limits=Limits(2, 100))
    host.activate(identity("1.0.0"), model_of(ScriptedEngine(answer)))
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: host.infer("digits", X).finite, range(2000)))
    assert all(answers)
    assert most[0] <= 2
    served = host.describe("digits")
    assert (served.running, served.waiting, host.healthy("digits")) == (0, 0, 2000)
