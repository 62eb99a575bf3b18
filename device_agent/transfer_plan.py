"""Pulling one resource in chunks: what to ask for, of whom, and what an answer is worth. Pure: time and numbers come in.

The window of chunks under way follows AIMD. A chunk counts as lost when three that were asked for later came first, as TCP
does it (RFC 5681 §3.2), or when nothing came for four smoothed round trips (RFC 6298), at least half a second. The worker
that answered first is asked directly; when it falls silent, the question goes back to the share of all workers.

Each chunk is checked against the signed chunk list before it is handed out to be written. Where there is none (a manifest,
TUF metadata) the size is capped, and the caller checks the whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Final

from fleet_protocol import limits
from fleet_protocol.digests import chunk_count, chunk_matches
from fleet_protocol.transfer import Answer, AnswerStatus, GetRequest

FIRST_WINDOW: Final = 4.0
LARGEST_WINDOW: Final = 64.0
LEAST_SILENCE_S: Final = 0.5
LONGEST_SILENCE_S: Final = 8.0
LONGEST_RETRY_S: Final = 60.0
OVERTAKEN_BY: Final = 3
SPOILED_BORNE: Final = 3
"""Corrupt chunks in a row, without a good one, that are asked for again at once."""
REQUEST_NUMBERS: Final = 1 << 32


@dataclass(frozen=True, slots=True)
class Wanted:
    """A resource. `size` None: unknown until the first answer, at most `most_bytes`. `digests` empty: no signed list."""

    resource: str
    size: int | None
    most_bytes: int
    chunk_size: int = limits.CHUNK_BYTES
    digests: bytes = b""


@dataclass(frozen=True, slots=True)
class Ask:
    """A request to send: to the named worker, or to whichever worker takes it."""

    worker: str | None
    request: GetRequest


@dataclass(frozen=True, slots=True)
class Piece:
    """A good chunk, to be written at `offset`."""

    index: int
    offset: int
    content: bytes


@dataclass(frozen=True, slots=True)
class Ending:
    """Why the transfer cannot go on. `not_served`: a worker has no such resource."""

    reason: str
    not_served: bool = False


@dataclass(slots=True)
class _UnderWay:
    request: int
    order: int
    sent: float
    again: bool


class TransferPlan:
    """One transfer: `due` says what to send, `received` takes what came."""

    def __init__(self, wanted: Wanted, *, now: float, first_request: int, stall_s: float, have: Iterable[int] = ()) -> None:
        self.wanted = wanted
        self.have: set[int] = set(have)
        self.ending: Ending | None = None
        self.corrupt = 0
        self.requests = 0
        self.worker: str | None = None
        self._size = wanted.size
        self._missing: dict[int, None] = {}
        self._under_way: dict[int, _UnderWay] = {}
        self._asked_before: set[int] = set()
        self._first_request = first_request
        self._stall_s = stall_s
        self._order = 0
        self._window = FIRST_WINDOW
        self._slow_start = True
        self._smoothed: float | None = None
        self._doubled = 0
        self._last_cut = float("-inf")
        self._heard = self._progressed = now
        self._not_before = now
        self._spoiled_in_row = 0
        self._pauses = 0
        self._pause_until = now
        if self._size is not None:
            self._learn_size(self._size)
        else:
            self._missing[0] = None

    @property
    def complete(self) -> bool:
        """Every chunk has been handed out."""
        return self._size is not None and not self._missing and not self._under_way

    @property
    def size(self) -> int | None:
        """Bytes of the whole resource, once they are known."""
        return self._size

    @property
    def progress(self) -> float:
        """Share of chunks at hand, 0 to 1."""
        total = chunk_count(self._size, self.wanted.chunk_size) if self._size else 0
        return len(self.have) / total if total else float(self.complete)

    @property
    def window(self) -> float:
        """Chunks that may be under way."""
        return self._window

    @property
    def silence_s(self) -> float:
        """How long nothing may come before what is under way counts as lost."""
        base = LEAST_SILENCE_S if self._smoothed is None else max(LEAST_SILENCE_S, 4 * self._smoothed)
        return float(min(LONGEST_SILENCE_S, base * 2**self._doubled))

    def due(self, now: float) -> list[Ask]:
        """The requests to send now; what was lost is asked for again."""
        if self.ending or self.complete:
            return []
        if now >= self._stalled_at():
            self.ending = Ending(f"{self.wanted.resource}: nothing came for {self._stall_s:g} s ({self._at_hand()})")
            return []
        self._expire(now)
        if now < max(self._not_before, self._pause_until) or not self._missing:
            return []
        room = min(int(self._window), limits.WINDOW_CHUNKS) - len(self._under_way)
        chunks = tuple(islice(self._missing, max(0, room)))
        return [self._ask(chunks, now)] if chunks else []

    def wait(self, now: float) -> float:
        """Seconds until `due` may have something new, when nothing comes before."""
        moments = [self._stalled_at()]
        if self._under_way:
            moments.append(self._silent_at())
        elif self._missing:
            moments.append(max(self._not_before, self._pause_until))
        return max(0.0, min(moments) - now)

    def not_sent(self, ask: Ask) -> None:
        """There was no connection for `ask`: its chunks are missing as before, and nobody is to blame."""
        for index in ask.request.chunks:
            self._under_way.pop(index, None)
        self._missing = dict.fromkeys((*ask.request.chunks, *self._missing))
        self.worker = None

    def received(self, answer: Answer, now: float) -> Piece | None:
        """Take an answer; return a chunk to write, or None. Foreign, late and doubled answers change nothing."""
        if self.ending or not self._is_ours(answer.request):
            return None
        if answer.status is AnswerStatus.CHUNK:
            return self._chunk(answer, now)
        if not any(each.request == answer.request for each in self._under_way.values()):
            return None
        self._heard = now
        if answer.status is AnswerStatus.RETRY_LATER:
            self._put_off(answer, now)
        elif answer.status is AnswerStatus.NOT_FOUND:
            self.ending = Ending(f"{self.wanted.resource}: worker {answer.worker} has no such resource", not_served=True)
        else:
            self.ending = Ending(f"{self.wanted.resource}: worker {answer.worker} refused the request")
        return None

    def _is_ours(self, request: int) -> bool:
        return (request - self._first_request) % REQUEST_NUMBERS < self.requests

    def _ask(self, chunks: tuple[int, ...], now: float) -> Ask:
        number = (self._first_request + self.requests) % REQUEST_NUMBERS
        self.requests += 1
        for index in chunks:
            del self._missing[index]
            self._order += 1
            self._under_way[index] = _UnderWay(number, self._order, now, index in self._asked_before)
            self._asked_before.add(index)
        wanted = self.wanted
        request = GetRequest(request=number, resource=wanted.resource, chunk_size=wanted.chunk_size, chunks=chunks)
        return Ask(self.worker, request)

    def _chunk(self, answer: Answer, now: float) -> Piece | None:
        if not self._fits(answer):
            return None
        index = answer.index
        if not self._is_good(answer):
            self._spoiled(index, now)
            return None
        under_way = self._under_way.pop(index, None)
        self._missing.pop(index, None)
        self.have.add(index)
        self.worker = answer.worker
        self._heard = self._progressed = now
        self._doubled = self._spoiled_in_row = self._pauses = 0
        if under_way is not None:
            self._learn_pace(under_way, now)
        return Piece(index, index * self.wanted.chunk_size, answer.chunk)

    def _fits(self, answer: Answer) -> bool:
        """Whether the answer speaks of this resource and of a chunk that is still missing; learns the size if unknown."""
        if self._size is None:
            if answer.size > self.wanted.most_bytes:
                self.ending = Ending(
                    f"{self.wanted.resource} has {answer.size} bytes; at most {self.wanted.most_bytes} are taken"
                )
                return False
            self._learn_size(answer.size)
        if answer.size != self._size:
            return False
        return answer.index in self._under_way or answer.index in self._missing

    def _is_good(self, answer: Answer) -> bool:
        assert self._size is not None
        start = answer.index * self.wanted.chunk_size
        if len(answer.chunk) != min(self.wanted.chunk_size, self._size - start):
            return False
        return not self.wanted.digests or chunk_matches(answer.chunk, answer.index, self.wanted.digests)

    def _spoiled(self, index: int, now: float) -> None:
        """A corrupt chunk costs one chunk, and its worker our loyalty; a stream of them ends the transfer by its stall.

        Where nothing but corrupt chunks comes, the copy itself may be damaged: the pauses before the next try grow.
        """
        self.corrupt += 1
        self._spoiled_in_row += 1
        if self._spoiled_in_row >= SPOILED_BORNE and now >= self._pause_until:
            self._pause_until = now + min(LONGEST_SILENCE_S, LEAST_SILENCE_S * 2**self._pauses)
            self._pauses += 1
        self.worker = None
        self._heard = now
        if self._under_way.pop(index, None) is not None:
            self._missing[index] = None

    def _learn_size(self, size: int) -> None:
        self._size = size
        count = chunk_count(size, self.wanted.chunk_size)
        self.have = {index for index in self.have if index < count}
        self._missing = {index: None for index in range(count) if index not in self.have and index not in self._under_way}
        self._under_way = {index: each for index, each in self._under_way.items() if index < count}

    def _learn_pace(self, arrived: _UnderWay, now: float) -> None:
        if not arrived.again:  # Karn's rule: the answer to a repeated question tells no round trip
            sample = now - arrived.sent
            self._smoothed = sample if self._smoothed is None else self._smoothed + (sample - self._smoothed) / 8
        self._window = min(LARGEST_WINDOW, self._window + (1.0 if self._slow_start else 1.0 / self._window))
        overtaken = [index for index, each in self._under_way.items() if each.order + OVERTAKEN_BY <= arrived.order]
        if overtaken:
            self._lost(overtaken, now)

    def _expire(self, now: float) -> None:
        """Nothing came for too long: all that is under way is lost, and so is our trust in the worker."""
        if self._under_way and now >= self._silent_at():
            self.worker = None
            self._lost(list(self._under_way), now)
            self._doubled += 1
            self._heard = now

    def _lost(self, indexes: list[int], now: float) -> None:
        for index in indexes:
            del self._under_way[index]
        self._missing = dict.fromkeys((*sorted(indexes), *self._missing))
        if now - self._last_cut >= (self._smoothed or 0.0):  # one cut a round trip, however many were lost in it
            self._window = max(1.0, self._window / 2)
            self._slow_start = False
            self._last_cut = now

    def _put_off(self, answer: Answer, now: float) -> None:
        delayed = [index for index, each in self._under_way.items() if each.request == answer.request]
        for index in delayed:
            del self._under_way[index]
        self._missing = dict.fromkeys((*delayed, *self._missing))
        self._not_before = max(self._not_before, now + min(LONGEST_RETRY_S, answer.retry_after_ms / 1000))
        self._progressed = max(self._progressed, now)

    def _stalled_at(self) -> float:
        """One sum for `wait` and for `due`: a rounding error between two of them would ask for a wait of nothing, for ever."""
        return max(self._progressed, self._not_before) + self._stall_s

    def _silent_at(self) -> float:
        return max(self._heard, min(each.sent for each in self._under_way.values())) + self.silence_s

    def _at_hand(self) -> str:
        total = "?" if self._size is None else str(chunk_count(self._size, self.wanted.chunk_size))
        spoiled = f", {self.corrupt} arrived corrupt" if self.corrupt else ""
        damaged = "; is the registry's copy damaged? Publish the same bundle again" if self.corrupt and not self.have else ""
        return f"{len(self.have)} of {total} chunks at hand{spoiled}{damaged}"
