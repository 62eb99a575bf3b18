"""`ModelUsage` as OTLP metrics protobuf and back: the OpenTelemetry protocol, metrics data model, delta temporality.

Unknown metrics in a body are passed over, so that a newer device can say more than an older backend understands.
"""

from __future__ import annotations

import math
from typing import Final

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AGGREGATION_TEMPORALITY_DELTA,
    ExponentialHistogramDataPoint,
    Metric,
    NumberDataPoint,
    ResourceMetrics,
)

from fleet_protocol import limits
from fleet_protocol.digests import hex_of
from fleet_protocol.errors import LimitExceeded, MalformedMessage, ProtocolError
from fleet_protocol.histogram import SCALE, Histogram
from fleet_protocol.names import check_name, check_version
from fleet_protocol.telemetry import ModelUsage

LATENCY: Final = "edgeward.inference.duration"
"""Exponential histogram, seconds."""
PREDICTIONS: Final = "edgeward.inference.predictions"
"""Sum, by attribute `class`."""
ERRORS: Final = "edgeward.inference.errors"
"""Sum, by attribute `error.type`."""

ATTRIBUTE_MODEL: Final = "edgeward.model"
ATTRIBUTE_VERSION: Final = "edgeward.version"
ATTRIBUTE_MANIFEST: Final = "edgeward.manifest"
ATTRIBUTE_VARIANT: Final = "edgeward.variant"
ATTRIBUTE_CLASS: Final = "class"
ATTRIBUTE_ERROR: Final = "error.type"

_NANOS: Final = 1_000_000_000
_BUCKET_RANGE: Final = 1 << 15
"""Bucket indexes of every positive double at scale 5 lie well within ±this."""


def encode_usage(usages: list[ModelUsage]) -> bytes:
    """One OTLP export request with a resource for each model version."""
    request = ExportMetricsServiceRequest()
    for usage in usages:
        resource = request.resource_metrics.add()
        resource.resource.attributes.extend(
            _attribute(key, value)
            for key, value in (
                (ATTRIBUTE_MODEL, usage.model),
                (ATTRIBUTE_VERSION, usage.version),
                (ATTRIBUTE_MANIFEST, usage.manifest),
                (ATTRIBUTE_VARIANT, usage.variant),
            )
        )
        scope = resource.scope_metrics.add()
        scope.scope.name = "edgeward"
        scope.metrics.append(_latency_metric(usage))
        for name, key, counts in ((PREDICTIONS, ATTRIBUTE_CLASS, usage.predictions), (ERRORS, ATTRIBUTE_ERROR, usage.errors)):
            if counts:
                scope.metrics.append(_sum_metric(name, key, counts, usage))
    return request.SerializeToString(deterministic=True)


def decode_usage(body: bytes) -> list[ModelUsage]:
    """The usages of an OTLP body. Unknown metrics are passed over; wrong values raise `ProtocolError`."""
    request = ExportMetricsServiceRequest()
    try:
        request.ParseFromString(body)
    except (DecodeError, ValueError) as error:
        raise MalformedMessage(f"telemetry body is not an OTLP metrics request: {error}") from error
    return [_usage(resource) for resource in request.resource_metrics[: limits.ASSIGNMENTS * 4]]


def _attribute(key: str, value: str) -> KeyValue:
    return KeyValue(key=key, value=AnyValue(string_value=value))


def _latency_metric(usage: ModelUsage) -> Metric:
    point = ExponentialHistogramDataPoint(
        start_time_unix_nano=int(usage.start * _NANOS),
        time_unix_nano=int(usage.end * _NANOS),
        count=usage.latency.count,
        sum=usage.latency.total,
        scale=SCALE,
        zero_count=usage.latency.zeros,
    )
    if usage.latency.count:
        point.min, point.max = usage.latency.minimum, usage.latency.maximum
    if usage.latency.buckets:
        low, high = min(usage.latency.buckets), max(usage.latency.buckets)
        point.positive.offset = low
        point.positive.bucket_counts.extend(usage.latency.buckets.get(index, 0) for index in range(low, high + 1))
    metric = Metric(name=LATENCY, unit="s")
    metric.exponential_histogram.aggregation_temporality = AGGREGATION_TEMPORALITY_DELTA
    metric.exponential_histogram.data_points.append(point)
    return metric


