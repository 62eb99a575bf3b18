"""Names, versions, digests and topics: whatever a device is called, its topics stay within the rules of DESIGN.md §3."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fleet_protocol import digests, names, topics, transfer
from fleet_protocol.errors import InvalidName, InvalidTopic, ProtocolError
from tests.support import strategies as ours

CHANNELS = get_args(topics.DeviceChannel)
texts = st.text(max_size=80) | st.text("az09_-/+#$\n\x00 .ſ", max_size=70)


def assert_topic(topic: str) -> None:
    assert topic.count("/") <= 6
    assert len(topic.encode()) <= 256, "AWS IoT Core's longest topic"
    assert not set(topic.removeprefix("$share")) & set("$ \n\x00")


@given(device=ours.names, worker=ours.names, channel=st.sampled_from(CHANNELS))
def test_every_topic_has_at_most_six_slashes_and_is_parsed_again(
    device: str, worker: str, channel: topics.DeviceChannel
) -> None:
    for topic in (topics.device(device, channel), topics.worker(worker, device), topics.META_TIMESTAMP):
        assert_topic(topic)
        assert not set(topic) & set("+#")
    for topic_filter in (topics.every_device(channel), topics.worker_inbox(worker)):
        assert_topic(topic_filter)
        assert_topic(topics.shared(worker, topic_filter))
    assert topics.parse_device(topics.device(device, channel)) == (device, channel)
    assert topics.parse_worker(topics.worker(worker, device)) == (worker, device)


def test_the_access_rules_have_at_most_six_slashes() -> None:
    for rule in (*topics.DEVICE_READS, *topics.DEVICE_WRITES, *topics.EVERY_DEVICE_READS):
        assert rule.count("/") <= 6


def test_every_channel_of_a_device_is_either_read_or_written_by_it() -> None:
    allowed = {rule.rpartition("/")[2] for rule in (*topics.DEVICE_READS, *topics.DEVICE_WRITES)}
    assert allowed - {"%u"} == set(CHANNELS)


@given(topic=texts | st.builds("ew/1/d/{}/{}".format, texts, texts) | st.builds("ew/1/w/{}/{}".format, texts, texts))
@example(topic="ew/1/d/a/b/get")
@example(topic="ew/1/d//get")
@example(topic="ew/1/d/+/get")
@example(topic="ew/1/d/a\n/get")
def test_no_topic_raises_anything_but_invalid_topic(topic: str) -> None:
    for parse in (topics.parse_device, topics.parse_worker):
        try:
            parsed = parse(topic)
        except InvalidTopic:
            return
        assert topic.endswith(parsed[1])
        assert parsed[0] in topic


@given(value=texts)
def test_a_name_is_kept_or_refused_and_never_changed(value: str) -> None:
    try:
        assert names.check_name(value) == value
    except InvalidName:
        assert not (value.isascii() and value.isalnum() and value == value.lower() and len(value) < 64)
    else:
        assert value.isascii()
        assert 0 < len(value) <= 63
        assert not set(value) & set("/+#$. \n\x00")


@given(value=texts | ours.versions)
def test_no_version_raises_anything_but_invalid_name(value: str) -> None:
    try:
        key = names.version_key(value)
    except InvalidName:
        return
    assert len(key[0]) == 3


@given(version=ours.versions)
def test_a_release_sorts_after_its_own_pre_release_and_before_the_next_patch(version: str) -> None:
    core = version.partition("-")[0]
    major, minor, patch = core.split(".")
    following = f"{major}.{minor}.{int(patch) + 1}"
    assert names.version_key(f"{core}-rc.1") < names.version_key(core) < names.version_key(f"{following}-0")


@pytest.mark.parametrize(("first", "second"), [("1.0.0-rc.2", "1.0.0-rc.10"), ("1.0.0-1", "1.0.0-a"), ("1.0.0-a", "1.0.0-a.1")])
def test_pre_releases_sort_as_semver_says(first: str, second: str) -> None:
    assert names.version_key(first) < names.version_key(second)


@given(value=texts | ours.digests | ours.digests.map(str.upper))
def test_a_digest_is_read_or_refused(value: str) -> None:
    try:
        hexadecimal = digests.hex_of(value)
    except ProtocolError:
        return
    assert value == "sha256:" + hexadecimal
    assert transfer.blob_resource(value) == "blob/" + value


@given(value=texts | st.sampled_from(["timestamp.json", "3.digits.json", "../../etc/passwd", "0.x.json", "a.json/../b.json"]))
def test_a_metadata_resource_never_leaves_its_directory(value: str) -> None:
    try:
        resource = transfer.metadata_resource(value)
    except ProtocolError:
        return
    assert resource == f"metadata/{value}"
    assert "/" not in value
    assert ".." not in value


@given(content=st.binary(max_size=500), chunk_size=st.integers(1, 200))
def test_chunks_put_together_are_the_content_and_each_matches_its_own_digest_only(content: bytes, chunk_size: int) -> None:
    pieces = list(digests.split(content, chunk_size))
    listed = digests.chunk_digests(pieces)
    assert b"".join(pieces) == content
    assert len(pieces) == digests.chunk_count(len(content), chunk_size)
    assert digests.digest_of_stream(pieces) == digests.digest_of(content)
    for index, piece in enumerate(pieces):
        assert digests.chunk_matches(piece, index, listed)
        assert not digests.chunk_matches(piece + b"x", index, listed)
        for outside in (index - len(pieces), len(pieces) + index):
            assert not digests.chunk_matches(piece, outside, listed)
