"""Which models are loaded, which go, and who is refused; with loaders that a test decides."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet_io.clock import SystemClock
from runtime import Model, ModelIdentity, ModelRejected, NotServing
from runtime.errors import DeadlineExceeded, MemoryBudgetExceeded, Overloaded
from runtime.hosting.admission import Limits
from runtime.hosting.eviction import Newcomer, Resident, choose
from runtime.hosting.pool import ModelPool
from runtime.sources import Source
from tests.support.engines import ScriptedEngine, fixed, model_of
from tests.support.waiting import until

X = {"x": np.zeros((1, 2), np.float32)}
MB = 1_000_000
WAIT_S = 30.0


def source(name: str, version: str = "1.0.0") -> Source:
    return Source(Path(name), ModelIdentity(name, version, "sha256:" + "0" * 64, "float"))


class Shelf:
    """A loader of models that weigh what a test says. `before` is called on every load."""

    def __init__(self, before: Callable[[str], object] = lambda _: None, **megabytes: int) -> None:
        self.weights = megabytes
        self.engines: dict[str, ScriptedEngine] = {}
        self.weighed: Counter[str] = Counter()
        self.loads: Counter[str] = Counter()
        self._before = before

    def weigh(self, source: Source) -> int:
        self.weighed[source.identity.model] += 1
        return self.weights[source.identity.model] * MB

    def open(self, source: Source) -> Model:
        name = source.identity.model
        self.loads[name] += 1
        self._before(name)
        self.engines[name] = engine = fixed(1, 2, 3)
        return model_of(engine)


def pool_of(shelf: Shelf, budget: int = 100, **pinned: bool) -> ModelPool:
    pool = ModelPool(budget_bytes=budget * MB, loader=shelf)
    for name in shelf.weights:
        pool.offer(source(name), pinned=pinned.get(name, False))
    return pool


def loaded(pool: ModelPool) -> list[str]:
    return [served.identity.model for served in pool.active()]


def test_a_model_is_loaded_when_it_is_first_asked_for_and_once() -> None:
    shelf = Shelf(a=10, b=10)
    pool = pool_of(shelf)
    assert loaded(pool) == []
    assert [identity.model for identity in pool.identities()] == ["a", "b"]
    for _ in range(3):
        assert pool.infer("a", X).identity.model == "a"
    assert (loaded(pool), shelf.loads, shelf.weighed) == (["a"], Counter(a=1), Counter(a=1))
    pool.close()
    assert shelf.engines["a"].closed.is_set()


def test_what_was_not_asked_for_the_longest_time_goes() -> None:
    shelf = Shelf(a=40, b=40, c=40)
    pool = pool_of(shelf)
    for name in ("a", "b", "a", "c"):
        pool.infer(name, X)
    assert loaded(pool) == ["a", "c"]
    assert shelf.engines["b"].closed.is_set()
    pool.infer("b", X)
    assert loaded(pool) == ["b", "c"]
    assert shelf.weighed == Counter(a=1, b=1, c=1)
    assert [(each.loads, each.evictions, each.memory_bytes) for each in pool.standings()] == [
        (1, 1, 0),
        (2, 1, 40 * MB),
        (1, 0, 40 * MB),
    ]


def test_a_model_for_which_there_can_be_no_room_is_refused_and_nothing_goes_for_it() -> None:
    shelf = Shelf(a=40, b=40, huge=101)
    pool = pool_of(shelf)
    pool.infer("a", X)
    pool.infer("b", X)
    with pytest.raises(MemoryBudgetExceeded, match=r"huge takes 101\.0 MB, and the budget is 100\.0 MB\. Raise the memory"):
        pool.infer("huge", X)
    assert loaded(pool) == ["a", "b"]
    assert shelf.loads["huge"] == 0


def test_a_pinned_model_never_goes() -> None:
    shelf = Shelf(a=60, b=60)
    pool = pool_of(shelf, a=True)
    pool.infer("a", X)
    with pytest.raises(MemoryBudgetExceeded, match=r"b takes 60\.0 MB.* of which 60\.0 MB are kept for others"):
        pool.infer("b", X)
    assert loaded(pool) == ["a"]


def test_a_more_important_model_never_goes_for_a_less_important_one() -> None:
    shelf = Shelf(a=60, b=60)
    pool = ModelPool(budget_bytes=100 * MB, loader=shelf)
    pool.offer(source("a"), priority=1)
    pool.offer(source("b"))
    pool.infer("b", X)
    pool.infer("a", X)
    assert loaded(pool) == ["a"]
    with pytest.raises(MemoryBudgetExceeded):
        pool.infer("b", X)
    assert loaded(pool) == ["a"]


def test_a_model_that_is_answering_does_not_go() -> None:
    entered, go = threading.Event(), threading.Event()

    def answer(x: np.ndarray) -> np.ndarray:
        entered.set()
        assert go.wait(WAIT_S)
        return np.ones((len(x), 3), np.float32)

    class Slow(Shelf):
        def open(self, source: Source) -> Model:
            return model_of(ScriptedEngine(answer)) if source.identity.model == "a" else super().open(source)

    pool = pool_of(Slow(a=60, b=60))
    with ThreadPoolExecutor() as threads:
        asked = threads.submit(pool.infer, "a", X)
        assert entered.wait(WAIT_S)
        with pytest.raises(Overloaded, match="b can be loaded only when one of these is idle: a"):
            pool.infer("b", X)
        go.set()
        assert asked.result(WAIT_S).finite
    assert pool.infer("b", X).identity.model == "b"
    assert loaded(pool) == ["b"]


def test_one_load_serves_everybody_who_asks_meanwhile() -> None:
    go, begun = threading.Event(), threading.Event()

    def hold(_: str) -> None:
        begun.set()
        assert go.wait(WAIT_S)

    shelf = Shelf(hold, a=10)
    pool = pool_of(shelf)
    with ThreadPoolExecutor(6) as threads:
        asked = [threads.submit(pool.infer, "a", X) for _ in range(6)]
        assert begun.wait(WAIT_S)
        with pytest.raises(DeadlineExceeded, match="a is still being loaded"):
            pool.infer("a", X, deadline=SystemClock().monotonic() + 0.01)
        go.set()
        assert all(each.result(WAIT_S).finite for each in asked)
    assert shelf.loads["a"] == 1


def test_a_load_that_fails_is_told_to_all_and_not_tried_again_at_once() -> None:
    def fail(name: str) -> None:
        raise ModelRejected(f"{name} is broken")

    shelf = Shelf(fail, a=10, b=95)
    pool = pool_of(shelf)
    for _ in range(3):
        with pytest.raises(ModelRejected, match="a is broken"):
            pool.infer("a", X)
    assert shelf.loads["a"] == 1
    assert [each.memory_bytes for each in pool.standings()] == [0, 0]


def test_a_load_that_failed_is_tried_again_after_a_rest() -> None:
    class Clock:
        at = 0.0

        def now(self) -> float:
            return self.at

        def monotonic(self) -> float:
            return self.at

    clock, broken = Clock(), [True]

    def perhaps(name: str) -> None:
        if broken[0]:
            raise ModelRejected(f"{name} is broken")

    shelf = Shelf(perhaps, a=10)
    pool = ModelPool(budget_bytes=100 * MB, loader=shelf, clock=clock)
    pool.offer(source("a"))
    for at in (0.0, 0.9, 1.1, 2.9, 3.2):
        clock.at = at
        with pytest.raises(ModelRejected):
            pool.infer("a", X)
    assert shelf.loads["a"] == 3
    clock.at, broken[0] = 10.0, False
    assert pool.infer("a", X).finite


def test_another_version_and_another_name_are_not_answered() -> None:
    pool = pool_of(Shelf(a=10))
    with pytest.raises(NotServing, match=r"a 2\.0\.0 is not active here; 1\.0\.0 is"):
        pool.infer("a", X, version="2.0.0")
    assert pool.infer("a", X, version="1.0.0").finite
    with pytest.raises(NotServing, match=r"No model 'b' is offered here\. Offered: a"):
        pool.infer("b", X)
    with pytest.raises(NotServing):
        pool.place("b")
    pool.withdraw("a")
    with pytest.raises(NotServing):
        pool.describe("a")


def test_a_reload_replaces_and_one_that_fails_leaves_the_old_one() -> None:
    broken = [False]

    def perhaps(_: str) -> None:
        if broken[0]:
            raise ModelRejected("broken")

    shelf = Shelf(perhaps, a=60)
    pool = pool_of(shelf)
    pool.infer("a", X)
    first = shelf.engines["a"]
    pool.reload(source("a", "2.0.0"))
    assert pool.infer("a", X).identity.version == "2.0.0"
    assert first.closed.is_set()
    broken[0] = True
    with pytest.raises(ModelRejected):
        pool.reload(source("a", "3.0.0"))
    assert pool.infer("a", X).identity.version == "2.0.0"
    assert [each.memory_bytes for each in pool.standings()] == [60 * MB]


def test_a_model_that_is_withdrawn_while_it_loads_does_not_come_back() -> None:
    go, begun = threading.Event(), threading.Event()

    def hold(_: str) -> None:
        begun.set()
        assert go.wait(WAIT_S)

    shelf = Shelf(hold, a=10)
    pool = pool_of(shelf)
    with ThreadPoolExecutor() as threads:
        asked = threads.submit(pool.infer, "a", X)
        assert begun.wait(WAIT_S)
        pool.withdraw("a")
        go.set()
        assert isinstance(asked.exception(WAIT_S), NotServing)
    assert shelf.engines["a"].closed.is_set()
    assert loaded(pool) == []


def test_models_that_never_fit_together_take_turns_under_load_and_nobody_fails() -> None:
    shelf = Shelf(a=60, b=60)
    pool = ModelPool(budget_bytes=100 * MB, loader=shelf, limits=Limits(4))
    pool.offer(source("a"))
    pool.offer(source("b"))
    busy = Counter[str]()

    def ask(number: int) -> bool:
        name = "ab"[number % 2]
        while True:
            try:
                return pool.infer(name, X).finite
            except Overloaded:
                busy[name] += 1

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(ask, range(200)))
    until(lambda: sum(each.memory_bytes for each in pool.standings()) <= 100 * MB, "the budget holds")


def test_a_small_one_stays_when_a_large_one_must_go_anyway() -> None:
    small, large = Resident("small", 10, idle_s=100.0), Resident("large", 50, idle_s=50.0)
    assert choose(Newcomer("new", 40), [small, large], 60) == [large]


residents = st.lists(
    st.builds(
        Resident,
        name=st.text("abcdef", min_size=1, max_size=3),
        memory_bytes=st.integers(0, 50),
        priority=st.integers(-1, 2),
        pinned=st.booleans(),
        busy=st.booleans(),
        idle_s=st.floats(0, 100),
    ),
    max_size=6,
    unique_by=lambda each: each.name,
)


@given(residents, st.integers(0, 120), st.integers(-1, 2), st.integers(0, 150))
def test_who_goes_makes_room_and_nobody_goes_who_may_stay(
    there: list[Resident], needed: int, priority: int, budget: int
) -> None:
    newcomer = Newcomer("new", needed, priority)
    try:
        leaving = choose(newcomer, there, budget)
    except MemoryBudgetExceeded:
        staying = [each for each in there if each.pinned or each.priority > priority]
        assert sum(each.memory_bytes for each in staying) + needed > budget
        return
    except Overloaded:
        assert any(each.busy for each in there)
        return
    assert not any(each.pinned or each.busy or each.priority > priority for each in leaving)
    left = sum(each.memory_bytes for each in there if each not in leaving) + needed
    assert left <= budget
    assert all(left + each.memory_bytes > budget for each in leaving), "one went for nothing"