def _sum_metric(name: str, key: str, counts: dict[str, int], usage: ModelUsage) -> Metric:
    metric = Metric(name=name, unit="1")
    metric.sum.aggregation_temporality = AGGREGATION_TEMPORALITY_DELTA
    metric.sum.is_monotonic = True
    metric.sum.data_points.extend(
        NumberDataPoint(
            attributes=[_attribute(key, value)],
            start_time_unix_nano=int(usage.start * _NANOS),
            time_unix_nano=int(usage.end * _NANOS),
            as_int=count,
        )
        for value, count in sorted(counts.items())[: limits.CLASSES]
    )
    return metric


def _usage(resource: ResourceMetrics) -> ModelUsage:
    attributes = {each.key: each.value.string_value for each in resource.resource.attributes}
    try:
        model = check_name(attributes.get(ATTRIBUTE_MODEL, ""), "model name")
        variant = check_name(attributes.get(ATTRIBUTE_VARIANT, ""), "variant name")
        version = check_version(attributes.get(ATTRIBUTE_VERSION, ""))
        manifest = "sha256:" + hex_of(attributes.get(ATTRIBUTE_MANIFEST, ""))
    except ProtocolError as error:
        raise MalformedMessage(f"telemetry names no model version: {error}") from error
    metrics = {metric.name: metric for scope in resource.scope_metrics for metric in scope.metrics}
    if LATENCY not in metrics or len(metrics[LATENCY].exponential_histogram.data_points) != 1:
        raise MalformedMessage(f"telemetry of {model} has not one {LATENCY} point")
    point = metrics[LATENCY].exponential_histogram.data_points[0]
    return ModelUsage(
        model=model,
        version=version,
        manifest=manifest,
        variant=variant,
        start=point.start_time_unix_nano / _NANOS,
        end=point.time_unix_nano / _NANOS,
        latency=_histogram(point),
        predictions=_counts(metrics.get(PREDICTIONS), ATTRIBUTE_CLASS),
        errors=_counts(metrics.get(ERRORS), ATTRIBUTE_ERROR),
    )


def _histogram(point: ExponentialHistogramDataPoint) -> Histogram:
    if point.scale != SCALE:
        raise MalformedMessage(f"latency histogram has scale {point.scale}; only {SCALE} is merged exactly")
    counts, offset = point.positive.bucket_counts, point.positive.offset
    if len(counts) > limits.HISTOGRAM_BUCKETS:
        raise LimitExceeded(f"latency histogram has {len(counts)} buckets; at most {limits.HISTOGRAM_BUCKETS} are read")
    if abs(offset) > _BUCKET_RANGE or not math.isfinite(point.sum):
        raise MalformedMessage("latency histogram has an impossible offset or sum")
    histogram = Histogram()
    histogram.add_buckets(
        {offset + at: count for at, count in enumerate(counts) if count}, zeros=point.zero_count, total=point.sum
    )
    if histogram.count != point.count or histogram.count >= 2**63:
        raise MalformedMessage(f"latency histogram says {point.count} values, its buckets hold {histogram.count}")
    if histogram.count:
        histogram.minimum, histogram.maximum = point.min, point.max
    return histogram


def _counts(metric: Metric | None, key: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    if metric is None:
        return counts
    for point in metric.sum.data_points[: limits.CLASSES]:
        value = next((each.value.string_value for each in point.attributes if each.key == key), "")
        if point.as_int < 0:
            raise MalformedMessage(f"{metric.name} counts {point.as_int} of {value!r}")
        counts[value[:200]] = counts.get(value[:200], 0) + point.as_int
    return counts
