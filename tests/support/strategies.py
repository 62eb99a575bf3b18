"""Hypothesis strategies for the wire's values and for hostile bytes; no IO, no knowledge of how a codec works inside."""

from __future__ import annotations

from hypothesis import strategies as st

from fleet_protocol import limits
from fleet_protocol.digests import CHUNK_DIGEST_BYTES, chunk_count
from fleet_protocol.histogram import Histogram
from fleet_protocol.manifest import Accuracy, Descriptor, Golden, Lineage, Manifest, Tolerance, Variant
from fleet_protocol.states import (
    Assignment,
    DesiredState,
    DeviceEvent,
    DeviceStatus,
    ModelReport,
    Refusal,
    ReportedState,
    Running,
)
from fleet_protocol.telemetry import ModelUsage
from fleet_protocol.tensors import TensorSpec

names = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,62}", fullmatch=True)
versions = st.from_regex(
    r"(0|[1-9][0-9]{0,4})\.(0|[1-9][0-9]{0,4})\.(0|[1-9][0-9]{0,4})(-[0-9a-z][0-9a-z.-]{0,10})?", fullmatch=True
)
digests = st.binary(min_size=32, max_size=32).map(lambda raw: "sha256:" + raw.hex())
boots = st.binary(min_size=16, max_size=16)
counts = st.integers(0, 2**53 - 1)
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
phases = st.sampled_from(
    ["idle", "fetching", "verifying", "staged", "gating", "preparing", "activating", "probation", "rolling_back"]
)
fractions = st.floats(0, 1)
latencies = st.floats(1e-9, 1e6)

assignments = st.builds(Assignment, model=names, version=versions, manifest=digests, attempt=counts)
desired_states = st.builds(
    DesiredState,
    device=names,
    sequence=st.integers(1, 2**53 - 1),
    issued=counts,
    expires=counts,
    assignments=st.lists(assignments, max_size=4, unique_by=lambda each: each.model).map(tuple),
)
running = st.builds(Running, version=versions, manifest=digests, variant=names, file=digests)
refusals = st.builds(Refusal, version=versions, manifest=digests, attempt=counts, phase=phases, reason=words)
model_reports = st.builds(
    ModelReport,
    model=names,
    phase=phases,
    running=st.none() | running,
    target=st.none() | digests,
    refused=st.lists(refusals, max_size=2).map(tuple),
    healthy=counts,
    progress=fractions,
)
reported_states = st.builds(
    ReportedState,
    device=names,
    boot=boots.map(bytes.hex),
    sequence=st.integers(1, 2**53 - 1),
    desired=counts,
    agent=words,
    hardware=st.dictionaries(words, words, max_size=3),
    models=st.lists(model_reports, max_size=3, unique_by=lambda each: each.model).map(tuple),
    serving=words,
)
statuses = st.builds(
    DeviceStatus, online=st.booleans(), session=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9)
)
events = st.builds(
    DeviceEvent,
    at=counts,
    kind=st.sampled_from(["phase", "gate_passed", "gate_refused", "prepared", "rolled_back", "committed", "alert"]),
    model=names,
    manifest=st.none() | digests,
    version=st.none() | versions,
    detail=words,
)


@st.composite
def descriptors(draw: st.DrawFn, path: str) -> Descriptor:
    """A file of a few chunks, with a chunk list of the right length."""
    size, chunk_size = draw(st.integers(0, 400)), draw(st.integers(100, limits.CHUNK_BYTES))
    length = chunk_count(size, chunk_size) * CHUNK_DIGEST_BYTES
    return Descriptor(
        path=path,
        media_type=draw(words),
        digest=draw(digests),
        size=size,
        chunk_size=chunk_size,
        chunks=draw(st.binary(min_size=length, max_size=length)),
    )


specs = st.builds(
    TensorSpec,
    name=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=10),
    datatype=st.sampled_from(["FP32", "INT64", "UINT8", "BYTES"]),
    shape=st.lists(st.integers(-1, 1000), max_size=4).map(tuple),
)


