"""The binary formats: chunk answers, telemetry frames, OTLP bodies. Round trips, and no bytes escape as another error."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fleet_protocol import limits, otlp, telemetry, transfer
from fleet_protocol.errors import LimitExceeded, MalformedMessage, ProtocolError
from fleet_protocol.transfer import Answer, AnswerStatus
from tests.support import strategies as ours

U32 = st.integers(0, 2**32 - 1)
chunk_answers = st.builds(
    Answer,
    status=st.just(AnswerStatus.CHUNK),
    request=U32,
    index=U32,
    size=st.integers(0, limits.BLOB_BYTES),
    worker=ours.names,
    chunk=st.binary(max_size=300),
)
other_answers = st.builds(
    Answer,
    status=st.sampled_from([AnswerStatus.NOT_FOUND, AnswerStatus.RETRY_LATER, AnswerStatus.REFUSED]),
    request=U32,
    index=U32,
    retry_after_ms=U32,
    worker=ours.names,
)
answers = chunk_answers | other_answers
frames = st.builds(
    telemetry.Frame,
    lane=st.sampled_from(telemetry.Lane),
    boot=ours.boots,
    sequence=st.integers(0, 2**63 - 1),
    body=st.binary(max_size=300),
)
bodies = st.lists(ours.usages(), max_size=3).map(otlp.encode_usage)


@given(answer=answers)
def test_an_answer_is_read_as_it_was_written(answer: Answer) -> None:
    assert transfer.decode_answer(transfer.encode_answer(answer)) == answer


@given(payload=st.binary(max_size=200) | ours.mutations(answers.map(transfer.encode_answer)))
def test_no_bytes_make_an_answer_raise_another_error(payload: bytes) -> None:
    try:
        answer = transfer.decode_answer(payload)
    except ProtocolError:
        return
    assert transfer.encode_answer(answer) == payload


@given(answer=other_answers, chunk=st.binary(min_size=1, max_size=9))
def test_an_answer_that_brings_no_chunk_may_not_carry_one(answer: Answer, chunk: bytes) -> None:
    with pytest.raises(MalformedMessage, match="carries a chunk"):
        transfer.decode_answer(transfer.encode_answer(answer) + chunk)


@given(field=st.sampled_from(["request", "index", "size", "retry_after_ms"]), value=st.sampled_from([-1, 2**64]))
def test_a_number_that_does_not_fit_its_field_is_a_protocol_error(field: str, value: int) -> None:
    numbers: dict[str, Any] = {"request": 0, "index": 0, "size": 0, "retry_after_ms": 0} | {field: value}
    with pytest.raises(LimitExceeded):
        transfer.encode_answer(Answer(status=AnswerStatus.NOT_FOUND, worker="w", **numbers))


def test_the_largest_chunk_fits_one_message_and_a_larger_one_is_refused() -> None:
    def answer(size: int) -> Answer:
        return Answer(status=AnswerStatus.CHUNK, request=1, worker="w" * 63, chunk=bytes(size))

    payload = transfer.encode_answer(answer(limits.CHUNK_BYTES))
    assert len(payload) <= limits.CHUNK_BYTES + transfer.ANSWER_OVERHEAD <= limits.MESSAGE_BYTES
    with pytest.raises(LimitExceeded):
        transfer.encode_answer(answer(limits.CHUNK_BYTES + 1))
    with pytest.raises(LimitExceeded):
        transfer.decode_answer(payload + b"x")


@given(frame=frames)
def test_a_frame_is_read_as_it_was_written(frame: telemetry.Frame) -> None:
    assert telemetry.decode_frame(telemetry.encode_frame(frame)) == frame


@given(payload=st.binary(max_size=200) | ours.mutations(frames.map(telemetry.encode_frame)))
def test_no_bytes_make_a_frame_raise_another_error(payload: bytes) -> None:
    try:
        frame = telemetry.decode_frame(payload)
    except ProtocolError:
        return
    assert telemetry.decode_frame(telemetry.encode_frame(frame)) == frame


def a_frame(body: bytes, *, boot: bytes = bytes(16), sequence: int = 1) -> telemetry.Frame:
    return telemetry.Frame(lane=telemetry.Lane.METRICS, boot=boot, sequence=sequence, body=body)


@pytest.mark.parametrize("size", [2**20 - 1, 2**20])
def test_a_body_may_inflate_to_its_limit_exactly(size: int) -> None:
    assert telemetry.decode_frame(telemetry.encode_frame(a_frame(bytes(size)))).body == bytes(size)


@pytest.mark.parametrize("size", [2**20 + 1, 100 * 2**20])
def test_a_deflate_bomb_is_refused(size: int) -> None:
    header = telemetry.encode_frame(a_frame(b""))[:32]
    payload = header + zlib.compress(bytes(size))
    with pytest.raises(LimitExceeded, match="inflates"):
        telemetry.decode_frame(payload)
    with pytest.raises(LimitExceeded):
        telemetry.encode_frame(a_frame(bytes(size)))


@pytest.mark.parametrize("tail", [b"x", b"\x00" * 10])
def test_a_body_that_is_cut_or_followed_by_something_is_refused(tail: bytes) -> None:
    payload = telemetry.encode_frame(a_frame(b"content"))
    for wrong in (payload + tail, payload[:-1], payload[:32]):
        with pytest.raises(MalformedMessage):
            telemetry.decode_frame(wrong)


@pytest.mark.parametrize("frame", [a_frame(b"", boot=b"short"), a_frame(b"", sequence=-1), a_frame(b"", sequence=2**63)])
def test_a_frame_that_nobody_could_read_is_not_written(frame: telemetry.Frame) -> None:
    with pytest.raises(MalformedMessage):
        telemetry.encode_frame(frame)


def test_a_frame_that_cannot_be_deflated_into_one_message_is_not_sent() -> None:
    noise = b"".join(struct.pack("<Q", (i * 0x9E3779B97F4A7C15) & (2**64 - 1)) for i in range(20_000))
    with pytest.raises(LimitExceeded, match="at most"):
        telemetry.encode_frame(a_frame(noise))


@settings(max_examples=40)
@given(usages=st.lists(ours.usages(), max_size=4))
def test_usages_survive_otlp(usages: list[telemetry.ModelUsage]) -> None:
    decoded = otlp.decode_usage(otlp.encode_usage(usages))
    for got, sent in zip(decoded, usages, strict=True):
        assert (got.model, got.version, got.manifest, got.variant) == (sent.model, sent.version, sent.manifest, sent.variant)
        assert abs(got.start - sent.start) < 1e-5
        assert abs(got.end - sent.end) < 1e-5
        assert got.predictions == sent.predictions
        assert got.errors == sent.errors
        assert ours.contents(got.latency) == ours.contents(sent.latency)
        assert got.latency.total == sent.latency.total


@given(body=st.binary(max_size=200) | ours.mutations(bodies))
@example(body=b"\x0a\x00")
def test_no_bytes_make_an_otlp_body_raise_another_error(body: bytes) -> None:
    try:
        usages = otlp.decode_usage(body)
    except ProtocolError:
        return
    for usage in usages:
        for q in (0.0, 0.5, 0.99, 1.0):
            usage.latency.quantile(q)
        again = otlp.decode_usage(otlp.encode_usage([usage]))[0]
        assert again.latency.count == usage.latency.count
        assert again.predictions == usage.predictions
