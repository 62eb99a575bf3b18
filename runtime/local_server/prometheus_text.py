"""What the local server did, in Prometheus' text format 0.0.4. Pure.

Labels are models and versions that are or were active here, never what a client wrote: a stranger cannot add a series.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final

from runtime.hosting.room import Served
from runtime.hosting.serving import Standing
from runtime.local_server.serving_statistics import BOUNDS_S, Totals
from runtime.shadowing.shadow_record import ShadowRecord

CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"
_NS: Final = 1_000_000_000

Numbers = Mapping[tuple[str, str], Totals]


def exposition(
    totals: Numbers,
    active: Sequence[Served],
    refusals: Mapping[int, int],
    held_bytes: int,
    *,
    shadows: Sequence[ShadowRecord] = (),
    standings: Sequence[Standing] = (),
) -> bytes:
    """The whole page. `refusals` counts responses by status, `held_bytes` the bodies under way."""
    lines = (*_lines(totals, active, refusals, held_bytes), *_standings(standings), *_shadows(shadows))
    return "".join(f"{line}\n" for line in lines).encode()


def _loads(active: Sequence[Served]) -> Iterator[str]:
    for name, text, count in _LOADS:
        yield from _head(name, "gauge", text)
        for served in active:
            yield f"{name}{_labels(model=served.identity.model, version=served.identity.version)} {count(served)}"


_LOADS: Final[tuple[tuple[str, str, Callable[[Served], int]], ...]] = (
    ("edgeward_running_requests", "Requests that a model answers now.", lambda served: served.running),
    ("edgeward_waiting_requests", "Requests in line before a model.", lambda served: served.waiting),
    ("edgeward_hung_requests", "Runs that take longer than any should.", lambda served: served.hung),
)


def _standings(standings: Sequence[Standing]) -> Iterator[str]:
    """Of the models of a pool; nothing where there is none."""
    for name, kind, text, count in _STANDINGS if standings else ():
        yield from _head(name, kind, text)
        for each in standings:
            yield f"{name}{_labels(model=each.identity.model, version=each.identity.version)} {count(each)}"


_STANDINGS: Final[tuple[tuple[str, str, str, Callable[[Standing], int]], ...]] = (
    (
        "edgeward_model_memory_bytes",
        "gauge",
        "What a loaded model takes; 0: it is not loaded.",
        lambda each: each.memory_bytes,
    ),
    ("edgeward_model_loads_total", "counter", "How often a model was loaded.", lambda each: each.loads),
    ("edgeward_model_evictions_total", "counter", "How often a model went for another.", lambda each: each.evictions),
)


def _lines(totals: Numbers, active: Sequence[Served], refusals: Mapping[int, int], held_bytes: int) -> Iterator[str]:
    yield from _head("edgeward_model_info", "gauge", "What is active here, and on which engine.")
    for served in active:
        identity = served.identity
        labels = _labels(model=identity.model, version=identity.version, variant=identity.variant, engine=served.engine)
        yield f"edgeward_model_info{labels} 1"
    yield from _loads(active)
    yield from _head("edgeward_requests_total", "counter", "Requests for a model's answer, by how they ended.")
    for (model, version), each in totals.items():
        for outcome, count in sorted(each.outcomes.items()):
            yield f"edgeward_requests_total{_labels(model=model, version=version, outcome=outcome)} {count}"
    yield from _head("edgeward_samples_total", "counter", "Samples in the requests that were answered.")
    for (model, version), each in totals.items():
        yield f"edgeward_samples_total{_labels(model=model, version=version)} {each.samples}"
    yield from _head("edgeward_inference_seconds_total", "counter", "Time that answers took in the model itself.")
    for (model, version), each in totals.items():
        yield f"edgeward_inference_seconds_total{_labels(model=model, version=version)} {each.spent.infer / _NS!r}"
    yield from _histograms(totals)
    yield from _head("edgeward_refusals_total", "counter", "Responses other than 200, by their status.")
    for status, count in sorted(refusals.items()):
        yield f"edgeward_refusals_total{_labels(status=str(status))} {count}"
    yield from _head("edgeward_held_body_bytes", "gauge", "Bytes of request bodies under way.")
    yield f"edgeward_held_body_bytes {held_bytes}"


def _shadows(records: Sequence[ShadowRecord]) -> Iterator[str]:
    if not records:
        return
    yield from _head(
        "edgeward_shadow_requests", "gauge", "Sampled requests since the live version began, by what became of them."
    )
    for each in records:
        for outcome, count in sorted(each.requests.items()):
            labels = _labels(model=each.model, version=each.live, candidate=each.candidate, outcome=outcome)
            yield f"edgeward_shadow_requests{labels} {count}"
    yield from _head(
        "edgeward_shadow_agreement", "gauge", "Share of samples to which the candidate gave the live version's class."
    )
    for each in records:
        if each.agreement is not None:
            labels = _labels(model=each.model, version=each.live, candidate=each.candidate)
            yield f"edgeward_shadow_agreement{labels} {each.agreement!r}"
    yield from _head("edgeward_shadow_cpu_seconds_total", "counter", "CPU time that shadowing took.")
    for each in records:
        yield f"edgeward_shadow_cpu_seconds_total{_labels(model=each.model, candidate=each.candidate)} {each.cpu_s!r}"


def _histograms(totals: Numbers) -> Iterator[str]:
    name = "edgeward_request_seconds"
    yield from _head(name, "histogram", "From a request's last byte to its answer: waiting, reading, inference, writing.")
    for (model, version), each in totals.items():
        *cumulative, count = accumulate(each.buckets)
        for bound, below in zip(BOUNDS_S, cumulative, strict=True):
            yield f"{name}_bucket{_labels(model=model, version=version, le=repr(bound))} {below}"
        yield f"{name}_bucket{_labels(model=model, version=version, le='+Inf')} {count}"
        yield f"{name}_sum{_labels(model=model, version=version)} {each.total_s!r}"
        yield f"{name}_count{_labels(model=model, version=version)} {count}"


def _head(name: str, kind: str, text: str) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"


def _labels(**labels: str) -> str:
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