@st.composite
def variants(draw: st.DrawFn, name: str) -> Variant:
    """One variant whose file has a path of its own."""
    finite = st.floats(allow_nan=False, allow_infinity=False)
    return Variant(
        name=name,
        format=draw(st.sampled_from(["onnx", "tflite"])),
        precision=draw(words),
        file=draw(descriptors(f"variants/{name}.onnx")),
        tolerance=Tolerance(min_sqnr_db=draw(finite), min_agreement=draw(st.none() | fractions)),
        accuracy=draw(st.none() | st.builds(Accuracy, metric=words, value=finite, samples=counts)),
        session_options=draw(st.dictionaries(words, words, max_size=2)),
        recipe=draw(st.dictionaries(words, words, max_size=2)),
    )


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    """A manifest that every check lets pass."""
    variant_names = draw(st.lists(names, min_size=1, max_size=3, unique=True))
    return Manifest(
        model=draw(names),
        version=draw(versions),
        inputs=draw(st.lists(specs, min_size=1, max_size=2).map(tuple)),
        outputs=draw(st.lists(specs, min_size=1, max_size=2).map(tuple)),
        labels=draw(st.lists(words, max_size=3).map(tuple)),
        variants=tuple(draw(variants(name)) for name in variant_names),
        golden=Golden(
            file=draw(descriptors("golden.npz")),
            samples=draw(st.integers(1, 99)),
            has_labels=draw(st.booleans()),
            min_accuracy=draw(st.none() | fractions),
            max_regression=draw(fractions),
        ),
        profile=draw(descriptors("profile.json")),
        parity=draw(descriptors("parity.json")),
        lineage=Lineage(source=draw(digests), data=draw(digests), tools=draw(st.dictionaries(words, words, max_size=2))),
    )


@st.composite
def histograms(draw: st.DrawFn) -> Histogram:
    """A histogram of a few values, zero among them."""
    histogram = Histogram()
    for value in draw(st.lists(latencies | st.just(0.0), max_size=12)):
        histogram.record(value)
    return histogram


small_counts = st.dictionaries(words, st.integers(0, 2**40), max_size=4)


@st.composite
def usages(draw: st.DrawFn) -> ModelUsage:
    """What a device may report of one model version."""
    start = draw(st.floats(0, 4e9))
    return ModelUsage(
        model=draw(names),
        version=draw(versions),
        manifest=draw(digests),
        variant=draw(names),
        start=start,
        end=start + draw(st.floats(0, 1e5)),
        latency=draw(histograms()),
        predictions=draw(small_counts),
        errors=draw(small_counts),
    )


def contents(histogram: Histogram) -> tuple[dict[int, int], int, int, float, float]:
    """All of a histogram that is exact."""
    return dict(histogram.buckets), histogram.zeros, histogram.count, histogram.minimum, histogram.maximum


@st.composite
def mutations(draw: st.DrawFn, valid: st.SearchStrategy[bytes]) -> bytes:
    """A valid message with bytes changed, cut out, doubled or put in; or something from elsewhere altogether."""
    content = bytearray(draw(valid))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(len(content) - 1, 0)))
        span = draw(st.integers(0, 8))
        insert = draw(st.binary(max_size=4) | st.sampled_from(HOSTILE) | st.just(bytes(content[at : at + span]) * 2))
        content[at : at + span] = insert
    return bytes(content)


HOSTILE = [
    b"null",
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"-1",
    b"9" * 400,
    b"1.5",
    b'"\xff\xfe"',
    b'"\\ud800"',
    b'"\\u0000"',
    b"[" * 200,
    b'{"a":' * 200,
    b"{}",
    b"[]",
    b'"',
    b"\x00",
]
"""Pieces of JSON that have broken parsers."""

hostile_documents = st.sampled_from(
    [
        b"",
        b"[" * 1000,
        b'{"a":' * 1000,
        b"[" * 70 + b"]" * 70,
        b'"' + b"[" * 200 + b'"',
        b"9" * 5000,
        b"-" + b"9" * 4299,
        b'{"sequence":' + b"9" * 4300 + b"}",
        b"\xff" * 64,
        b"\xef\xbb\xbf{}",
        b'{"device":"a","device":"b"}',
        "\u2028".encode() * 100,
    ]
)
