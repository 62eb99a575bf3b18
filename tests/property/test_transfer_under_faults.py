"""Transfers under loss, doubling, reordering, corruption and stalls: they complete or say why, and no wrong byte comes out."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random  # noqa: TID251 - seeded by Hypothesis: chance is an argument here

from hypothesis import given, settings
from hypothesis import strategies as st

from device_agent.transfer_plan import LARGEST_WINDOW, Ask, Piece, TransferPlan, Wanted
from fleet_protocol import limits
from fleet_protocol.digests import chunk_digests, split
from fleet_protocol.transfer import Answer, AnswerStatus, blob_resource

CHUNK = 16
RESOURCE = blob_resource("sha256:" + "0" * 64)


@dataclass
class Link:
    """Two workers behind a link with faults, on a clock of its own; answers travel for `delay` seconds."""

    content: bytes
    chance: Random
    loss: float = 0.0
    doubled: float = 0.0
    corrupt: float = 0.0
    delay: float = 0.05
    jitter: float = 0.0
    busy: float = 0.0
    frozen: set[str] = field(default_factory=set)
    now: float = 0.0
    under_way: list[tuple[float, int, Answer]] = field(default_factory=list)
    sent_chunks: int = 0
    count: int = 0

    def ask(self, ask: Ask) -> None:
        worker = ask.worker or self.chance.choice(["one", "two"])
        if worker in self.frozen or self.chance.random() < self.loss:
            return
        if self.chance.random() < self.busy:
            later = Answer(status=AnswerStatus.RETRY_LATER, request=ask.request.request, retry_after_ms=300, worker=worker)
            self.deliver(later)
            return
        for index in ask.request.chunks:
            chunk = self.content[index * CHUNK : (index + 1) * CHUNK]
            self.sent_chunks += 1
            if self.chance.random() < self.corrupt:
                chunk = bytes([chunk[0] ^ 1]) + chunk[1:]
            answer = Answer(
                status=AnswerStatus.CHUNK,
                request=ask.request.request,
                index=index,
                size=len(self.content),
                worker=worker,
                chunk=chunk,
            )
            for _ in range(2 if self.chance.random() < self.doubled else 1):
                if self.chance.random() >= self.loss:
                    self.deliver(answer)

    def deliver(self, answer: Answer) -> None:
        self.count += 1
        self.under_way.append((self.now + self.delay + self.jitter * self.chance.random(), self.count, answer))

    def arrived(self, until: float) -> list[Answer]:
        ready = sorted(each for each in self.under_way if each[0] <= until)
        self.under_way = [each for each in self.under_way if each[0] > until]
        return [answer for _, _, answer in ready]


def run(plan: TransferPlan, link: Link, *, most_s: float = 6000.0) -> dict[int, bytes]:
    """Drive a transfer to its end; the pieces by index. Each piece is handed out once."""
    pieces: dict[int, bytes] = {}
    while not plan.complete and not plan.ending and link.now < most_s:
        for ask in plan.due(link.now):
            assert len(ask.request.chunks) <= limits.WINDOW_CHUNKS
            link.ask(ask)
        if plan.ending:
            break
        first = min((at for at, _, _ in link.under_way), default=float("inf"))
        wait = plan.wait(link.now)
        assert wait > 0 or first <= link.now, "a wait of nothing after all that was due would never end"
        link.now = min(link.now + wait, max(link.now, first))
        for answer in link.arrived(link.now):
            piece = plan.received(answer, link.now)
            if piece is not None:
                assert piece.index not in pieces
                pieces[piece.index] = piece.content
    return pieces


def new_plan(content: bytes, *, have: tuple[int, ...] = (), known: bool = True, stall_s: float = 600.0) -> TransferPlan:
    digests = chunk_digests(split(content, CHUNK)) if known else b""
    wanted = Wanted(RESOURCE, len(content) if known else None, 1 << 20, CHUNK, digests)
    return TransferPlan(wanted, now=0.0, first_request=2**32 - 3, stall_s=stall_s, have=have)


contents = st.integers(0, 1000).map(lambda size: Random(size).randbytes(size))
seeds = st.integers(0, 2**32)


links = st.fixed_dictionaries(
    {"loss": st.floats(0, 0.4), "doubled": st.floats(0, 0.3), "corrupt": st.floats(0, 0.2), "jitter": st.floats(0, 0.3)}
)


@given(contents, seeds, links, st.data())
@settings(max_examples=80, deadline=None)
def test_every_byte_arrives_whatever_the_link_does(
    content: bytes, seed: int, faults: dict[str, float], data: st.DataObject
) -> None:
    count = -(-len(content) // CHUNK)
    have = tuple(data.draw(st.sets(st.integers(0, count - 1)))) if count else ()
    link = Link(
        content,
        Random(seed),
        loss=faults["loss"],
        doubled=faults["doubled"],
        corrupt=faults["corrupt"],
        jitter=faults["jitter"],
        busy=0.1,
    )
    plan = new_plan(content, have=have)
    pieces = run(plan, link)
    assert plan.complete, plan.ending
    assert set(pieces) | set(have) == set(range(count))
    assert all(chunk == content[index * CHUNK : (index + 1) * CHUNK] for index, chunk in pieces.items())
    assert set(pieces).isdisjoint(have)


@given(contents, seeds, st.floats(0, 0.4))
@settings(max_examples=40, deadline=None)
def test_a_resource_without_a_chunk_list_arrives_whole_too(content: bytes, seed: int, loss: float) -> None:
    link = Link(content, Random(seed), loss=loss, jitter=0.1)
    plan = new_plan(content, known=False)
    pieces = run(plan, link)
    assert plan.complete, plan.ending
    assert b"".join(pieces[index] for index in sorted(pieces)) == content


@given(st.integers(1, 2000), seeds, st.floats(0, 0.2))
@settings(max_examples=40, deadline=None)
def test_on_a_link_that_only_corrupts_each_corrupt_chunk_costs_one_chunk(size: int, seed: int, corrupt: float) -> None:
    content = Random(size).randbytes(size)
    link = Link(content, Random(seed), corrupt=corrupt)
    plan = new_plan(content)
    run(plan, link)
    assert plan.complete
    assert link.sent_chunks == -(-size // CHUNK) + plan.corrupt


@given(contents, st.lists(st.builds(
    Answer,
    status=st.sampled_from(list(AnswerStatus)),
    request=st.integers(0, 2**32 - 1),
    index=st.integers(0, 300) | st.integers(0, 2**32 - 1),
    size=st.integers(0, 4000),
    retry_after_ms=st.integers(0, 2**32 - 1),
    worker=st.sampled_from(["one", "two"]),
    chunk=st.binary(max_size=40),
), max_size=40), st.lists(st.floats(0, 5), min_size=40, max_size=40))  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_answers_that_nobody_asked_for_never_become_pieces_and_never_raise(
    content: bytes, answers: list[Answer], pauses: list[float]
) -> None:
    plan, now = new_plan(content), 0.0
    for answer, pause in zip(answers, pauses, strict=False):
        now += pause
        plan.due(now)
        assert plan.wait(now) >= 0.0
        piece = plan.received(answer, now)
        if piece is not None:
            assert piece.content == content[piece.offset : piece.offset + CHUNK]
            assert piece == Piece(answer.index, answer.index * CHUNK, answer.chunk)


class TestWhatItAsksFor:
    def test_the_worker_that_answered_first_is_asked_directly_and_a_frozen_one_is_left(self) -> None:
        content = Random(1).randbytes(CHUNK * 400)
        link = Link(content, Random(1))
        plan = new_plan(content)
        for ask in plan.due(0.0):
            assert ask.worker is None
            link.ask(ask)
        link.now = 0.1
        for answer in link.arrived(0.1):
            plan.received(answer, 0.1)
        sticky = plan.worker
        assert sticky is not None
        assert {ask.worker for ask in plan.due(0.1)} == {sticky}
        link.frozen.add(sticky)
        assert plan.due(0.1 + plan.silence_s - 0.01) == []
        asks = plan.due(0.1 + plan.silence_s)
        assert {ask.worker for ask in asks} == {None}
        assert plan.silence_s >= 0.5

    def test_with_one_of_two_workers_frozen_it_completes_in_seconds(self) -> None:
        content = Random(2).randbytes(CHUNK * 500)
        link = Link(content, Random(3), frozen={"one"})
        plan = new_plan(content)
        run(plan, link)
        assert plan.complete
        assert link.now < 15.0

    def test_a_retry_after_is_honoured(self) -> None:
        plan = new_plan(Random(1).randbytes(CHUNK * 4))
        (ask,) = plan.due(0.0)
        later = Answer(status=AnswerStatus.RETRY_LATER, request=ask.request.request, retry_after_ms=2000, worker="one")
        assert plan.received(later, 0.1) is None
        assert plan.due(2.0) == []
        assert plan.wait(0.1) == 2.0
        (again,) = plan.due(2.1)
        assert again.request.chunks == ask.request.chunks

    def test_a_worker_that_only_puts_off_does_not_count_as_a_stall(self) -> None:
        plan, now = new_plan(Random(1).randbytes(CHUNK * 4), stall_s=5.0), 0.0
        for _ in range(20):
            for ask in plan.due(now):
                busy = Answer(status=AnswerStatus.RETRY_LATER, request=ask.request.request, retry_after_ms=3000, worker="one")
                plan.received(busy, now)
            now += 3.0
        assert plan.ending is None

    def test_when_nothing_comes_it_ends_and_says_how_far_it_came(self) -> None:
        plan, now = new_plan(Random(1).randbytes(CHUNK * 4), have=(1,), stall_s=5.0), 0.0
        while plan.ending is None:
            plan.due(now)
            now += max(0.01, plan.wait(now))
        assert now < 6.0
        assert "nothing came for 5 s (1 of 4 chunks at hand)" in plan.ending.reason

    def test_a_stream_of_corrupt_chunks_ends_and_says_so(self) -> None:
        content = Random(1).randbytes(CHUNK * 4)
        link = Link(content, Random(1), corrupt=1.0)
        plan = new_plan(content, stall_s=5.0)
        assert run(plan, link) == {}
        assert plan.ending is not None
        assert "corrupt" in plan.ending.reason

    def test_a_copy_that_is_damaged_at_its_source_is_not_asked_for_without_pause(self) -> None:
        content = Random(1).randbytes(CHUNK * 4)
        link = Link(content, Random(1), corrupt=1.0, delay=0.001)
        plan = new_plan(content, stall_s=30.0)
        run(plan, link)
        assert plan.ending is not None
        assert 30.0 <= link.now < 40.0
        assert 8 <= link.sent_chunks <= 60

    def test_a_resource_that_is_not_there_ends_it(self) -> None:
        plan = new_plan(b"x" * 40)
        (ask,) = plan.due(0.0)
        plan.received(Answer(status=AnswerStatus.NOT_FOUND, request=ask.request.request, worker="one"), 0.1)
        assert plan.ending is not None
        assert plan.ending.not_served

    def test_a_resource_larger_than_wanted_ends_it(self) -> None:
        plan = TransferPlan(Wanted(RESOURCE, None, 100, CHUNK), now=0.0, first_request=1, stall_s=5.0)
        (ask,) = plan.due(0.0)
        big = Answer(status=AnswerStatus.CHUNK, request=ask.request.request, size=101, worker="one", chunk=b"x" * CHUNK)
        assert plan.received(big, 0.1) is None
        assert plan.ending is not None
        assert "at most 100" in plan.ending.reason

    def test_the_window_grows_on_success_and_shrinks_on_loss(self) -> None:
        content = Random(4).randbytes(CHUNK * 3000)
        clean = new_plan(content)
        run(clean, Link(content, Random(1)))
        lossy = new_plan(content)
        run(lossy, Link(content, Random(1), loss=0.05))
        assert lossy.requests > clean.requests
        assert clean.window == LARGEST_WINDOW
        assert lossy.window < LARGEST_WINDOW

    def test_what_could_not_be_sent_is_asked_again_at_once(self) -> None:
        plan = new_plan(Random(1).randbytes(CHUNK * 4))
        (ask,) = plan.due(0.0)
        plan.not_sent(ask)
        (again,) = plan.due(0.0)
        assert again.request.chunks == ask.request.chunks
