"""The operator's way to a central side that is away for a while: `edgeward rollout status --watch`, and what errors say."""

from __future__ import annotations

import httpx
import pytest

from edgeward.commands import rollout
from edgeward.connection import Connection, OperatorProfile
from edgeward.errors import ServerUnreachable

SEEN = {
    "id": 1,
    "model": "digits",
    "version": "1.0.0",
    "step": 0,
    "steps": [1.0],
    "cohort": "all",
    "detail": "",
    "counts": {"committed": 0, "failed": 0, "pending": 0, "offline": 0, "waiting": 0},
    "devices": [],
}


def central(*answers: str) -> Connection:
    """A central side that answers these states one after another, the last one for ever; `away` is no answer."""
    left = list(answers)

    def handle(_request: httpx.Request) -> httpx.Response:
        state = left.pop(0) if len(left) > 1 else left[0]
        if state == "away":
            raise httpx.ConnectError("refused")
        return httpx.Response(200, json=SEEN | {"state": state})

    client = httpx.Client(base_url="https://central", transport=httpx.MockTransport(handle))
    return Connection(OperatorProfile("https://central", "", ""), client)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout, "WATCH_S", 0.01)
    monkeypatch.setattr(rollout, "OUTAGE_S", 0.03)


@pytest.mark.parametrize("show", [True, False])
def test_a_watch_outlives_a_central_side_that_is_started_again(show: bool) -> None:
    seen = rollout.follow(central("running", "away", "away", "running", "away", "away", "succeeded"), 1, show=show)
    assert seen["state"] == "succeeded"


def test_a_central_side_that_stays_away_ends_the_watch() -> None:
    with pytest.raises(ServerUnreachable):
        rollout.follow(central("running", "away"), 1, show=False)


def test_a_certificate_out_of_its_time_makes_it_ask_for_the_clock() -> None:
    def handle(_request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("certificate verify failed: certificate is not yet valid")

    client = httpx.Client(base_url="https://central", transport=httpx.MockTransport(handle))
    with pytest.raises(ServerUnreachable, match="Is the clock right"):
        Connection(OperatorProfile("https://central", "", ""), client).request("GET", "/")
