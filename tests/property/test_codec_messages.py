"""Every JSON message of the wire: what is written is read again, and no bytes raise anything but `ProtocolError`."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fleet_protocol import codec, limits, manifest, profile, states, telemetry, transfer
from fleet_protocol.errors import LimitExceeded, MalformedMessage, ProtocolError
from tests.support import strategies as ours

DECODERS: dict[str, tuple[Callable[[bytes], msgspec.Struct], int, st.SearchStrategy[msgspec.Struct]]] = {
    "desired": (states.decode_desired, limits.DESIRED_BYTES, ours.desired_states),
    "reported": (states.decode_reported, limits.REPORTED_BYTES, ours.reported_states),
    "status": (states.decode_status, limits.STATUS_BYTES, ours.statuses),
    "event": (states.decode_event, limits.EVENT_BYTES, ours.events),
    "manifest": (manifest.decode_manifest, limits.MANIFEST_BYTES, ours.manifests()),
    "request": (
        transfer.decode_request,
        limits.REQUEST_BYTES,
        st.builds(
            transfer.GetRequest,
            request=st.integers(0, 2**32 - 1),
            resource=ours.digests.map(transfer.blob_resource),
            chunk_size=st.integers(1, limits.CHUNK_BYTES),
            chunks=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=20).map(tuple),
        ),
    ),
    "acknowledged": (
        telemetry.decode_acknowledged,
        limits.REQUEST_BYTES,
        st.builds(
            telemetry.Acknowledged,
            boot=ours.boots.map(bytes.hex),
            sequences=st.lists(st.integers(0, 2**63 - 1), max_size=20).map(tuple),
        ),
    ),
    "profile": (
        profile.decode_profile,
        limits.PROFILE_BYTES,
        st.builds(
            profile.ReferenceProfile,
            samples=ours.counts,
            variant=ours.names,
            features=st.just(()),
            classes=st.dictionaries(ours.words, ours.counts, max_size=3),
        ),
    ),
}
every_decoder = pytest.mark.parametrize("name", DECODERS)


@every_decoder
@settings(max_examples=40)
@given(data=st.data())
def test_what_is_written_is_read_again(name: str, data: st.DataObject) -> None:
    decode, _, values = DECODERS[name]
    value = data.draw(values)
    for encoded in (codec.encode(value), codec.encode_readable(value)):
        assert decode(encoded) == value


@every_decoder
@settings(max_examples=30)
@given(data=st.data())
def test_the_same_value_gives_the_same_bytes(name: str, data: st.DataObject) -> None:
    decode, _, values = DECODERS[name]
    encoded = codec.encode(data.draw(values))
    assert codec.encode(decode(encoded)) == encoded


@every_decoder
@settings(max_examples=80)
@given(data=st.data())
def test_no_bytes_raise_anything_but_the_protocols_error(name: str, data: st.DataObject) -> None:
    decode, _, values = DECODERS[name]
    content = data.draw(st.binary(max_size=200) | ours.hostile_documents | ours.mutations(values.map(codec.encode)))
    try:
        value = decode(content)
    except ProtocolError:
        return
    assert decode(codec.encode(value)) == value, "what was accepted can be written and read again"


@every_decoder
def test_a_message_beyond_its_limit_is_refused_unread(name: str) -> None:
    decode, limit, _ = DECODERS[name]
    with pytest.raises(LimitExceeded, match=str(limit)):
        decode(b" " * (limit + 1))
    with pytest.raises(MalformedMessage):
        decode(b" " * limit)


@given(value=ours.manifests())
@settings(max_examples=20)
def test_a_manifest_has_one_byte_form(value: manifest.Manifest) -> None:
    content = manifest.encode_manifest(value)
    assert manifest.encode_manifest(manifest.decode_manifest(content)) == content
    assert {each.path for each in value.files()} >= {"golden.npz", "profile.json", "parity.json"}


@given(
    content=st.recursive(
        st.none() | ours.words, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ours.words, inner, max_size=3)
    )
)
@example(content=[[["[" * 100]]])
def test_brackets_inside_strings_are_not_nesting(content: object) -> None:
    encoded = msgspec.json.encode(content)
    assert codec.decode(encoded, object, limit=1 << 20, what="test") == content


@given(depth=st.integers(1, 200), padding=st.sampled_from(["", '"[[[",', '"\\"[",', '"\\\\",']))
def test_nesting_is_counted_exactly(depth: int, padding: str) -> None:
    content = (("[" + padding) * depth + "0" + "]" * depth).encode()
    if depth > limits.NESTING:
        with pytest.raises(LimitExceeded, match="nested"):
            codec.decode(content, object, limit=1 << 20, what="test")
    else:
        codec.decode(content, object, limit=1 << 20, what="test")
