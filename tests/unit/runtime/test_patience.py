"""Waits that end in time: with what was awaited, with a timeout, or with whoever else ends them."""

from __future__ import annotations

import asyncio

import pytest

from runtime.local_server import patience
from runtime.local_server.patience import LOOK_S, Patience


async def never() -> None:
    await asyncio.Event().wait()


def test_what_is_awaited_in_time_comes_back() -> None:
    async def main() -> int:
        return await Patience().wait(asyncio.sleep(0, 7), 10)

    assert asyncio.run(main()) == 7


def test_who_waits_too_long_is_told_and_may_go_on() -> None:
    async def main() -> float:
        waits, began = Patience(), asyncio.get_running_loop().time()
        with pytest.raises(TimeoutError):
            await waits.wait(never(), 0.01)
        took = asyncio.get_running_loop().time() - began
        await asyncio.sleep(0)
        assert await waits.wait(asyncio.sleep(0, "more"), 10) == "more"
        return took

    assert 0.01 <= asyncio.run(main()) < 20 * LOOK_S


def test_each_of_many_waits_is_its_own() -> None:
    async def main() -> list[object]:
        waits = Patience()
        waiting = [waits.wait(never() if number % 2 else asyncio.sleep(0, number), 0.01) for number in range(20)]
        return list(await asyncio.gather(*waiting, return_exceptions=True))

    ends = asyncio.run(main())
    assert [end for end in ends if isinstance(end, int)] == list(range(0, 20, 2))
    assert sum(isinstance(end, TimeoutError) for end in ends) == 10


@pytest.fixture
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "LOOK_S", 0.005)


@pytest.mark.usefixtures("quick_looks")
def test_who_has_time_left_when_another_is_told_waits_on() -> None:
    async def main() -> list[object]:
        waits = Patience()
        slow, late = waits.wait(asyncio.sleep(0.05, "came"), 20), waits.wait(never(), 0.001)
        return list(await asyncio.gather(slow, late, return_exceptions=True))

    came, late = asyncio.run(main())
    assert came == "came"
    assert isinstance(late, TimeoutError)


@pytest.mark.usefixtures("quick_looks")
def test_a_wait_of_many_looks_ends_too() -> None:
    async def main() -> BaseException | None:
        waiting = asyncio.ensure_future(Patience().wait(never(), 0.05))
        await asyncio.wait({waiting}, timeout=20)
        return waiting.exception() if waiting.done() else None

    assert isinstance(asyncio.run(main()), TimeoutError)


def test_a_cancellation_from_outside_stays_one() -> None:
    async def main() -> None:
        task = asyncio.ensure_future(Patience().wait(never(), 10))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_what_fails_fails() -> None:
    async def fails() -> None:
        raise ValueError("broken")

    async def main() -> None:
        with pytest.raises(ValueError, match="broken"):
            await Patience().wait(fails(), 10)

    asyncio.run(main())
