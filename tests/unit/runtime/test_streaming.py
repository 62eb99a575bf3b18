"""A stream holds back or drops, as it was told; counts what it dropped; and outlives bad items and kills."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime import Model, ModelHost, ModelIdentity
from runtime.engine import Array
from runtime.errors import Overloaded, StreamBroken
from runtime.hosting.admission import Limits
from runtime.hosting.host import Inference
from runtime.sources import find
from runtime.streaming import Answered, Counts, Item, Line, Policy, Stream
from runtime.streaming.results import CalledResults
from tests.support import models
from tests.support.engines import ScriptedEngine, model_of


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[ModelHost, str]]:
    source = find(models.linear_classifier(tmp_path / "digits.onnx"))
    host = ModelHost()
    host.activate(source.identity, source.load())
    yield host, source.identity.model
    host.deactivate(source.identity.model)


def line_of(value: object) -> bytes:
    return json.dumps(value).encode()


GOOD = line_of([[0.0] * 64])


class Given:
    """A source of items that are there from the start."""

    def __init__(self, items: list[Item], *, can_wait: bool = True) -> None:
        self.items, self.can_wait = items, can_wait
        self.settled: list[str] = []
        self.read_all = threading.Event()

    def read(self, give: Callable[[Item], bool], stop: threading.Event) -> None:
        for item in self.items:
            if not give(item):
                return
        self.read_all.set()

    def settle(self, item: Item) -> None:
        self.settled.append(item.name)


def streamed(
    running: Any, source: Any, take: Callable[[Answered], bool | None], policy: Policy = "block", waiting: int = 2
) -> Counts:
    host, name = running
    stream = Stream(host, name, source, CalledResults(take), policy=policy, waiting=waiting)
    return stream.run(threading.Event())


def test_every_item_is_answered_in_order_and_settled_after_its_result(running: Any) -> None:
    source = Given([Item(str(at), GOOD) for at in range(20)])
    taken: list[tuple[str, int]] = []
    counts = streamed(running, source, lambda answered: taken.append((answered.item, len(source.settled))))
    assert taken == [(str(at), at) for at in range(20)]
    assert source.settled == [str(at) for at in range(20)]
    assert counts == Counts(answered=20)


def test_an_item_that_cannot_be_answered_is_a_result_and_the_stream_goes_on(running: Any) -> None:
    bad: list[Any] = [
        b"{",
        b"[1, 2]",
        b'{"x": 1}',
        b"\x89PNG",
        b"",
        np.zeros((3, 3, 3), np.uint8),
        Path("/nothing.json"),
        line_of([["a"] * 64]),
    ]
    source = Given([Item(str(at), content) for at, content in enumerate([*bad, GOOD])])
    results: list[Answered] = []
    counts = streamed(running, source, results.append)
    assert counts == Counts(answered=1, failed=len(bad))
    assert all(each.error and each.outputs is None for each in results[:-1])
    assert results[-1].outputs is not None
    assert np.shape(results[-1].outputs["scores"]) == (1, 10)


def test_an_item_that_takes_too_much_memory_is_a_result_too() -> None:
    def answer(x: Array) -> Array:
        if x[0, 0] > 1:
            raise MemoryError("Unable to allocate 64 GiB") if x[0, 0] > 2 else MemoryError
        return np.zeros((len(x), 3), np.float32)

    host, model = ModelHost(), model_of(ScriptedEngine(answer))
    host.activate(ModelIdentity("m", "1.0.0", "sha256:" + "0" * 64, "float"), model)
    source = Given([Item(str(at), line_of([[at, 0]])) for at in (3, 2, 1)])
    results: list[Answered] = []
    assert streamed((host, "m"), source, results.append) == Counts(answered=1, failed=2)
    assert results[0].error == "There is not enough memory for it: Unable to allocate 64 GiB."
    assert results[1].error == "There is not enough memory for it: none is left."
    host.deactivate("m")


def test_with_block_the_source_waits_and_nothing_is_dropped(running: Any) -> None:
    source = Given([Item(str(at), GOOD) for at in range(10)])
    waited: list[bool] = []

    def take(answered: Answered) -> None:
        waited.append(source.read_all.is_set())

    assert streamed(running, source, take).dropped == 0
    assert not waited[0]  # the line holds 2: the source could not have given the tenth


def test_with_latest_the_oldest_go_and_are_counted_and_settled(running: Any) -> None:
    source = Given([Item(str(at), GOOD) for at in range(10)])
    taken: list[str] = []

    def take(answered: Answered) -> None:
        assert source.read_all.wait(10)
        taken.append(answered.item)

    counts = streamed(running, source, take, "latest")
    assert taken[-2:] == ["8", "9"]
    assert counts.answered + counts.dropped == 10
    assert counts.dropped >= 7
    assert sorted(source.settled, key=int) == [str(at) for at in range(10)]


def test_what_cannot_wait_is_dropped_as_it_comes_and_counted(running: Any) -> None:
    source = Given([Item(str(at), GOOD) for at in range(10)], can_wait=False)
    taken: list[str] = []

    def take(answered: Answered) -> None:
        assert source.read_all.wait(10)
        taken.append(answered.item)

    counts = streamed(running, source, take)
    assert counts.answered + counts.dropped == 10
    assert taken[-1] in ("1", "2")  # the first ones stay


def test_a_result_that_is_not_taken_is_counted(running: Any) -> None:
    source = Given([Item("a", GOOD), Item("b", GOOD)])
    assert streamed(running, source, lambda answered: answered.item == "b").unwritten == 1


def test_a_result_that_is_not_taken_since_the_stream_stops_leaves_its_item_for_the_next_start(running: Any) -> None:
    host, name = running
    source, stop = Given([Item("a", GOOD)]), threading.Event()

    def stopped(_answered: Answered) -> bool:
        stop.set()
        return False

    counts = Stream(host, name, source, CalledResults(stopped)).run(stop)
    assert (counts, source.settled) == (Counts(answered=1), [])


def test_a_source_that_breaks_ends_the_stream_with_its_reason_after_what_came(running: Any) -> None:
    class Breaking(Given):
        def read(self, give: Callable[[Item], bool], stop: threading.Event) -> None:
            super().read(give, stop)
            raise OSError("unplugged")

    taken: list[str] = []
    with pytest.raises(StreamBroken, match="unplugged"):
        streamed(running, Breaking([Item("a", GOOD)]), lambda answered: taken.append(answered.item))
    assert taken == ["a"]


def test_a_stop_leaves_what_waits_and_says_how_much(running: Any) -> None:
    host, name = running
    source, stop = Given([Item(str(at), GOOD) for at in range(3)]), threading.Event()

    def take(answered: Answered) -> None:
        assert source.read_all.wait(10)
        stop.set()

    counts = Stream(host, name, source, CalledResults(take), waiting=8).run(stop)
    assert counts == Counts(answered=1, left=2)
    assert source.settled == ["0"]


def version_of(version: str, answer: float = 0.0) -> tuple[ModelIdentity, Model]:
    def answered(x: Array) -> Array:
        return np.full((len(x), 3), answer, np.float32)

    return ModelIdentity("m", version, "sha256:" + "0" * 64, "float"), model_of(ScriptedEngine(answered))


def test_a_stream_follows_its_model_through_swaps() -> None:
    host, results = ModelHost(), list[Answered]()
    host.activate(*version_of("1.0.0", 1.0))

    def take(answered: Answered) -> None:
        results.append(answered)
        if answered.item == "1":
            host.activate(*version_of("2.0.0", 2.0))

    streamed((host, "m"), Given([Item(str(at), line_of([[0, 0]])) for at in range(4)]), take)
    assert [each.version for each in results] == ["1.0.0", "1.0.0", "2.0.0", "2.0.0"]
    assert [each.outputs["scores"][0][0] for each in results if each.outputs] == [1.0, 1.0, 2.0, 2.0]
    host.deactivate("m")


def test_items_wait_until_a_version_of_the_model_is_there() -> None:
    host, source = ModelHost(), Given([Item("a", line_of([[0, 0]]))])

    def appear() -> None:
        assert source.read_all.wait(10)
        host.activate(*version_of("1.0.0"))

    appearing = threading.Thread(target=appear)
    appearing.start()
    results: list[Answered] = []
    assert streamed((host, "m"), source, results.append) == Counts(answered=1)
    assert results[0].version == "1.0.0"
    appearing.join()
    host.deactivate("m")


def test_an_item_that_was_prepared_for_one_version_is_never_answered_by_another() -> None:
    asked: list[str | None] = []

    class SwitchesInBetween(ModelHost):
        def infer(self, model_name: str, inputs: Mapping[str, Array], **given: Any) -> Inference:
            if not asked:
                self.activate(*version_of("2.0.0"))
            asked.append(given["version"])
            return super().infer(model_name, inputs, **given)

    host, results = SwitchesInBetween(), list[Answered]()
    host.activate(*version_of("1.0.0"))
    streamed((host, "m"), Given([Item("a", line_of([[0, 0]]))]), results.append)
    assert (asked, results[0].version) == (["1.0.0", "2.0.0"], "2.0.0")
    host.deactivate("m")


def test_an_item_for_which_the_model_has_no_room_is_asked_again() -> None:
    inside, enough = threading.Event(), threading.Event()

    def slow(x: Array) -> Array:
        if x[0, 0] == 1:
            inside.set()
            assert enough.wait(10)
        return np.zeros((len(x), 3), np.float32)

    class Host(ModelHost):
        def infer(self, model_name: str, inputs: Mapping[str, Array], **asked: Any) -> Inference:
            try:
                return super().infer(model_name, inputs, **asked)
            except Overloaded:
                enough.set()
                raise

    host = Host(limits=Limits(running=1, waiting=0))
    host.activate(version_of("1.0.0")[0], model_of(ScriptedEngine(slow)))
    other = threading.Thread(target=lambda: host.infer("m", {"x": np.array([[1, 0]], np.float32)}))
    other.start()
    assert inside.wait(10)
    assert streamed((host, "m"), Given([Item("a", line_of([[0, 0]]))]), lambda _: None) == Counts(answered=1)
    assert enough.is_set()
    other.join()
    host.deactivate("m")


def test_what_waits_for_a_model_that_never_comes_is_left_for_the_next_start() -> None:
    class EndingGiven(Given):
        def read(self, give: Callable[[Item], bool], stop: threading.Event) -> None:
            super().read(give, stop)
            stop.set()

    source = EndingGiven([Item("a", line_of([[0, 0]]))])
    counts = Stream(ModelHost(), "m", source, CalledResults(print)).run(threading.Event())
    assert (counts, source.settled) == (Counts(left=1), [])


def test_a_line_that_is_full_refuses_or_lets_the_oldest_go() -> None:
    stop = threading.Event()
    a, b, c = (Item(name, b"") for name in "abc")
    for policy, third in (("block", (False, None)), ("latest", (True, a))):
        line = Line(2, policy)  # type: ignore[arg-type]  # both are policies
        assert line.put(a, stop) == line.put(b, stop) == (True, None)
        assert line.put(c, stop, wait=False) == third


def test_a_source_that_waits_stops_waiting_when_the_stream_stops() -> None:
    line, stop = Line(1, "block"), threading.Event()
    line.put(Item("a", b""), stop)
    outcome: list[tuple[bool, Item | None]] = []
    waiting = threading.Thread(target=lambda: outcome.append(line.put(Item("b", b""), stop)))
    waiting.start()
    stop.set()
    waiting.join(10)
    assert outcome == [(False, None)]
