"""The HTTP questions and `/metrics`, asked of a database that holds real reports."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.routing import BaseRoute

from fleet_io.simulated import SimulatedBroker, SimulatedTransport
from fleet_protocol.histogram import Histogram
from fleet_telemetry.aggregate import HOUR_S
from fleet_telemetry.errors import StoreUnavailable
from fleet_telemetry.metrics import classic_buckets
from fleet_telemetry.service import Telemetry
from tests.support import asgi
from tests.support.reports import MANIFEST, NOW, TurnedClock, a_report, a_usage, an_event, raw
from tests.support.waiting import until

OTHER_MANIFEST = "sha256:" + "b" * 64
REPORTS = [
    a_report(a_usage((0.01, 0.02), errors={"failed": 1}), device="cam-1", sequence=0),
    a_report(a_usage((0.03,), predictions={"1": 1}), device="cam-2", sequence=0),
    a_report(a_usage((0.1,), variant="float32", end=NOW - 2 * HOUR_S), device="cam-2", sequence=1),
    a_report(a_usage((0.5,), version="1.10.0", manifest=OTHER_MANIFEST), device="cam-2", sequence=2),
    a_report(a_usage((0.7,), version="1.9.0", manifest="sha256:" + "c" * 64), device="cam-2", sequence=3),
    an_event(device="cam-1", sequence=1, detail="first"),
    an_event(device="cam-2", sequence=4, kind="alert", detail="second"),
    raw(b"\xff", device="cam-1", sequence=9),
]


@pytest.fixture(scope="module")
def telemetry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Telemetry]:
    service = Telemetry(tmp_path_factory.mktemp("api") / "telemetry.sqlite", clock=TurnedClock())
    service.prepare()
    broker = SimulatedBroker()
    central = SimulatedTransport(broker, "central")
    service.attach(central)
    central.start()
    service.start()
    for message in REPORTS:
        broker.deliver(message.topic, message.payload, retain=False)
    until(lambda: ask(service.routes(), "/v1/telemetry/totals")["accepted"] == 7, "all reports are stored")
    yield service
    service.stop()


def ask(routes: list[BaseRoute], path: str) -> Any:
    answer = asgi.get(routes, path)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.fixture(scope="module")
def routes(telemetry: Telemetry) -> list[BaseRoute]:
    return telemetry.routes()


def test_models_are_shown_by_release_newest_first_with_their_variants(routes: list[BaseRoute]) -> None:
    (model,) = ask(routes, "/v1/telemetry/models")["models"]
    assert model["model"] == "digits"
    assert [release["version"] for release in model["releases"]] == ["1.10.0", "1.9.0", "1.0.0"]
    release = model["releases"][2]
    assert (release["inferences"], release["failed"], release["manifest"]) == (4, 1, MANIFEST)
    assert release["error_share"] == pytest.approx(0.2)
    assert release["predictions"] == {"1": 1, "7": 3}
    assert [(variant["variant"], variant["inferences"]) for variant in release["variants"]] == [("float32", 1), ("int8", 3)]
    assert release["latency"]["p99"] == pytest.approx(0.1, rel=0.011)


def test_one_model_is_shown_with_its_hours_and_may_be_asked_by_version(routes: list[BaseRoute]) -> None:
    everything = ask(routes, "/v1/telemetry/models/digits")
    assert len(everything["releases"]) == 3
    assert [hour["inferences"] for hour in everything["hours"]] == [1, 5]
    one = ask(routes, "/v1/telemetry/models/digits?version=1.10.0")
    assert [release["version"] for release in one["releases"]] == ["1.10.0"]
    assert [hour["inferences"] for hour in one["hours"]] == [1]
    assert ask(routes, "/v1/telemetry/models/unheard-of") == {"model": "unheard-of", "releases": [], "hours": []}


def test_devices_are_listed_page_by_page(routes: list[BaseRoute]) -> None:
    first = ask(routes, "/v1/telemetry/devices?limit=1")
    assert [device["device"] for device in first["devices"]] == ["cam-1"]
    second = ask(routes, f"/v1/telemetry/devices?limit=1&after={first['next']}")
    assert [device["device"] for device in second["devices"]] == ["cam-2"]
    assert ask(routes, f"/v1/telemetry/devices?limit=1&after={second['next']}") == {"devices": [], "next": None}
    assert ask(routes, "/v1/telemetry/devices")["next"] is None


def test_one_device_is_shown_with_what_it_did_what_was_rejected_and_what_happened(routes: list[BaseRoute]) -> None:
    device = ask(routes, "/v1/telemetry/devices/cam-1")
    assert [(each["version"], each["variant"], each["inferences"]) for each in device["usage"]] == [("1.0.0", "int8", 2)]
    assert device["rejected"]["count"] == 1
    assert [event["detail"] for event in device["events"]] == ["first"]
    silent = ask(routes, "/v1/telemetry/devices/silent")
    assert silent == {"device": "silent", "usage": [], "rejected": None, "events": []}


def test_events_come_newest_first_and_may_be_narrowed(routes: list[BaseRoute]) -> None:
    def details(query: str) -> list[str]:
        return [event["detail"] for event in ask(routes, f"/v1/telemetry/events{query}")["events"]]

    assert details("") == ["second", "first"]
    assert details("?limit=1") == ["second"]
    assert details("?device=cam-1") == ["first"]
    assert details("?model=other") == []


def test_totals_add_everything_up(routes: list[BaseRoute]) -> None:
    totals = ask(routes, "/v1/telemetry/totals")
    assert {key: totals[key] for key in ("accepted", "duplicates", "rejected", "devices", "events", "waiting", "dropped")} == {
        "accepted": 7,
        "duplicates": 0,
        "rejected": 1,
        "devices": 2,
        "events": 2,
        "waiting": 0,
        "dropped": 0,
    }
    assert totals["usage"]["inferences"] == 6


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/v1/telemetry/events?limit=0", "from 1 to 1000"),
        ("/v1/telemetry/events?limit=many", "'many'"),
        ("/v1/telemetry/events?limit=9999999999999999999", "from 1 to 1000"),
        ("/v1/telemetry/events?limit=%C2%B2", "from 1 to 1000"),
        ("/v1/telemetry/events?device=BAD", "device name"),
        ("/v1/telemetry/devices?limit=1001", "from 1 to 1000"),
        ("/v1/telemetry/devices/BAD", "device name"),
        ("/v1/telemetry/models/BAD", "model name"),
        ("/v1/telemetry/models/digits?version=1", "version"),
    ],
)
def test_a_question_that_makes_no_sense_is_answered_with_what_is_allowed(
    routes: list[BaseRoute], path: str, words: str
) -> None:
    answer = asgi.get(routes, path)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "invalid_query"
    assert words in error["message"]


def test_prometheus_gets_releases_and_never_devices(routes: list[BaseRoute]) -> None:
    answer = asgi.get(routes, "/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    samples = [sample for family in text_string_to_metric_families(answer.text) for sample in family.samples]
    assert not any("cam-" in value or key == "device" for sample in samples for key, value in sample.labels.items())
    labels = {"model": "digits", "version": "1.0.0", "variant": "int8"}

    def value(name: str, **more: str) -> float:
        return next(sample.value for sample in samples if sample.name == name and sample.labels == labels | more)

    assert value("edgeward_inference_duration_seconds_count") == 3
    assert value("edgeward_inference_duration_seconds_sum") == pytest.approx(0.06)
    assert value("edgeward_inference_duration_seconds_bucket", le="0.015625") == 1
    assert value("edgeward_inference_duration_seconds_bucket", le="0.03125") == 3
    assert value("edgeward_inference_errors_total", type="failed") == 1


def test_classic_buckets_rise_and_count_a_value_on_a_bound_below_it() -> None:
    histogram = Histogram()
    for seconds in (0.0, 1e-9, 0.25, 0.250001, 64.0, 65.0, 1e6):
        histogram.record(seconds)
    buckets = dict(classic_buckets(histogram))
    assert list(buckets.values()) == sorted(buckets.values())
    assert (buckets["0.125"], buckets["0.25"], buckets["0.5"]) == (2, 3, 4)
    assert (buckets["64.0"], buckets["+Inf"]) == (5, 7)


def test_without_its_database_the_answer_is_unavailable(tmp_path: Path) -> None:
    service = Telemetry(f"sqlite:///{tmp_path / 'gone.sqlite'}", clock=TurnedClock())
    service.prepare()
    routes = service.routes()
    for name in ("gone.sqlite", "gone.sqlite-wal", "gone.sqlite-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    service.stop()
    (tmp_path / "gone.sqlite").write_bytes(b"not a database" * 100)
    for path in ("/v1/telemetry/models", "/metrics"):
        answer = asgi.get(routes, path)
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "store_unavailable"


def test_a_database_that_cannot_be_opened_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="cannot be used"):
        Telemetry(tmp_path / "absent" / "telemetry.sqlite", clock=TurnedClock()).prepare()
