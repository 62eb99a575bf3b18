"""What registry and telemetry know, joined: success is shown only for what really runs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeward.fleet_reading import ago, cut, presence_of, safe, state_of
from edgeward.fleet_view import count_devices, device_views, plain, release_views

WANTED, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64
PHASES = ("idle", "fetching", "verifying", "staged", "gating", "activating", "probation", "rolling_back", "unknown")


def running(manifest: str = WANTED, version: str = "1.1.0") -> dict[str, str]:
    return {"version": version, "manifest": manifest, "variant": "int8", "file": "sha256:" + "f" * 64}


def desired(manifest: str = WANTED, attempt: int = 0) -> dict[str, Any]:
    return {"version": "1.1.0", "manifest": manifest, "attempt": attempt, "rollout": 1}


def refusal(manifest: str = WANTED, attempt: int = 0, reason: str = "too slow") -> dict[str, Any]:
    return {"version": "1.1.0", "manifest": manifest, "attempt": attempt, "phase": "gating", "reason": reason}


def model(**changes: Any) -> dict[str, Any]:
    plain_model = {
        "model": "digits",
        "phase": "idle",
        "healthy": 0,
        "progress": 0.0,
        "committed": True,
        "running": running(),
        "desired": desired(),
        "refused": [],
    }
    return plain_model | changes


def device(*models: dict[str, Any], name: str = "cam-1", **changes: Any) -> dict[str, Any]:
    plain_device = {
        "name": name,
        "online": True,
        "seen": 1000.0,
        "enrolled": 900.0,
        "certificate_expires": 9000.0,
        "agent": "0.1.0",
        "hardware": {"machine": "x86_64"},
        "serving": "http://127.0.0.1:1",
        "models": list(models),
    }
    return plain_device | changes


def usage(manifest: str = WANTED, variant: str = "int8", inferences: int = 5) -> dict[str, Any]:
    return {
        "model": "digits",
        "version": "1.1.0",
        "manifest": manifest,
        "variant": variant,
        "inferences": inferences,
        "failed": 1,
        "errors": {"failed": 1},
        "latency": {"p50": 0.01, "p99": 0.02},
    }


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "committed"),
        ({"running": running(OTHER)}, "waiting"),
        ({"running": None}, "waiting"),
        ({"phase": "fetching", "running": running(OTHER)}, "fetching"),
        ({"phase": "probation"}, "probation"),
        ({"running": running(OTHER), "refused": [refusal()]}, "refused"),
        ({"running": running(OTHER), "refused": [refusal(OTHER)]}, "waiting"),
        ({"running": running(OTHER), "refused": [refusal()], "desired": desired(attempt=1)}, "waiting"),
        ({"running": running(OTHER), "refused": [refusal(attempt=1)], "desired": desired(attempt=1)}, "refused"),
        ({"desired": None}, "unassigned"),
        ({"desired": None, "running": None}, "unknown"),
        ({"phase": "unknown", "running": None}, "unknown"),
    ],
)
def test_a_model_on_a_device_has_one_state(changes: dict[str, Any], state: str) -> None:
    (view,) = device_views([device(model(**changes))], {})
    assert view.models[0].state == state


@given(
    phase=st.sampled_from(PHASES),
    runs=st.none() | st.sampled_from([running(), running(OTHER)]),
    wanted=st.none() | st.sampled_from([desired(), desired(OTHER)]),
    refused=st.lists(st.sampled_from([refusal(), refusal(OTHER)]), max_size=2),
    claimed=st.booleans(),
)
def test_nothing_but_the_wanted_digest_running_at_rest_is_ever_committed(
    phase: str, runs: dict[str, str] | None, wanted: dict[str, Any] | None, refused: list[dict[str, Any]], claimed: bool
) -> None:
    told = model(phase=phase, running=runs, desired=wanted, refused=refused, committed=claimed)
    (view,) = device_views([device(told)], {})
    really = phase == "idle" and runs is not None and wanted is not None and runs["manifest"] == wanted["manifest"]
    assert (view.models[0].state == "committed") is really
    assert (count_devices([view]).committed == 1) is really


def test_the_counts_are_those_of_what_runs_now() -> None:
    told = {"cam-1": [usage(OTHER, inferences=100), usage(variant="float32", inferences=50), usage(inferences=7)]}
    (view,) = device_views([device(model())], told)
    shown = view.models[0]
    assert (shown.inferences, shown.failed, shown.errors, shown.p50_s, shown.p99_s) == (7, 1, {"failed": 1}, 0.01, 0.02)
    (nothing,) = device_views([device(model(running=None))], told)
    assert (nothing.models[0].inferences, nothing.models[0].p99_s) == (0, None)


def test_a_device_stands_where_its_worst_model_stands() -> None:
    views = device_views(
        [
            device(model(), model(model="other", running=None, refused=[refusal()]), name="refused"),
            device(model(), model(model="other", phase="fetching"), name="changing"),
            device(model(), name="committed", online=False),
            device(name="idle"),
        ],
        {},
    )
    counts = count_devices(views)
    assert (counts.total, counts.online) == (4, 3)
    assert (counts.refused, counts.changing, counts.committed, counts.idle) == (1, 1, 1, 1)


def test_releases_are_joined_by_digest_newest_first() -> None:
    published = {
        "name": "digits",
        "versions": [
            {"version": version, "manifest": manifest, "published": 1.0, "size": 10, "variants": []}
            for version, manifest in (("1.9.0", OTHER), ("1.10.0", WANTED), ("1.2.0", "sha256:" + "c" * 64))
        ],
    }
    did = {"model": "digits", "releases": [{**usage(inferences=9), "error_share": 0.1, "predictions": {"7": 9}}]}
    devices = device_views([device(model(refused=[refusal(OTHER)])), device(model(running=running(OTHER)), name="cam-2")], {})
    newest, older, oldest = release_views([published], [did], devices)
    assert [each.version for each in (newest, older, oldest)] == ["1.10.0", "1.9.0", "1.2.0"]
    assert (newest.running, newest.wanted, newest.refused, newest.inferences) == (1, 2, 0, 9)
    assert (older.running, older.wanted, older.refused, older.inferences) == (1, 0, 1, 0)
    assert (oldest.running, oldest.p50_s) == (0, None)


def test_what_an_offline_device_said_last_is_never_shown_as_success() -> None:
    (view,) = device_views([device(model(), online=False)], {})
    shown = state_of(view.models[0], online=False)
    assert "was committed" in shown
    assert "green" not in shown
    assert "green" in state_of(view.models[0], online=True)
    assert presence_of(view, 1300.0) == "[yellow]offline 5 min[/]"


def test_text_of_a_device_cannot_steer_the_terminal() -> None:
    hostile = "a\x1b[31mb\rc\x07d\u202ee[bold]f"
    assert plain(hostile) == "a [31mb c d e[bold]f"
    assert "\\[bold]" in safe(hostile)
    assert len(cut("x" * 500)) == 100


@pytest.mark.parametrize(
    ("seconds", "words"), [(-5, "0 s"), (0, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (172800, "2 d")]
)
def test_how_long_ago_is_said_in_the_unit_that_fits(seconds: float, words: str) -> None:
    assert ago(1000.0, 1000.0 + seconds) == words
