"""`ModelUsage` as OTLP metrics protobuf and back: the OpenTelemetry protocol, metrics data model, delta temporality.

Unknown metrics in a body are passed over, so that a newer device can say more than an older backend understands.
"""

from __future__ import annotations

from collections.abc import Iterable
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
from fleet_protocol.histogram import HIGHEST_BUCKET, LARGEST, LOWEST_BUCKET, SCALE, Histogram
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

OTHER: Final = "other"
"""Stands for the classes or error types beyond `limits.CLASSES`, so that no count is lost."""

_NANOS: Final = 1_000_000_000
_ROUNDING: Final = 1.0 + 1e-9


def encode_usage(usages: list[ModelUsage]) -> bytes:
    """One OTLP export request with a resource for each model version. Raises `LimitExceeded`."""
    if len(usages) > limits.USAGES:
        raise LimitExceeded(f"telemetry speaks of {len(usages)} model versions; at most {limits.USAGES} fit one report")
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
    if len(request.resource_metrics) > limits.USAGES:
        raise LimitExceeded(
            f"telemetry speaks of {len(request.resource_metrics)} model versions; at most {limits.USAGES} are read"
        )
    return [_usage(resource) for resource in request.resource_metrics]


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
        for value, count in _most_frequent(counts)
    )
    return metric


def _most_frequent(counts: dict[str, int]) -> list[tuple[str, int]]:
    """The counts as they are read again: labels cut, and the rarest beyond the limit counted as `OTHER`."""
    cut = _add_up(counts.items())
    if len(cut) > limits.CLASSES:
        ranked = sorted(cut.items(), key=lambda item: (-item[1], item[0]))
        kept, rest = ranked[: limits.CLASSES - 1], ranked[limits.CLASSES - 1 :]
        cut = _add_up([*kept, (OTHER, sum(count for _, count in rest))])
    return sorted(cut.items())


def _add_up(counts: Iterable[tuple[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for label, count in counts:
        key = label[: limits.LABEL_CHARACTERS]
        total[key] = total.get(key, 0) + count
    return total


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
    point = _latency_point(model, metrics.get(LATENCY))
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


def _latency_point(model: str, metric: Metric | None) -> ExponentialHistogramDataPoint:
    if metric is None or len(metric.exponential_histogram.data_points) != 1:
        raise MalformedMessage(f"telemetry of {model} has not one {LATENCY} point")
    if metric.exponential_histogram.aggregation_temporality != AGGREGATION_TEMPORALITY_DELTA:
        raise MalformedMessage(f"telemetry of {model} has no delta temporality; a total would be counted again each time")
    return metric.exponential_histogram.data_points[0]


def _histogram(point: ExponentialHistogramDataPoint) -> Histogram:
    if point.scale != SCALE:
        raise MalformedMessage(f"latency histogram has scale {point.scale}; only {SCALE} is merged exactly")
    counts, offset = point.positive.bucket_counts, point.positive.offset
    if len(counts) > limits.HISTOGRAM_BUCKETS:
        raise LimitExceeded(f"latency histogram has {len(counts)} buckets; at most {limits.HISTOGRAM_BUCKETS} are read")
    if counts and not LOWEST_BUCKET <= offset <= offset + len(counts) - 1 <= HIGHEST_BUCKET:
        raise MalformedMessage(f"latency histogram has buckets beyond {LOWEST_BUCKET} to {HIGHEST_BUCKET}")
    histogram = Histogram()
    histogram.add_buckets(
        {offset + at: count for at, count in enumerate(counts) if count}, zeros=point.zero_count, total=point.sum
    )
    if histogram.count != point.count or point.negative.bucket_counts:
        raise MalformedMessage(f"latency histogram says {point.count} values, its buckets hold {histogram.count}")
    if histogram.count > limits.REPORT_COUNT:
        raise LimitExceeded(f"latency histogram counts {histogram.count} values; one report has at most {limits.REPORT_COUNT}")
    _set_extremes(histogram, point)
    return histogram


def _set_extremes(histogram: Histogram, point: ExponentialHistogramDataPoint) -> None:
    """Take over min and max where they are given. NaN fails every comparison, so it is refused too."""
    if histogram.count and point.HasField("min") and point.HasField("max"):
        if not 0.0 <= point.min <= point.max <= LARGEST:
            raise MalformedMessage(f"latency histogram says that values go from {point.min} to {point.max}")
        histogram.minimum, histogram.maximum = point.min, point.max
    if not 0.0 <= point.sum <= histogram.count * LARGEST * _ROUNDING:
        raise MalformedMessage(f"latency histogram says that {histogram.count} values add up to {point.sum}")


def _counts(metric: Metric | None, key: str) -> dict[str, int]:
    if metric is None:
        return {}
    points = metric.sum.data_points
    if len(points) > limits.CLASSES or metric.sum.aggregation_temporality != AGGREGATION_TEMPORALITY_DELTA:
        raise MalformedMessage(f"{metric.name} has more than {limits.CLASSES} points, or no delta temporality")
    if not all(0 <= point.as_int <= limits.REPORT_COUNT for point in points):
        raise MalformedMessage(f"{metric.name} has a count below 0 or above {limits.REPORT_COUNT}")
    return _add_up((_label(point, key), point.as_int) for point in points)


def _label(point: NumberDataPoint, key: str) -> str:
    return next((each.value.string_value for each in point.attributes if each.key == key), "")
