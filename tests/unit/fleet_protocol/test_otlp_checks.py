"""What a telemetry body may not say: each wrong value by itself, in an otherwise right OTLP request."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_CUMULATIVE

from fleet_protocol import limits, otlp
from fleet_protocol.errors import LimitExceeded, MalformedMessage, ProtocolError
from fleet_protocol.histogram import HIGHEST_BUCKET, LOWEST_BUCKET, Histogram
from fleet_protocol.telemetry import ModelUsage


def usage(**changes: Any) -> ModelUsage:
    latency = Histogram()
    for value in (0.0, 0.01, 0.02):
        latency.record(value)
    fields: dict[str, Any] = {
        "model": "digits",
        "version": "1.0.0",
        "manifest": "sha256:" + "a" * 64,
        "variant": "int8",
        "start": 1000.0,
        "end": 1010.0,
        "latency": latency,
        "predictions": {"7": 2},
        "errors": {"non_finite": 1},
    }
    return ModelUsage(**(fields | changes))


def request() -> ExportMetricsServiceRequest:
    return ExportMetricsServiceRequest.FromString(otlp.encode_usage([usage()]))


def metric(body: ExportMetricsServiceRequest, name: str) -> Any:
    return next(each for each in body.resource_metrics[0].scope_metrics[0].metrics if each.name == name)


def point(body: ExportMetricsServiceRequest) -> Any:
    return metric(body, otlp.LATENCY).exponential_histogram.data_points[0]


def set_field(name: str, value: object) -> Callable[[ExportMetricsServiceRequest], None]:
    return lambda body: setattr(point(body), name, value)


def add_point(body: ExportMetricsServiceRequest) -> None:
    metric(body, otlp.LATENCY).exponential_histogram.data_points.append(point(body))


def total_instead_of_delta(name: str) -> Callable[[ExportMetricsServiceRequest], None]:
    def change(body: ExportMetricsServiceRequest) -> None:
        changed = metric(body, name)
        kind = changed.exponential_histogram if name == otlp.LATENCY else changed.sum
        kind.aggregation_temporality = AGGREGATION_TEMPORALITY_CUMULATIVE

    return change


WRONG: dict[str, Callable[[ExportMetricsServiceRequest], None]] = {
    "another scale": set_field("scale", 4),
    "another count": set_field("count", 4),
    "a sum that is not a number": set_field("sum", math.nan),
    "an endless sum": set_field("sum", math.inf),
    "a negative sum": set_field("sum", -1.0),
    "a minimum that is not a number": set_field("min", math.nan),
    "a minimum above the maximum": set_field("min", 99.0),
    "an endless maximum": set_field("max", math.inf),
    "buckets that are too low": lambda body: setattr(point(body).positive, "offset", LOWEST_BUCKET - 1),
    "buckets that are too high": lambda body: setattr(point(body).positive, "offset", HIGHEST_BUCKET),
    "negative values": lambda body: point(body).negative.bucket_counts.append(1),
    "two points": add_point,
    "no latency": lambda body: setattr(metric(body, otlp.LATENCY), "name", "other"),
    "latency as a total": total_instead_of_delta(otlp.LATENCY),
    "predictions as a total": total_instead_of_delta(otlp.PREDICTIONS),
    "a negative count": lambda body: setattr(metric(body, otlp.ERRORS).sum.data_points[0], "as_int", -1),
    "a huge count": lambda body: setattr(metric(body, otlp.ERRORS).sum.data_points[0], "as_int", 2**62),
    "no model": lambda body: body.resource_metrics[0].resource.ClearField("attributes"),
    "no resource": lambda body: body.resource_metrics[0].ClearField("resource"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_body_with_one_wrong_value_is_refused(name: str) -> None:
    body = request()
    WRONG[name](body)
    with pytest.raises(ProtocolError):
        otlp.decode_usage(body.SerializeToString())


def test_a_body_that_counts_too_much_is_refused() -> None:
    body = request()
    point(body).zero_count += limits.REPORT_COUNT
    point(body).count += limits.REPORT_COUNT
    with pytest.raises(LimitExceeded):
        otlp.decode_usage(body.SerializeToString())


def test_metrics_that_nobody_here_knows_are_passed_over() -> None:
    body = request()
    body.resource_metrics[0].scope_metrics[0].metrics.add().name = "edgeward.invented.later"
    assert otlp.decode_usage(body.SerializeToString())[0].predictions == {"7": 2}


def test_a_histogram_without_extremes_is_read_with_its_quantiles() -> None:
    body = request()
    point(body).ClearField("min")
    point(body).ClearField("max")
    latency = otlp.decode_usage(body.SerializeToString())[0].latency
    assert latency.quantile(1.0) == pytest.approx(0.02, rel=0.011)


def test_more_classes_than_fit_are_counted_together_and_none_is_lost() -> None:
    many = {f"class-{number}": number + 1 for number in range(limits.CLASSES + 10)}
    read = otlp.decode_usage(otlp.encode_usage([usage(predictions=many)]))[0].predictions
    assert len(read) == limits.CLASSES
    assert sum(read.values()) == sum(many.values())
    assert read[otlp.OTHER] == sum(range(1, 12))


def test_labels_that_are_the_same_after_the_cut_are_added_up() -> None:
    long = "x" * limits.LABEL_CHARACTERS
    read = otlp.decode_usage(otlp.encode_usage([usage(errors={long + "a": 1, long + "b": 2})]))[0].errors
    assert read == {long: 3}


def test_too_many_model_versions_are_refused_on_both_sides() -> None:
    with pytest.raises(LimitExceeded):
        otlp.encode_usage([usage()] * (limits.USAGES + 1))
    body = request()
    for _ in range(limits.USAGES):
        body.resource_metrics.add().CopyFrom(body.resource_metrics[0])
    with pytest.raises(LimitExceeded):
        otlp.decode_usage(body.SerializeToString())


def test_bytes_that_are_no_protobuf_are_malformed() -> None:
    with pytest.raises(MalformedMessage, match="OTLP"):
        otlp.decode_usage(b"\xff\xff\xff")
