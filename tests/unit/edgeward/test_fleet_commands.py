"""`edgeward devices`, `models`, `events` and `status` against a central side over HTTPS, as an operator types them."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edgeward.commands.status import needs_attention
from edgeward.errors import ServerRefused, ServerUnreachable
from edgeward.fleet_view import device_views
from fleet_io.simulated import SimulatedBroker, SimulatedTransport
from fleet_telemetry.service import Telemetry
from tests.support import asgi, given_central
from tests.support.reports import MANIFEST, NOW, TurnedClock, a_report, a_usage, an_event, raw
from tests.support.waiting import until

OTHER = "sha256:" + "b" * 64
HOSTILE = "accuracy \x1b[31m0.10[/] wanted 0.90"
RUNNING = {"version": "1.0.0", "manifest": MANIFEST, "variant": "int8", "file": MANIFEST}
WANTED = {"version": "1.1.0", "manifest": OTHER, "attempt": 0, "rollout": 1}
REFUSAL = {"version": "1.1.0", "manifest": OTHER, "attempt": 0, "phase": "gating", "reason": HOSTILE}


def on_device(**changes: Any) -> dict[str, Any]:
    said = {"model": "digits", "phase": "idle", "healthy": 1, "progress": 0.0, "committed": False}
    return said | {"running": RUNNING, "desired": {**WANTED, **RUNNING}, "refused": []} | changes


def a_device(name: str, *models: dict[str, Any], **changes: Any) -> dict[str, Any]:
    facts = {"online": True, "seen": NOW, "enrolled": NOW, "certificate_expires": 4e9, "agent": "0.1.0", "boot": ""}
    return {"name": name, "hardware": {"machine": "x"}, "serving": "", "sequence": 1, "models": list(models)} | facts | changes


DEVICES = [
    a_device("cam-1", on_device(), serving="http://127.0.0.1:8080"),
    a_device("cam-2", on_device(desired=WANTED, refused=[REFUSAL])),
    a_device("cam-3", on_device(phase="fetching", progress=0.45, desired=WANTED), online=False, seen=NOW),
    a_device("cam-4", online=False, seen=None),
]
VERSIONS = [
    {"version": version, "manifest": manifest, "published": NOW, "size": 1000, "variants": variants}
    for version, manifest, variants in (
        ("1.0.0", MANIFEST, [{"name": "int8", "format": "onnx", "precision": "int8-static", "size": 100, "accuracy": 0.959}]),
        ("1.1.0", OTHER, [{"name": "int8", "format": "onnx", "precision": "int8-static", "size": 100, "accuracy": None}]),
    )
]
ROLLOUT = {"id": 1, "model": "digits", "version": "1.1.0", "state": "running", "cohort": "all", "created": NOW, "detail": ""}
REGISTRY: dict[str, Any] = {
    "/v1/devices": {"devices": DEVICES},
    **{f"/v1/devices/{device['name']}": device for device in DEVICES},
    "/v1/models": {"models": [{"name": "digits", "latest": "1.1.0", "versions": VERSIONS}]},
    "/v1/rollouts": {"rollouts": [{**ROLLOUT, "counts": {"members": 4, "committed": 1, "failed": 1}}]},
}
EMPTY: dict[str, Any] = {"/v1/devices": {"devices": []}, "/v1/models": {"models": []}, "/v1/rollouts": {"rollouts": []}}
Run = Callable[..., Result]


@pytest.fixture(scope="module")
def telemetry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Telemetry]:
    service = Telemetry(tmp_path_factory.mktemp("telemetry") / "telemetry.sqlite", clock=TurnedClock())
    service.prepare()
    broker = SimulatedBroker()
    central = SimulatedTransport(broker, "central")
    service.attach(central)
    central.start()
    service.start()
    reports = (
        a_report(a_usage((0.01,) * 1500, errors={"non_finite": 3}), device="cam-1", sequence=0),
        an_event(device="cam-1", sequence=1, detail="first"),
        an_event(device="cam-2", sequence=0, kind="gate_refused", detail=HOSTILE),
        raw(b"\xff", device="cam-2", sequence=1),
    )
    for message in reports:
        broker.deliver(message.topic, message.payload, retain=False)
    until(lambda: asgi.get(service.routes(), "/v1/telemetry/totals").json()["rejected"], "the reports are stored")
    yield service
    service.stop()


@pytest.fixture(scope="module")
def run(telemetry: Telemetry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with given_central.serving(tmp_path_factory.mktemp("central"), REGISTRY, telemetry.routes()) as data:
        yield lambda *arguments: invoke(data, *arguments)


def invoke(data: Path, name: str, *arguments: str) -> Result:
    command = importlib.import_module(f"edgeward.commands.{name}").command
    return CliRunner(env={"COLUMNS": "160"}).invoke(command, [*arguments, "--data-dir", str(data)])


def shown(result: Result) -> str:
    assert result.exit_code == 0, result.output
    assert "\x1b[31m" not in result.output, "a device's text must not steer the terminal"
    return " ".join(result.output.split())


def read(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_devices_shows_what_runs_what_is_wanted_and_why_not(run: Run) -> None:
    text = shown(run("devices"))
    assert "cam-1 online digits 1.0.0 1.0.0 committed 1,500" in text
    assert "cam-2 online digits 1.0.0 1.1.0 refused 1.1.0 0" in text
    assert "cam-2 refused digits 1.1.0 (gating): accuracy [31m0.10[/] wanted 0.90" in text
    assert "digits 1.0.0 1.1.0 was fetching 45%" in text
    assert "cam-4 never" in text
    assert "nothing assigned" in text


def test_devices_as_json_has_the_same_facts_for_programs(run: Run) -> None:
    devices = {device["device"]: device for device in read(run("devices", "--json"))["devices"]}
    assert list(devices) == ["cam-1", "cam-2", "cam-3", "cam-4"]
    model = devices["cam-1"]["models"][0]
    assert (model["running"], model["wanted"], model["state"], model["phase"]) == ("1.0.0", "1.0.0", "committed", "idle")
    assert (model["inferences"], model["failed"], model["errors"]) == (1500, 3, {"non_finite": 3})
    assert model["p99_s"] == pytest.approx(0.01, rel=0.011)
    assert devices["cam-2"]["models"][0]["refused"][0]["reason"] == HOSTILE
    assert devices["cam-3"]["online"] is False


def test_one_device_is_shown_with_its_events_and_rejections(run: Run) -> None:
    text = shown(run("devices", "cam-2"))
    assert "Refused digits 1.1.0 while gating: accuracy [31m0.10[/] wanted 0.90" in text
    assert "rejected 1 reports" in text
    assert "gate_refused" in text or "gate refused" in text
    one = read(run("devices", "cam-1", "--json"))
    assert one["device"]["models"][0]["inferences"] == 1500
    assert one["events"][0]["detail"] == "first"


@pytest.mark.parametrize("name", ["unheard-of", "../devices", "a b"])
def test_a_device_that_is_not_there_is_an_error_with_a_hint(run: Run, name: str) -> None:
    result = run("devices", name)
    assert isinstance(result.exception, ServerRefused)
    assert "Ask for one that is listed" in str(result.exception)


def test_models_shows_each_release_and_how_it_does(run: Run) -> None:
    text = shown(run("models"))
    assert "95.90% 3 1 1,500" in text
    assert "1 (1 refused)" not in text
    assert "2 (1 refused)" in text
    releases = read(run("models", "--json"))["models"]
    assert [(each["version"], each["running"], each["wanted"], each["refused"]) for each in releases] == [
        ("1.1.0", 0, 2, 1),
        ("1.0.0", 3, 1, 0),
    ]


def test_one_model_is_shown_with_its_variants_and_what_it_predicts(run: Run) -> None:
    text = shown(run("models", "digits"))
    assert "int8-static" in text
    assert "Predicted classes class 1.0.0 7 100.0%" in text
    assert read(run("models", "digits", "--json"))["telemetry"]["releases"][0]["inferences"] == 1500
    assert isinstance(run("models", "other").exception, ServerRefused)


def test_events_are_read_as_a_log_the_newest_last(run: Run) -> None:
    text = shown(run("events"))
    assert text.index("first") < text.index("accuracy [31m0.10[/]")
    assert "cam-2" not in shown(run("events", "--device", "cam-1"))
    assert len(read(run("events", "--limit", "1", "--json"))["events"]) == 1
    assert run("events", "--limit", "0").exit_code == 2
    assert isinstance(run("events", "--device", "BAD").exception, ServerRefused)


def test_status_says_where_the_fleet_stands_and_what_needs_a_person(run: Run) -> None:
    text = shown(run("status"))
    assert "4 devices, 2 online: 1 committed, 1 changing, 1 refused" in text
    assert "1,500 inferences, 0.20% errors, p50 10.0 ms, p99 10.0 ms" in text
    assert "Rollout 1 of digits 1.1.0: 1 of 4 committed, 1 failed" in text
    assert "cam-2 refused digits 1.1.0: accuracy [31m0.10[/] wanted 0.90" in text
    overview = read(run("status", "--json"))
    assert overview["devices"]["refused"] == 1
    assert any(line.startswith("cam-3 is offline since") for line in overview["attention"])
    assert "cam-4 is offline" in overview["attention"]


def test_certificates_that_end_soon_and_reports_without_room_need_attention() -> None:
    devices = device_views([a_device("cam-1", certificate_expires=NOW + 86400)], {})
    lines = needs_attention(devices, {"dropped": 5, "rejected": 0}, NOW)
    assert lines == ["the certificate of cam-1 ends in 1 days", "5 reports found no room; their devices send them again"]


def test_an_empty_fleet_is_told_what_to_do_first(telemetry: Telemetry, tmp_path: Path) -> None:
    quiet = Telemetry(tmp_path / "telemetry.sqlite", clock=TurnedClock())
    quiet.prepare()
    with given_central.serving(tmp_path / "data", EMPTY, quiet.routes()) as data:
        assert "edgeward claim create" in shown(invoke(data, "devices"))
        assert "edgeward convert" in shown(invoke(data, "models"))
        assert "Nothing has happened yet" in shown(invoke(data, "events"))
        assert "0 devices, 0 online" in shown(invoke(data, "status"))
        assert read(invoke(data, "devices", "--json")) == {"devices": []}
    quiet.stop()


@pytest.mark.parametrize("name", ["devices", "models", "events", "status"])
def test_without_a_central_side_the_error_says_how_to_start_one(name: str, tmp_path: Path) -> None:
    result = invoke(tmp_path, name)
    assert isinstance(result.exception, ServerUnreachable)
    assert "edgeward up" in str(result.exception)
